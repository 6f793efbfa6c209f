"""`open-clip-fff score`, from a clone: see open_clip_fff/commands/score.py, or --help."""

import sys
from functools import partial

from open_clip_fff.commands import score

main = partial(score.main, prog="eval/zero_shot.py")

if __name__ == "__main__":
    sys.exit(main())
