"""Run by torchrun: two ranks whose captions differ in length, one of which may have none, through DDP to gradients.

torchrun --nproc-per-node 2 tests/distributed/text_worker.py OUT.pt
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from open_clip_fff import CaptionBatch
from open_clip_fff.config.text import TextSettings
from open_clip_fff.models.multi_caption import take_many_captions
from open_clip_fff.models.unpadded_text import UnpaddedRows, remove_padding
from tests.test_text_tower import built, caption_batch

LONG = ["a dog", "a long caption of a small red car on a road"]
BATCHES = {  # of each rank
    "ragged": ([["a cat", ""], ["two dogs", "a cat"]], [LONG, ["", "a dog"]]),
    "none on rank 1": ([LONG, ["two dogs", "a cat"]], [["", ""], ["", ""]]),
}
SETTINGS = {"few": TextSettings(multiple=1), "whole": TextSettings(trim=False, distinct=False)}


def gradients(model: DistributedDataParallel, batch: CaptionBatch) -> dict[str, torch.Tensor]:
    """Of a number that every valid caption and every image enters with a weight of its own."""
    model.zero_grad()
    output = model(torch.ones(2, 3, 32, 32).double(), batch)
    weights = torch.linspace(-1, 1, output["text_features"].numel()).double().view_as(output["text_features"])
    texts = output["text_features"] * weights * output["caption_valid"][..., None]
    (output["logit_scale"] * (texts.sum() + output["image_features"].pow(3).sum())).backward()
    return {name: p.grad.clone() for name, p in model.module.named_parameters()}


def packed(batch: CaptionBatch, model: DistributedDataParallel) -> UnpaddedRows:
    few = model.module.unpadded_text
    return remove_padding(batch.tokens.flatten(0, 1), batch.valid.flatten(), few.design, few.settings)


def main(out: str) -> None:
    dist.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    results = {}
    for batch_name, batches in BATCHES.items():
        batch, lengths = caption_batch(captions=batches[rank]), [None, None]
        for name, settings in SETTINGS.items():
            model = built()
            take_many_captions(model, settings)
            model = DistributedDataParallel(model)
            if not settings.as_open_clip:
                dist.all_gather_object(lengths, max(group.shape[1] for group in packed(batch, model).groups))
            results[f"{batch_name}, {name}"] = gradients(model, batch)
        results[f"{batch_name}, lengths"] = lengths
    if rank == 0:
        torch.save(results, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
