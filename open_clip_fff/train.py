"""`python -m open_clip_fff.train`: OpenCLIP's training with every one of its flags, and ours.

python -m open_clip_fff.train --method fff --captions-per-image 5 --json-text-key captions ... (OpenCLIP's flags)
"""

import os
import sys
from collections.abc import Sequence

from open_clip_fff.errors import OneRankError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Trains as the command line says.

    Args:
        argv: the flags, without the program's name; None takes them from the command line.

    Returns:
        0, or 2 for a mistake in flags or data, which is printed in one line.
    """
    from open_clip_fff.host.run import run  # OpenCLIP's loop is imported by whoever trains, and by no one else

    try:
        run(list(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        if isinstance(error, OneRankError) or int(os.environ.get("RANK", "0")) == 0:
            line = " ".join(str(error).split())  # the libraries that it may quote write several
            print(f"open_clip_fff.train: error: {line}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
