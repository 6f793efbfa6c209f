"""Run by torchrun: bytes that one rank holds for mining and loss, beside its own features, in a ring and gathered.

torchrun --nproc-per-node R -m tests.distributed.ring_worker OUT.json
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from open_clip_fff import FFFLoss, MiningConfig, MultiPositiveSoftmaxLoss
from open_clip_fff.losses.criterion import Criterion
from scripts.bench.memory import AliveBytes

B, K, D = 64, 5, 1024
MINING = {
    "cap": MiningConfig(0.1, 0.3, 0.3, 0.0, cap=4, band=0.05),
    "rate": MiningConfig(per_image=2.0),
    "guard": MiningConfig(0.1, None, None, None, guarded=True, warmup=1),
}


def peak(criterion: Criterion, rank: int) -> int:
    """Bytes at the peak of one step's loss and backward."""
    g = torch.Generator().manual_seed(rank)
    image = F.normalize(torch.randn(B, D, generator=g), dim=-1).requires_grad_()
    text = F.normalize(torch.randn(B, K, D, generator=g), dim=-1).requires_grad_()
    scale, bias = (torch.tensor(x, requires_grad=True) for x in (10.0, -5.0))
    given = {"mining_image_features": image.detach(), "mining_text_features": text.detach()}
    if criterion.miner is not None and criterion.miner.config.guarded:  # the one step of the warm-up
        criterion.assignment(image, text, **given)
        criterion.after_step()
        criterion.miner.reference = 0.5
    with AliveBytes(image, text) as counted:
        criterion(image, text, scale, bias, **given).backward()
    return counted.peak


def main(out: str) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    peaks = {}
    for way in ("ring", "gather"):
        losses = {
            "fff": FFFLoss(rank, world_size, dist_impl=way),
            "softmax": MultiPositiveSoftmaxLoss(rank, world_size, dist_impl=way),
        }
        for loss_name, loss in losses.items():
            for mining_name, mining in MINING.items():
                criterion = Criterion(loss, mining, rank, world_size)
                peaks[f"{way} {loss_name} {mining_name}"] = peak(criterion, rank)
    if rank == 0:
        Path(out).write_text(json.dumps(peaks))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
