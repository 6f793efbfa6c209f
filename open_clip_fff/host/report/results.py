"""The numbers of our evaluations: the line of a validation, and the files and trackers where OpenCLIP keeps its own."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from open_clip_fff.errors import reason
from open_clip_fff.host.report.recall import TOPS
from open_clip_fff.plural import plural

RESULTS = "fff_results.jsonl"  # beside OpenCLIP's results.jsonl, whose readers know its keys
AVERAGE = "ema_"  # before the numbers of the weights' moving average

RECALL = "all_captions_"  # before the names in `recall`, which OpenCLIP gives to its own numbers, too
LOSS = "sigmoid_val_loss"


def keep_results(values: dict[str, float], epoch: int, data: dict, args, tb_writer) -> None:
    """Keeps numbers where OpenCLIP keeps its own, under other names and in a file of their own.

    Where that cannot be written, as on a full disk, a warning says so: the epoch is not saved yet.
    """
    try:
        _keep(values, epoch, data, args, tb_writer)
    except OSError as error:
        logging.warning(f"Results of epoch {epoch} are in the log alone: {reason(error)}.")


def _keep(values: dict[str, float], epoch: int, data: dict, args, tb_writer) -> None:
    tagged = {f"val/{name}": value for name, value in values.items()}
    if args.save_logs:
        if tb_writer is not None:
            for tag, value in tagged.items():
                tb_writer.add_scalar(tag, value, epoch)
        with (Path(args.checkpoint_path) / RESULTS).open("a") as file:
            file.write(json.dumps({"epoch": epoch, **values}) + "\n")
    if args.wandb:
        import wandb

        steps = data["train"].dataloader.num_batches // args.accum_freq if "train" in data else None
        wandb.log({**tagged, "epoch": epoch}, step=None if steps is None else steps * epoch)


def validation_line(epoch: int, values: Mapping[str, float], prefix: str = "", note: str = "") -> str:
    """The line in the log.

    Args:
        epoch: as OpenCLIP's evaluation counts it, the number of epochs completed.
        values, prefix: of `host.validation.validate`.
        note: on what counts as right.
    """
    directions = []
    for direction in ("image_to_text", "text_to_image"):
        shares = " ".join(f"R@{k} {values[f'{prefix}{RECALL}{direction}_R@{k}']:.3f}" for k in TOPS)
        directions.append(f"{direction.replace('_', '-')} {shares}")
    who = f"{prefix.rstrip('_')} " if prefix else ""
    captions, images = int(values[f"{prefix}num_captions"]), int(values[f"{prefix}num_images"])
    seen = f"all {plural(captions, 'captions')} of {plural(images, 'images')}{note}"
    loss = f" {LOSS} {values[prefix + LOSS]:.4f}" if prefix + LOSS in values else ""
    return f"FFF Eval Epoch: {epoch} {who}{seen}: {' '.join(directions)}{loss}"
