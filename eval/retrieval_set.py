"""`open-clip-fff retrieval-set`, from a clone: see open_clip_fff/commands/retrieval_set.py, or --help."""

import sys
from functools import partial

from open_clip_fff.commands import retrieval_set

main = partial(retrieval_set.main, prog="eval/retrieval_set.py")

if __name__ == "__main__":
    sys.exit(main())
