"""`python -m open_clip_fff.export`: a trained run as a folder that stock OpenCLIP loads.

python -m open_clip_fff.export logs/my-run --out my-model
# anywhere: open_clip.create_model_and_transforms("local-dir:my-model")
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.towers.description import CONFIG_NAME
from open_clip_fff.towers.ema import extra_path


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


def find_checkpoint(run: Path) -> Path:
    """The checkpoint itself, or the one of the highest epoch in a run folder.

    Raises:
        UsageError: if there is none.
    """
    if run.is_file():
        return run
    numbered = {
        int(match[1]): path
        for path in (run / "checkpoints").glob("epoch_*.pt")
        if (match := re.fullmatch(r"epoch_(\d+)\.pt", path.name))
    }
    if numbered:
        return numbered[max(numbered)]
    latest = run / "checkpoints" / "epoch_latest.pt"
    if latest.is_file():
        return latest
    raise UsageError(f"{run}: neither a checkpoint nor a run folder with checkpoints/epoch_N.pt")


def export(checkpoint: Path, out: Path, ema: bool = False) -> None:
    """Writes `out` from a training checkpoint and the description that the run left beside it.

    Args:
        checkpoint: as training wrote it.
        out: the folder to make.
        ema: whether to take the moving average of the weights, from the extra state beside the checkpoint.

    Raises:
        UsageError: if either cannot be read, or `out` holds anything.
    """
    from open_clip.factory import load_state_dict

    from open_clip_fff.towers.hub_folder import write_hub_folder

    description = checkpoint.resolve().parent.parent / CONFIG_NAME
    if not description.is_file():
        raise UsageError(
            f"{checkpoint}: no {CONFIG_NAME} in its run folder ({description.parent}), where open_clip_fff.train puts "
            f"one; runs of stock OpenCLIP cannot be exported yet"
        )
    try:
        weights = averaged_weights(checkpoint) if ema else load_state_dict(str(checkpoint))
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{checkpoint}: cannot be read as a checkpoint ({reason(error)})") from error
    write_hub_folder(json.loads(description.read_text()), weights, out)


def averaged_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The moving average of the weights that training kept.

    Raises:
        UsageError: if it kept none.
    """
    epoch = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["epoch"]
    extra = Path(extra_path(str(checkpoint), epoch))
    state = torch.load(extra, map_location="cpu", weights_only=True) if extra.is_file() else {}
    if "ema" not in state:
        raise UsageError(f"--ema: {checkpoint} has no moving average beside it ({extra.name}): train with --ema-decay")
    return state["ema"]["weights"]


if __name__ == "__main__":
    sys.exit(main())
