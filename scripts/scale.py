"""`open-clip-fff scale`, from a clone: see open_clip_fff/commands/scale.py, or --help."""

import sys
from functools import partial

from open_clip_fff.commands import scale

main = partial(scale.main, prog="scripts/scale.py")

if __name__ == "__main__":
    sys.exit(main())
