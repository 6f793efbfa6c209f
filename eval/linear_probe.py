"""`open-clip-fff probe`, from a clone: see open_clip_fff/commands/probe.py, or --help."""

import sys
from functools import partial

from open_clip_fff.commands import probe

main = partial(probe.main, prog="eval/linear_probe.py")

if __name__ == "__main__":
    sys.exit(main())
