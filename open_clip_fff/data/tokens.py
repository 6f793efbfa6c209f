"""From an envelope of strings to tokens, in the loader's workers."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.batch import CaptionBatch
from open_clip_fff.data.caption_rows import CaptionRow, deserialize

CLASSES = "image_classes"  # int64 [B], in a batch's extras where a class key is named
# likewise where features are stored: float16 [B, D], or [B, 0] of a model that sees no images; and [B, K, D]
STORED_IMAGE, STORED_TEXT = "stored_image_features", "stored_text_features"
Tokenizer = Callable[[list[str]], Tensor]


def _row(texts: str | Sequence[str]) -> CaptionRow:
    """OpenCLIP's pipelines hand over the string itself, its CSV data set a list of one."""
    return deserialize(texts if isinstance(texts, str) else texts[0])


def chosen(row: CaptionRow, policy: str, raw_weight: float) -> list[int]:
    """Positions of the captions that this visit uses; drawn with torch's generator, which loaders seed per worker."""
    size, raw = len(row.captions), row.raw
    if policy == "all":
        return list(range(size))
    if policy == "first" or size < 2:
        return [0]
    if raw_weight == 1.0 or raw in (0, size):
        return [int(torch.randint(size, ()))]
    weights = torch.tensor([raw_weight] * raw + [1.0] * (size - raw))
    return [int(torch.multinomial(weights, 1))]


def draw_captions(row: CaptionRow, settings: CaptionSettings) -> CaptionRow:
    """The row with the captions that one visit brings into a batch, and no others."""
    return row.only(chosen(row, settings.policy, settings.raw_weight)[: settings.columns])


class CaptionTokenizer:
    """Makes one `CaptionBatch` row of an envelope, for the losses that take many captions.

    A class and not a closure, so that workers that do not fork can have it.

    Args:
        tokenizer: the model's, list of strings to int64 [n, L].
        captions: K and the policy.
        extra: more tokenizers by name; what they make of K strings, [K, ...], rides along in `extras`.
    """

    def __init__(self, tokenizer: Tokenizer, captions: CaptionSettings, extra: Mapping[str, Tokenizer]) -> None:
        self.tokenizer, self.captions, self.extra = tokenizer, captions, dict(extra)

    def __call__(self, texts: str | Sequence[str]) -> list[CaptionBatch]:
        row, settings = _row(texts), self.captions
        extras = {} if settings.class_key is None else {CLASSES: torch.tensor(row.label)}
        columns = settings.columns
        places = chosen(row, settings.policy, settings.raw_weight)[:columns]
        padded = [row.captions[i] for i in places] + [""] * (columns - len(places))
        features = row.features
        if features is not None:
            extras[STORED_IMAGE] = torch.from_numpy(features.image.copy())
            extras[STORED_TEXT] = torch.zeros(columns, features.texts.shape[1], dtype=torch.float16)
            extras[STORED_TEXT][: len(places)] = torch.from_numpy(features.texts[places])
        raw = [i < row.raw for i in places] + [False] * (columns - len(places))
        return [
            CaptionBatch(
                tokens=self.tokenizer(padded),
                valid=torch.arange(columns) < len(places),
                raw=torch.tensor(raw),
                ids=torch.tensor(row.id),
                extras={**extras, **{name: tokenizer(padded) for name, tokenizer in self.extra.items()}},
            )
        ]


class OneCaptionTokenizer:
    """Makes plain tokens [1, L] of an envelope, for OpenCLIP's own losses."""

    def __init__(self, tokenizer: Tokenizer, policy: str = "first", raw_weight: float = 1.0) -> None:
        self.tokenizer, self.policy, self.raw_weight = tokenizer, policy, raw_weight

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        row = _row(texts)
        return self.tokenizer([row.captions[i] for i in chosen(row, self.policy, self.raw_weight)])
