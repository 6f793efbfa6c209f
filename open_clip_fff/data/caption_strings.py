"""Caption strings as tensors, for hooks that read them: batches carry nothing else."""

import torch
from torch import Tensor

from open_clip_fff.data.ids import caption_hash

BYTES = "caption_bytes"  # in a batch's extras
HASHES = "caption_hashes"  # likewise; with the image's id they identify a caption
LENGTH = 512  # bytes of UTF-8; longer captions are truncated


class StringTokenizer:
    """Strings to uint8 [n, LENGTH], padded with zeros."""

    def __call__(self, texts: list[str]) -> Tensor:
        made = torch.zeros(len(texts), LENGTH, dtype=torch.uint8)
        for row, text in zip(made, texts, strict=True):
            content = text.encode()[:LENGTH]
            row[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else 0
        return made


class CaptionHashes:
    """Strings to their hashes (`data.ids.caption_hash`), int64 [n]."""

    def __call__(self, texts: list[str]) -> Tensor:
        return torch.tensor([caption_hash(text) for text in texts], dtype=torch.int64)


def strings(content: Tensor) -> list[str]:
    """The strings of uint8 [n, LENGTH], without a last character that was truncated."""
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in content.cpu().numpy()]
