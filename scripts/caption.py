"""`open-clip-fff caption`, from a clone: see open_clip_fff/commands/caption.py, or --help."""

import sys
from functools import partial

from open_clip_fff.commands import caption

main = partial(caption.main, prog="scripts/caption.py")

if __name__ == "__main__":
    sys.exit(main())
