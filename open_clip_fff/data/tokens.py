"""From an envelope of strings to tokens, in the loader's workers."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from open_clip_fff.data.batch import CaptionBatch
from open_clip_fff.data.rows import unseal
from open_clip_fff.settings.captions import CaptionSettings

Tokenizer = Callable[[list[str]], Tensor]


def _captions(texts: str | Sequence[str]) -> tuple[int, list[str]]:
    """OpenCLIP's pipelines hand over the string itself, its CSV data set a list of one."""
    return unseal(texts if isinstance(texts, str) else texts[0])


def _one_of(captions: list[str], policy: str) -> list[str]:
    """The caption that this visit uses; drawn with torch's generator, which loaders seed in every worker."""
    if policy == "sample" and len(captions) > 1:
        return [captions[int(torch.randint(len(captions), ()))]]
    return captions[:1]


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
        row_id, captions = _captions(texts)
        if self.captions.policy != "all":
            captions = _one_of(captions, self.captions.policy)
        columns = self.captions.columns
        captions = captions[:columns]
        padded = captions + [""] * (columns - len(captions))
        return [
            CaptionBatch(
                tokens=self.tokenizer(padded),
                valid=torch.arange(columns) < len(captions),
                ids=torch.tensor(row_id),
                extras={name: tokenizer(padded) for name, tokenizer in self.extra.items()},
            )
        ]


class OneCaptionTokenizer:
    """Makes plain tokens [1, L] of an envelope, for OpenCLIP's own losses and for validation."""

    def __init__(self, tokenizer: Tokenizer, policy: str = "first") -> None:
        self.tokenizer, self.policy = tokenizer, policy

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        return self.tokenizer(_one_of(_captions(texts)[1], self.policy))
