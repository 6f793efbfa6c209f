"""Caption strings as tensors, for hooks that read them: batches carry nothing else."""

import numpy as np
import torch
from torch import Tensor

from open_clip_fff.data.ids import text_hash

BYTES = "caption_bytes"  # in a batch's extras
HASHES = "caption_hashes"  # likewise; with the image's id they identify a caption
LENGTH = 512  # bytes of UTF-8; longer captions are truncated


def string_bytes(texts: list[str]) -> Tensor:
    """Strings to uint8 [n, LENGTH], padded with zeros."""
    content = np.array([text.encode() for text in texts], dtype=f"S{LENGTH}")
    return torch.from_numpy(content.view(np.uint8).reshape(len(texts), LENGTH))


def caption_hashes(texts: list[str]) -> Tensor:
    """Strings to their hashes (`data.ids.text_hash`), int64 [n]."""
    return torch.tensor([text_hash(text) for text in texts], dtype=torch.int64)


def strings(content: Tensor) -> list[str]:
    """The strings of uint8 [n, LENGTH], without a last character that was truncated."""
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in content.cpu().numpy()]
