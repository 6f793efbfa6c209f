"""What fine-tuning discriminators and captioners has in common: images, schedule, loop, and writing the model."""

import argparse
import json
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from tqdm import tqdm

from open_clip_fff.atomic_io import atomic_folder
from open_clip_fff.data.shards import as_usage_errors, read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.models.transformers_weights import silenced_transformers
from open_clip_fff.tools.finetune.pairs import ImageTransform, TrainingPairs

TOKENIZER_SAMPLES = 20_000  # whose captions a tokenizer is learned from
Losses = dict[str, Tensor]


def seed_everything(seed: int) -> None:
    """Python's and torch's generators."""
    random.seed(seed)
    torch.manual_seed(seed)


def tokenizer_captions(urls: Sequence[str], reader: CaptionReader) -> list[str]:
    """Captions to learn a tokenizer from. Raises UsageError for a shard that cannot be read."""
    samples = as_usage_errors(read_samples(urls, TOKENIZER_SAMPLES), f"--train-data: {urls[0]}")
    return [caption for sample in samples for caption in reader.row(sample).captions]


def image_transforms(
    size: tuple[int, int], normalisation: tuple[Sequence[float], Sequence[float]], min_crop: float
) -> tuple[ImageTransform, ImageTransform]:
    """From an image to [3, H, W], with random crops and without; no flips, since captions say left and right.

    Args:
        size: height and width.
        normalisation: mean and standard deviation, per channel.
        min_crop: least share of an image in a crop.
    """
    last = [transforms.ToTensor(), transforms.Normalize(*normalisation)]
    bicubic = transforms.InterpolationMode.BICUBIC
    crop = transforms.RandomResizedCrop(size, scale=(min_crop, 1.0), interpolation=bicubic)
    resize = transforms.Resize(size, interpolation=bicubic)
    return transforms.Compose([crop, *last]), transforms.Compose([resize, *last])


def lr_factor(step: int, steps: int, warmup: int | None) -> float:
    """Of the highest learning rate at a step from 0: linear warm-up (a tenth of the steps for None), then cosine."""
    warmup = max(steps // 10 if warmup is None else warmup, 1)
    return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def fine_tune(
    model: Any, pairs: TrainingPairs, losses: Callable[[tuple[Tensor, list[str], Tensor]], Losses], args: Any
) -> None:
    """AdamW over the sum of the losses, in bfloat16 on CUDA, with a progress bar; leaves the model in eval mode.

    Args:
        model: of transformers, on its device.
        pairs: an endless data set.
        losses: of a batch (images, captions, ids), scalars by name.
        args: the command's flags: steps, batch_size, lr, wd, warmup, workers, device.
    """
    weights = [x for x in model.parameters() if x.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [x for x in weights if x.ndim > 1], "weight_decay": args.wd},
        {"params": [x for x in weights if x.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr if args.lr is not None else 1e-3 if args.from_config else 1e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, args.steps, args.warmup))
    kind = torch.device(args.device).type
    batches = DataLoader(pairs, args.batch_size, num_workers=args.workers, drop_last=True, pin_memory=kind == "cuda")
    model.train()
    with tqdm(total=args.steps, unit="step", mininterval=1 if sys.stderr.isatty() else 30) as bar:
        for _, batch in zip(range(args.steps), batches, strict=False):
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda"):
                values = losses(batch)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(values.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            bar.update()
            if bar.n % 20 == 0 or bar.n == args.steps:  # reading a loss waits for the device
                bar.set_postfix({name: f"{value.item():.3f}" for name, value in values.items()}, refresh=False)
    model.eval()


def save(parts: Sequence[Any], args: argparse.Namespace, name: str, record: Mapping[str, object]) -> None:
    """Model, tokenizer and image processor in transformers' format, and a json file of that name, atomically.

    Raises:
        UsageError: if they cannot be written.
    """
    try:
        with atomic_folder(args.out) as folder, silenced_transformers():
            for part in parts:
                part.save_pretrained(folder)
            (folder / name).write_text(json.dumps(record, indent=2, default=str) + "\n")
    except Exception as error:  # libraries raise different exceptions for a full disk
        raise UsageError(f"--out {args.out}: cannot be written ({reason(error)})") from error
