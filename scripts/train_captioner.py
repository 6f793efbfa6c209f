"""`open-clip-fff train-captioner`, from a clone: see open_clip_fff/commands/train_captioner.py, or --help."""

import sys
from functools import partial

from open_clip_fff.commands import train_captioner

main = partial(train_captioner.main, prog="scripts/train_captioner.py")

if __name__ == "__main__":
    sys.exit(main())
