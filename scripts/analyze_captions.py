"""`open-clip-fff analyze`, from a clone: see open_clip_fff/commands/analyze.py, or --help."""

import sys
from functools import partial

from open_clip_fff.commands import analyze

main = partial(analyze.main, prog="scripts/analyze_captions.py")

if __name__ == "__main__":
    sys.exit(main())
