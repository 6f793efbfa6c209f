"""`python -m open_clip_fff.export`: a trained run as a folder that stock OpenCLIP loads.

python -m open_clip_fff.export logs/my-run --out my-model
# anywhere: open_clip.create_model_and_transforms("local-dir:my-model")
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.errors import UsageError
from open_clip_fff.hub.checkpoints import find_checkpoint, read_ema, read_weights
from open_clip_fff.hub.description import read_description


def main(argv: Sequence[str] | None = None) -> int:
    """Exports as the command line says.

    Returns:
        0, or 2 for a mistake that the user can mend, which is printed in one line.
    """
    parser = argparse.ArgumentParser(prog="python -m open_clip_fff.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder (its last checkpoint), or a checkpoint in RUN/checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make; it must not hold anything yet")
    parser.add_argument("--ema", action="store_true", help="the moving average of the weights (--ema-decay)")
    arguments = parser.parse_args(argv)
    try:
        checkpoint = find_checkpoint(arguments.run)
        export(checkpoint, arguments.out, arguments.ema)
    except UsageError as error:
        print(f"open_clip_fff.export: error: {error}", file=sys.stderr, flush=True)
        return 2
    print(f"{'the average of ' if arguments.ema else ''}{checkpoint} exported to {arguments.out}")
    print(f'load it with open_clip.create_model_and_transforms("local-dir:{arguments.out}")')
    return 0


def export(checkpoint: Path, out: Path, ema: bool = False) -> None:
    """Writes `out` from a training checkpoint and the description that the run left beside it.

    Args:
        checkpoint: as training wrote it.
        out: the folder to make.
        ema: whether to take the moving average of the weights, from the extra state beside the checkpoint.

    Raises:
        UsageError: if either cannot be read, or `out` holds anything.
    """
    from open_clip_fff.hub.folder import write_hub_folder

    weights = read_ema(checkpoint) if ema else read_weights(checkpoint)
    write_hub_folder(read_description(checkpoint, weights), weights, out)


if __name__ == "__main__":
    sys.exit(main())
