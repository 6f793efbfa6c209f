"""Tokenizers of serialized rows, which run in the loader's workers."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.batch import CaptionBatch
from open_clip_fff.data.caption_rows import CaptionRow, deserialize
from open_clip_fff.data.clip_tokens import fast_tokenizer

CLASSES = "image_classes"  # int64 [B], in a batch's extras if a class key is named
# int64 [B], by which the user pairs images: with --positive-key, and with --positives
KEYS, ROWS = "positive_keys", "row_ids"
# with stored features: float16 [B, D], or [B, 0] from a text-only model; and [B, K, D]
STORED_IMAGE, STORED_TEXT = "stored_image_features", "stored_text_features"
Tokenizer = Callable[[list[str]], Tensor]  # n strings to int64 [n, L]


def _row(texts: str | Sequence[str]) -> CaptionRow:
    """OpenCLIP's pipelines pass the string itself, its CSV data set a list of one."""
    return deserialize(texts if isinstance(texts, str) else texts[0])


def draw_captions(row: CaptionRow, settings: CaptionSettings) -> CaptionRow:
    """The row with the captions for this visit only, drawn with torch's generator, which loaders seed per worker."""
    size, raw = len(row.captions), row.raw
    if settings.policy == "all":
        return row.only(range(min(size, settings.columns)))
    if settings.policy == "first" or size < 2:
        return row.only([0])
    if settings.raw_weight == 1.0 or raw in (0, size):
        return row.only([int(torch.randint(size, ()))])
    weights = torch.tensor([settings.raw_weight] * raw + [1.0] * (size - raw))
    return row.only([int(torch.multinomial(weights, 1))])


class CaptionTokenizer:
    """Makes a `CaptionBatch` row of a serialized row, for losses with K captions an image.

    A class, because spawned workers pickle it. The outputs of the tokenizers in `extra`, [K, ...], go into `extras` by
    name.
    """

    def __init__(self, tokenizer: Tokenizer, captions: CaptionSettings, extra: Mapping[str, Tokenizer]) -> None:
        self.tokenizer, self.captions = fast_tokenizer(tokenizer), captions
        self.extra = {name: fast_tokenizer(other) for name, other in extra.items()}

    def __call__(self, texts: str | Sequence[str]) -> list[CaptionBatch]:
        settings = self.captions
        row = draw_captions(_row(texts), settings)
        flags = settings.class_key, settings.positive_key, settings.positives
        numbers = zip((CLASSES, KEYS, ROWS), flags, (row.label, row.key, row.row), strict=True)
        extras = {name: torch.tensor(number) for name, flag, number in numbers if flag is not None}
        columns, size = settings.columns, len(row.captions)
        padded = row.captions + [""] * (columns - size)
        if row.features is not None:
            extras[STORED_IMAGE] = torch.from_numpy(row.features.image)
            extras[STORED_TEXT] = torch.zeros(columns, row.features.texts.shape[1], dtype=torch.float16)
            extras[STORED_TEXT][:size] = torch.from_numpy(row.features.texts)
        places = torch.arange(columns)
        return [
            CaptionBatch(
                tokens=self.tokenizer(padded),
                valid=places < size,
                raw=places < row.raw,
                ids=torch.tensor(row.id),
                extras={**extras, **{name: tokenizer(padded) for name, tokenizer in self.extra.items()}},
            )
        ]


class OneCaptionTokenizer:
    """Makes tokens [1, L] of a serialized row, for OpenCLIP's own losses."""

    def __init__(self, tokenizer: Tokenizer, captions: CaptionSettings) -> None:
        self.tokenizer, self.captions = fast_tokenizer(tokenizer), captions

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        return self.tokenizer(draw_captions(_row(texts), self.captions).captions)
