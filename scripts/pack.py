"""`open-clip-fff pack`, from a clone: see open_clip_fff/commands/pack.py, or --help."""

import sys
from functools import partial

from open_clip_fff.commands import pack

main = partial(pack.main, prog="scripts/pack.py")

if __name__ == "__main__":
    sys.exit(main())
