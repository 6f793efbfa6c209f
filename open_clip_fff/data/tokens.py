"""From an envelope of strings to tokens, in the loader's workers."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from open_clip_fff.data.batch import CaptionBatch
from open_clip_fff.data.rows import Row, unseal
from open_clip_fff.settings.captions import CaptionSettings

Tokenizer = Callable[[list[str]], Tensor]


def _row(texts: str | Sequence[str]) -> Row:
    """OpenCLIP's pipelines hand over the string itself, its CSV data set a list of one."""
    return unseal(texts if isinstance(texts, str) else texts[0])


def _one_of(row: Row, policy: str, raw_weight: float) -> list[str]:
    """The caption that this visit uses; drawn with torch's generator, which loaders seed in every worker."""
    size, raw = len(row.captions), row.raw
    if policy != "sample" or size < 2:
        return row.captions[:1]
    if raw_weight == 1.0 or raw in (0, size):
        return [row.captions[int(torch.randint(size, ()))]]
    weights = torch.tensor([raw_weight] * raw + [1.0] * (size - raw))
    return [row.captions[int(torch.multinomial(weights, 1))]]


class CaptionTokenizer:
    """Makes one `CaptionBatch` row of an envelope, for the losses that take many captions.

    A class and not a closure, so that workers that do not fork can have it.

    Args:
        tokenizer: the model's, list of strings to int64 [n, L].
        captions: K and the policy.
        extra: more tokenizers by name, whose tokens [K, L'] ride along in `extras`.
    """

    def __init__(self, tokenizer: Tokenizer, captions: CaptionSettings, extra: Mapping[str, Tokenizer]) -> None:
        self.tokenizer, self.captions, self.extra = tokenizer, captions, dict(extra)

    def __call__(self, texts: str | Sequence[str]) -> list[CaptionBatch]:
        row, settings = _row(texts), self.captions
        captions = row.captions if settings.policy == "all" else _one_of(row, settings.policy, settings.raw_weight)
        columns = settings.columns
        captions = captions[:columns]
        padded = captions + [""] * (columns - len(captions))
        return [
            CaptionBatch(
                tokens=self.tokenizer(padded),
                valid=torch.arange(columns) < len(captions),
                ids=torch.tensor(row.id),
                extras={name: tokenizer(padded) for name, tokenizer in self.extra.items()},
            )
        ]


class OneCaptionTokenizer:
    """Makes plain tokens [1, L] of an envelope, for OpenCLIP's own losses and for validation."""

    def __init__(self, tokenizer: Tokenizer, policy: str = "first", raw_weight: float = 1.0) -> None:
        self.tokenizer, self.policy, self.raw_weight = tokenizer, policy, raw_weight

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        return self.tokenizer(_one_of(_row(texts), self.policy, self.raw_weight))
