"""Run by torchrun, with a rank per GPU: losses behind DDP, gathered and in a ring, against one process on all images.

With one rank the process group, DDP and collectives run on NCCL, and no features travel; with two or more they do.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from bench.losses import random_inputs
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from open_clip_fff import FFFLoss, MiningConfig, MultiPositiveSoftmaxLoss

SIZE = {"cuda": (2048, 5, 256), "cpu": (16, 5, 16)}  # images, captions, width
LOSSES: dict[str, Callable[..., nn.Module]] = {
    "FFF, mining": partial(FFFLoss, mining=MiningConfig(0.2, None, None, None)),
    "softmax": MultiPositiveSoftmaxLoss,
}
TOLERANCE = 1e-4  # float32, and a pair or two at the threshold


class Towers(nn.Module):
    """A linear tower for each modality."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.visual, self.text = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """L2-normalised features."""
        return F.normalize(self.visual(image), dim=-1), F.normalize(self.text(text), dim=-1)


def measure(device: torch.device, keep: Callable[[Any], None]) -> None:
    """Raises RuntimeError where ranks and one process disagree."""
    cuda, rank, ranks = device.type == "cuda", int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else device
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    collectives(device, ranks)
    n, k, width = SIZE[device.type]
    image, text, scale, bias = (x.detach() for x in random_inputs(n, k, width, device))
    own = slice(rank * n // ranks, (rank + 1) * n // ranks)
    figures: dict[str, Any] = {"backend": dist.get_backend(), "ranks": ranks, "images": n, "captions": k, "runs": []}
    for name, loss in LOSSES.items():
        alone = gradients(Towers(width).to(device), loss(), (image, text), (scale, bias))
        for way in ("gather", "ring"):
            towers, spread = DistributedDataParallel(Towers(width).to(device)), loss(rank, ranks, dist_impl=way)
            found = gradients(towers, spread, (image[own], text[own]), (scale, bias))
            error = max(((x - y).norm() / y.norm()).item() for x, y in zip(found, alone, strict=True))
            figures["runs"].append({"loss": name, "dist_impl": way, "error": error})
            if error > TOLERANCE:
                raise RuntimeError(f"{name}, {way}: {ranks} ranks are off by {error:.1e}")
            if rank == 0:
                print(f"> {figures['backend']}, {ranks} ranks, {name}, {way}: off by {error:.1e}")
    if rank == 0:
        keep(figures)
    dist.destroy_process_group()


def gradients(
    towers: nn.Module, loss: nn.Module, batch: tuple[Tensor, Tensor], scalars: tuple[Tensor, Tensor]
) -> list[Tensor]:
    """The loss, and the gradients of all weights."""
    value = loss(*towers(*batch), *scalars)
    value.backward()
    return [value.detach(), *(p.grad for p in towers.parameters() if p.grad is not None)]


def collectives(device: torch.device, ranks: int) -> None:
    """What the package exchanges: gathers of its types, sums and maxima. Raises RuntimeError for other results."""
    for dtype in (torch.float32, torch.int64, torch.int8, torch.uint8):
        mine = torch.full((3,), dist.get_rank() + 1, dtype=dtype, device=device)
        parts = [torch.empty_like(mine) for _ in range(ranks)]
        dist.all_gather(parts, mine)
        if [part[0].item() for part in parts] != list(range(1, ranks + 1)):
            raise RuntimeError(f"gathered {dtype} arrived as {parts}")
    for dtype, how, true in (
        (torch.float64, dist.ReduceOp.SUM, ranks * (ranks + 1) / 2),
        (torch.int64, dist.ReduceOp.MAX, ranks),
    ):
        value = torch.tensor(dist.get_rank() + 1, dtype=dtype, device=device)
        dist.all_reduce(value, how)
        if value.item() != true:
            raise RuntimeError(f"{how} of {dtype} over ranks is {value.item()}, not {true}")
