"""`open-clip-fff compare`, from a clone: see open_clip_fff/commands/compare.py, or --help."""

import sys
from functools import partial

from open_clip_fff.commands import compare

main = partial(compare.main, prog="eval/compare.py")

if __name__ == "__main__":
    sys.exit(main())
