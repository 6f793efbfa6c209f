"""`open-clip-fff embed`, from a clone: see open_clip_fff/commands/embed.py, or --help."""

import sys
from functools import partial

from open_clip_fff.commands import embed

main = partial(embed.main, prog="scripts/embed.py")

if __name__ == "__main__":
    sys.exit(main())
