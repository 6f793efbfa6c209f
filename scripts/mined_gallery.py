"""`open-clip-fff gallery`, from a clone: see open_clip_fff/commands/gallery.py, or --help."""

import sys
from functools import partial

from open_clip_fff.commands import gallery

main = partial(gallery.main, prog="scripts/mined_gallery.py")

if __name__ == "__main__":
    sys.exit(main())
