"""One line for a validation with all captions."""

from collections.abc import Mapping

from open_clip_fff.host.report.recall import TOPS
from open_clip_fff.plural import plural

RECALL = "all_captions_"  # before the names in `recall`, which OpenCLIP gives to its own numbers, too
LOSS = "sigmoid_val_loss"


def validation_line(epoch: int, values: Mapping[str, float], prefix: str = "") -> str:
    """The numbers in words.

    Args:
        epoch: as OpenCLIP's evaluation counts it, the number of epochs completed.
        values: what `host.validation.validate` gave.
        prefix: as it was given there, `ema_` for one.
    """
    directions = []
    for direction in ("image_to_text", "text_to_image"):
        shares = " ".join(f"R@{k} {values[f'{prefix}{RECALL}{direction}_R@{k}']:.3f}" for k in TOPS)
        directions.append(f"{direction.replace('_', '-')} {shares}")
    who = f"{prefix.rstrip('_')} " if prefix else ""
    captions, images = int(values[f"{prefix}num_captions"]), int(values[f"{prefix}num_images"])
    seen = f"all {plural(captions, 'captions')} of {plural(images, 'images')}"
    loss = f" {LOSS} {values[prefix + LOSS]:.4f}" if prefix + LOSS in values else ""
    return f"FFF Eval Epoch: {epoch} {who}{seen}: {' '.join(directions)}{loss}"
