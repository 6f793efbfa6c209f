"""A plug-in that keeps every batch, so that a test can see what training saw."""

from collections import Counter

import torch
from open_clip import SimpleTokenizer
from torch import Tensor

from open_clip_fff import Batch, register_batch_hook

BATCHES: list[Batch] = []
RECORDED = ["--plugin", "tests.recorder", "--batch-hooks", "recorder", "--logit-bias-init", "-10"]  # no look before


@register_batch_hook("recorder")
class Recorder:
    def __init__(self, context) -> None:
        BATCHES.clear()

    def __call__(self, batch: Batch) -> Batch:
        BATCHES.append(batch)
        return batch


def rows() -> Counter:
    """How often each row of captions, as tuples of tokens, was trained on."""
    captions = [batch.captions for batch in BATCHES]
    return Counter(
        _row(tokens[valid]) for batch in captions for tokens, valid in zip(batch.tokens, batch.valid, strict=True)
    )


def rows_of(*captions: list[str]) -> Counter:
    """The same of rows of strings."""
    tokenizer = SimpleTokenizer(context_length=16)
    return Counter(_row(tokenizer(texts)) for texts in captions)


def ids() -> list[int]:
    """The images' ids in the order of training."""
    return torch.cat([batch.captions.ids for batch in BATCHES]).tolist()


def _row(tokens: Tensor) -> tuple:
    return tuple(map(tuple, tokens.tolist()))
