"""A training of a model on pictures and captions: the pictures, the rate over the steps, the loop."""

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchvision import transforms
from tqdm import tqdm

from open_clip_fff.tools.finetune.pairs import Picture

Batch = TypeVar("Batch")
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Fitting:
    """How long and how fast.

    Attributes:
        steps: of the optimizer.
        rate: the highest learning rate.
        decay: AdamW's, of matrices.
        warmup: steps in which the rate rises; None for a tenth of them. Then it is half a cosine down to 0.
    """

    steps: int
    rate: float
    decay: float
    warmup: int | None = None

    def share(self, step: int) -> float:
        """Of the highest rate, at a step from 0."""
        warmup = max(self.steps // 10 if self.warmup is None else self.warmup, 1)
        return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / self.steps))


def fit(model: Any, batches: Iterable[Batch], losses: Callable[[Batch], Losses], how: Fitting, device: str) -> None:
    """AdamW over the sum of the losses, in bfloat16 on CUDA, with a bar; the model is in eval mode afterwards.

    Args:
        model: of transformers, on its device.
        batches: as many as there are steps, or more.
        losses: of a batch, scalars by the names that the bar shows.
        how: how long and how fast.
        device: the model's.
    """
    weights = [x for x in model.parameters() if x.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [x for x in weights if x.ndim > 1], "weight_decay": how.decay},
        {"params": [x for x in weights if x.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=how.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, how.share)
    kind = torch.device(device).type
    model.train()
    with tqdm(total=how.steps, unit="step", mininterval=1 if sys.stderr.isatty() else 30) as bar:
        for _, batch in zip(range(how.steps), batches, strict=False):
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda"):
                found = losses(batch)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(found.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            bar.update()
            if bar.n % 20 == 0 or bar.n == how.steps:  # a look at a loss waits for the device
                bar.set_postfix({name: f"{loss.item():.3f}" for name, loss in found.items()}, refresh=False)
    model.eval()


def pictures(
    size: tuple[int, int], normalisation: tuple[tuple[float, ...], tuple[float, ...]], least: float
) -> tuple[Picture, Picture]:
    """From a picture to [3, H, W], with random crops and without; nothing is mirrored, since captions say left.

    Args:
        size: height and width.
        normalisation: mean and standard deviation, per channel.
        least: share of a picture in a crop, above 0 and up to 1.
    """
    last = [transforms.ToTensor(), transforms.Normalize(*normalisation)]
    bicubic = transforms.InterpolationMode.BICUBIC
    crop = transforms.RandomResizedCrop(size, scale=(least, 1.0), interpolation=bicubic)
    whole = transforms.Resize(size, interpolation=bicubic)
    return transforms.Compose([crop, *last]), transforms.Compose([whole, *last])
