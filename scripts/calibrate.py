"""`open-clip-fff calibrate`, from a clone: see open_clip_fff/commands/calibrate.py, or --help."""

import sys
from functools import partial

from open_clip_fff.commands import calibrate

main = partial(calibrate.main, prog="scripts/calibrate.py")

if __name__ == "__main__":
    sys.exit(main())
