"""`open-clip-fff train-discriminator`, from a clone: see open_clip_fff/commands/train_discriminator.py, or --help."""

import sys
from functools import partial

from open_clip_fff.commands import train_discriminator

main = partial(train_discriminator.main, prog="scripts/train_discriminator.py")

if __name__ == "__main__":
    sys.exit(main())
