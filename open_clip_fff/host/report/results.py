"""The numbers of our evaluations: the line of a validation, and the files and trackers where OpenCLIP keeps its own."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from open_clip_fff.errors import reason
from open_clip_fff.host.report.recall import TOPS
from open_clip_fff.plural import plural

RESULTS = "fff_results.jsonl"  # beside OpenCLIP's results.jsonl, whose readers know its keys
EMA_PREFIX = "ema_"  # prefix of the moving average's metrics

RECALL_PREFIX = "all_captions_"  # prefix of the names in `recall`, which OpenCLIP's own metrics have, too
LOSS = "sigmoid_val_loss"


def keep_results(values: dict[str, float], epoch: int, data: dict, args, tb_writer) -> None:
    """Keeps numbers where OpenCLIP keeps its own, under other names and in a file of their own.

    A file that cannot be written, as on a full disk, costs a warning alone: the epoch is not saved yet.
    """
    steps = data["train"].dataloader.num_batches // args.accum_freq * epoch if "train" in data else None
    try:
        if args.save_logs:
            with (Path(args.checkpoint_path) / RESULTS).open("a") as file:
                file.write(json.dumps({"epoch": epoch, **values}) + "\n")
        track({f"val/{name}": value for name, value in values.items()}, "epoch", epoch, steps, args, tb_writer)
    except OSError as error:
        logging.warning(f"Results of epoch {epoch} are in the log alone: {reason(error)}.")


def track(values: Mapping[str, float], axis: str, at: int, wandb_step: int | None, args, tb_writer) -> None:
    """Sends metrics to the run's trackers at a step or epoch, as `axis` names it."""
    if tb_writer is not None:
        for name, value in values.items():
            tb_writer.add_scalar(name, value, at)
    if args.wandb:
        import wandb

        wandb.log({**values, axis: at}, step=wandb_step)


def validation_line(epoch: int, values: Mapping[str, float], prefix: str, note: str) -> str:
    """The log line of the `values` of `host.validation.validate`; `note` says what counts as right."""
    directions = []
    for direction in ("image_to_text", "text_to_image"):
        shares = " ".join(f"R@{k} {values[f'{prefix}{RECALL_PREFIX}{direction}_R@{k}']:.3f}" for k in TOPS)
        directions.append(f"{direction.replace('_', '-')} {shares}")
    who = f"{prefix.rstrip('_')} " if prefix else ""
    captions, images = int(values[f"{prefix}num_captions"]), int(values[f"{prefix}num_images"])
    seen = f"all {plural(captions, 'captions')} of {plural(images, 'images')}{note}"
    loss = f" {LOSS} {values[prefix + LOSS]:.4f}" if prefix + LOSS in values else ""
    return f"FFF Eval Epoch: {epoch} {who}{seen}: {' '.join(directions)}{loss}"
