"""How many captions of others an image mines in a batch of N, by stored sentence features: counted, and extrapolated.

Batches are drawn at random, so the expected number is (N - 1) times K times the share of all pairs that are mined; that
share is counted over all pairs of the data, and holds for every N.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from digits.study import markdown
from torch import Tensor

from open_clip_fff.data.data_sets import parquet_name
from open_clip_fff.data.features import FEATURE_COLUMN, unpack_features
from open_clip_fff.data.shards import read_samples
from open_clip_fff.errors import UsageError

SIZES = (256, 1024, 4096, 32768)
THRESHOLDS = (0.8, 0.85, 0.9, 0.95, 0.99)
ROWS = 1024  # images whose pairs are counted at a time


def table(shards: Sequence[str], sidecar: Path) -> str:
    """A row for each threshold on the cosine of two images' mean caption (Eq. 1's third clause, `pooled`).

    The tars have classes (`cls`) or none; the sidecar has features of `open-clip-fff embed --mining-features text`.
    """
    texts, classes, k = _read(shards, sidecar)
    counts = _counts(texts, classes)
    rows = []
    for threshold, (mined, right) in zip(THRESHOLDS, counts, strict=True):
        share = mined / (len(texts) * (len(texts) - 1))
        row = {"p3": f"{threshold:g}", "share of pairs": f"{share:.2g}"}
        row |= {f"mined an image, N = {size:,}": f"{share * (size - 1) * k:.3g}" for size in SIZES}
        if classes is not None:
            row["of one class"] = f"{right / mined:.0%}" if mined else "–"
        rows.append(row)
    return f"{len(texts):,} images, {k:g} captions each\n\n{markdown(pd.DataFrame(rows))}"


def _read(shards: Sequence[str], sidecar: Path) -> tuple[Tensor, Tensor | None, float]:
    """Pooled features [n, D], classes int64 [n] or None, and captions per image. UsageError without stored ones."""
    pooled, classes, captions = [], [], 0
    for shard in shards:
        path = sidecar / parquet_name(shard)
        if not path.exists():
            raise UsageError(f"--features {sidecar}: no {path.name} there, of {shard}")
        stored = pd.read_parquet(path).set_index("key")[FEATURE_COLUMN]
        for sample in read_samples([shard]):
            content = stored.get(sample["__key__"])
            if content is None:
                continue
            texts = torch.from_numpy(unpack_features(content).texts).float()
            pooled.append(F.normalize(F.normalize(texts, dim=-1).mean(dim=0), dim=0))
            captions += len(texts)
            classes.append(int(sample["cls"]) if "cls" in sample else -1)
    known = torch.tensor(classes)
    return torch.stack(pooled), None if (known < 0).any() else known, captions / len(pooled)


def _counts(texts: Tensor, classes: Tensor | None) -> list[tuple[int, int]]:
    """Ordered pairs of different images above each threshold, and those of one class."""
    counts = np.zeros((len(THRESHOLDS), 2), dtype=np.int64)
    for start in range(0, len(texts), ROWS):
        rows = slice(start, start + ROWS)
        cosines = texts[rows] @ texts.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -1.0
        for place, threshold in enumerate(THRESHOLDS):
            mined = cosines > threshold
            right = mined & (classes[rows, None] == classes) if classes is not None else mined[:0]
            counts[place] += int(mined.sum()), int(right.sum())
    return [(int(mined), int(right)) for mined, right in counts]
