"""Shared by all fine-tuning: image transforms, schedule, loop, and writing a model of transformers."""

import argparse
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torchvision import transforms

from open_clip_fff.atomic_io import atomic_folder
from open_clip_fff.data.shards import as_usage_errors, read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError, as_mistake, error_message
from open_clip_fff.models.transformers_weights import silenced_transformers
from open_clip_fff.numerics import not_finite
from open_clip_fff.progress import progress
from open_clip_fff.tools.finetune.pairs import ImageTransform

TOKENIZER_SAMPLES = 20_000  # whose captions a tokenizer is learned from
Losses = dict[str, Tensor]


def seed_everything(seed: int) -> None:
    """Seeds Python's and torch's generators."""
    random.seed(seed)
    torch.manual_seed(seed)


def tokenizer_captions(urls: Sequence[str], reader: CaptionReader) -> list[str]:
    """Captions to learn a tokenizer from. Raises UsageError for a shard that cannot be read."""
    samples = as_usage_errors(read_samples(urls, TOKENIZER_SAMPLES), f"--train-data: {urls[0]}")
    return [caption for sample in samples for caption in reader.row(sample).captions]


def image_transforms(
    size: tuple[int, int], normalisation: tuple[Sequence[float], Sequence[float]], min_crop: float
) -> tuple[ImageTransform, ImageTransform]:
    """Transforms of an image to [3, H, W], with and without random crops; no flips: captions say left and right.

    `size` is height and width, `normalisation` mean and standard deviation per channel, `min_crop` the least share of
    an image in a crop.
    """
    last = [transforms.ToTensor(), transforms.Normalize(*normalisation)]
    bicubic = transforms.InterpolationMode.BICUBIC
    crop = transforms.RandomResizedCrop(size, scale=(min_crop, 1.0), interpolation=bicubic)
    resize = transforms.Resize(size, interpolation=bicubic)
    return transforms.Compose([crop, *last]), transforms.Compose([resize, *last])


def lr_factor(step: int, steps: int, warmup: int | None) -> float:
    """The factor on --lr at a step from 0: the lower of a linear warm-up and a cosine over all steps.

    `warmup` None is a tenth of the steps. The two meet near 0.98 for a warm-up of a tenth, near 0.72 for a half.
    """
    warmup = max(steps // 10 if warmup is None else warmup, 1)
    return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def fine_tune(
    model: nn.Module,
    data: IterableDataset,
    losses: Callable[[Any], Losses],
    args: Any,
    rates: Mapping[nn.Module, float] | None = None,
    after_step: Callable[[int], None] = lambda step: None,
) -> dict[str, float]:
    """AdamW over the sum of the losses, in bfloat16 on CUDA, with a progress bar; leaves the model in eval mode.

    Args:
        model: on its device.
        data: endless.
        losses: of a batch of `data`, scalars by name.
        args: the command's flags: steps, batch_size, lr, wd, warmup, workers, device.
        rates: learning rates of the model's parts, in place of --lr; None for args.lr in all of it.
        after_step: called with the number of steps done, from 1; it may change the model's mode.

    Returns the losses of the last step; training ends early at losses that are not finite.

    Raises UsageError for errors of the data, in one line.
    """
    groups: list[dict[str, Any]] = []
    for part, rate in ({model: args.lr} if rates is None else rates).items():
        weights = [x for x in part.parameters() if x.requires_grad]
        groups.append({"params": [x for x in weights if x.ndim > 1], "lr": rate, "weight_decay": args.wd})
        groups.append({"params": [x for x in weights if x.ndim < 2], "lr": rate, "weight_decay": 0.0})
    trained = [x for group in groups for x in group["params"]]
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, args.steps, args.warmup))
    kind = torch.device(args.device).type
    batches = DataLoader(data, args.batch_size, num_workers=args.workers, drop_last=True, pin_memory=kind == "cuda")
    with plain_errors(), progress(total=args.steps, unit="step", delay=0, leave=True) as bar:
        for _, batch in zip(range(args.steps), batches, strict=False):
            model.train()
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda"):
                values = losses(batch)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(values.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            bar.update()
            if bar.n % 20 == 0 or bar.n == args.steps:  # reading a loss waits for the device
                found = {name: value.item() for name, value in values.items()}
                bar.set_postfix({name: f"{value:.3f}" for name, value in found.items()}, refresh=False)
                if not all(map(math.isfinite, found.values())):
                    break
            after_step(bar.n)
    model.eval()
    return found


def check_trained(model: nn.Module, losses: Mapping[str, float], args: argparse.Namespace) -> None:
    """Raises UsageError if the last losses, or the weights that the last step left, are not finite."""
    bad = next((f"{name} {value}" for name, value in losses.items() if not math.isfinite(value)), None)
    if bad is None and (name := not_finite(model.state_dict())) is not None:
        bad = f"{name} is not finite"
    if bad is not None:
        raise UsageError(f"--lr {args.lr:g}: training diverged ({bad}), and nothing is written; lower it")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Keeps a loader worker's error to one line, without the worker's traceback."""
    try:
        yield
    except UsageError as error:
        raise UsageError(error_message(error)) from error


def save(parts: Sequence[Any], args: argparse.Namespace, name: str, record: Mapping[str, object]) -> None:
    """Model, tokenizer and image processor in transformers' format, and a json file of that name, atomically.

    Raises UsageError if they cannot be written.
    """
    # libraries raise different exceptions for a full disk
    writing = as_mistake(f"--out {args.out}: cannot be written", Exception)
    with writing, atomic_folder(args.out) as folder, silenced_transformers():
        for part in parts:
            part.save_pretrained(folder)
        (folder / name).write_text(json.dumps(record, indent=2, default=str) + "\n")
