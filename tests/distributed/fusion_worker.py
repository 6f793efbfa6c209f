"""Run by torchrun, or alone: the fusion model's loss of eight pairs through DDP, on one rank or on two.

torchrun --nproc-per-node 2 -m tests.distributed.fusion_worker OUT.pt
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from open_clip_fff import CaptionBatch
from open_clip_fff.config.connection import UNDECIDED
from open_clip_fff.config.fusion import FusionSettings
from open_clip_fff.losses.fusion import FusionLoss
from open_clip_fff.mining.hardest import Hardest
from open_clip_fff.models.fusion import Fusion, FusionSizes, FusionSlot
from open_clip_fff.models.multi_caption import take_many_captions
from open_clip_fff.models.tower_tokens import TowerTokens
from tests.test_text_tower import built, caption_batch

TEXTS = [["a dog"], ["a long caption of a small red car"], ["two cats"], ["a cat on a road"]] * 2
HARDEST = [1, 0, 3, 2, 6, 7, 4, 5]  # within each half
LABELS = [1, -1, -1, UNDECIDED, UNDECIDED, UNDECIDED, -1, -1]  # more pairs are dropped in one half than in the other


def main(out: str) -> None:
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    own = slice(rank * 8 // ranks, (rank + 1) * 8 // ranks)
    model = built()
    take_many_captions(model)
    model.tower_tokens = TowerTokens(model)
    torch.manual_seed(3)
    sizes = FusionSizes(1, 32, model.tower_tokens.image_width, model.tower_tokens.text_width)
    network = Fusion(sizes).double()
    model.fusion = FusionSlot(network)
    model = DistributedDataParallel(model)
    images = torch.randn(8, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    captions = caption_batch(captions=TEXTS[own])
    captions = CaptionBatch(*captions[:3], torch.arange(8)[own], {})
    first = torch.tensor(HARDEST)[own] - own.start
    labels = torch.tensor(LABELS, dtype=torch.int8)[own]
    loss = FusionLoss(
        network, model.module.tower_tokens.describe, FusionSettings(1, mlm_weight=0.0), rank=rank, world_size=ranks
    )
    output = model(images[own], captions)
    terms = loss(**output, labelled=(Hardest(first, first[:, None]), labels, labels[:, None]))
    # DDP wants every parameter used: a contrastive loss's part is played by a mean over images
    others = output["image_features"].pow(3).mean() + output["text_features"].pow(3).mean()
    (terms["itm_loss"] + output["logit_scale"] * others).backward()
    if rank == 0:
        gradients = {name: p.grad for name, p in model.module.named_parameters() if p.grad is not None}
        torch.save({"loss": terms["itm_loss"].detach(), "gradients": gradients}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1])
