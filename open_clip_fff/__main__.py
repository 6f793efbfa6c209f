"""`python -m open_clip_fff COMMAND …`, as `open-clip-fff`; torchrun takes `-m open_clip_fff`, too."""

import sys

from open_clip_fff.cli import main

if __name__ == "__main__":
    sys.exit(main())
