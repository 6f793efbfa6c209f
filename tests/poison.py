"""A plug-in that makes the images of some steps not finite, on one rank or all: POISON='3,4' or '3,4@1'."""

import os

import torch

from open_clip_fff import Batch, register_batch_hook

FLAGS = ["--plugin", "tests.poison", "--batch-hooks", "poison", "--logit-bias-init", "-10"]  # no look before the steps


@register_batch_hook("poison")
class Poison:
    def __init__(self, context) -> None:
        steps, _, rank = os.environ["POISON"].partition("@")
        self.steps = set(map(int, steps.split(","))) if rank in ("", str(context.rank)) else set()
        self.step = 0

    def __call__(self, batch: Batch) -> Batch:
        self.step += 1
        return batch._replace(images=torch.full_like(batch.images, torch.nan)) if self.step in self.steps else batch
