"""What thresholds do on a sample: cosines of own and other pairs, what each threshold would mine, how much is right."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from open_clip_fff.assignment.labels import own_pairs
from open_clip_fff.assignment.reference import similarities
from open_clip_fff.calibration.sample import Sample

CLAUSES = {"image_text": "p1", "image_image": "p2", "text_text": "p3"}  # of Eq. 1, each with its threshold
GRID = 200  # thresholds per clause
ROWS = 256  # of the sample at a time: [ROWS, n, K] cosines are made


class Cosines(NamedTuple):
    """Cosines of one clause over a sample, each sorted from the lowest, float32 [m].

    Attributes:
        own: of images with their own captions; empty for the clauses that compare images, or texts, alone.
        right: of pairs of different images of the same class; all other pairs where no class is known.
        wrong: of pairs of different classes.
    """

    own: np.ndarray
    right: np.ndarray
    wrong: np.ndarray


def cosines(sample: Sample, text_text: str = "pooled") -> dict[str, Cosines]:
    """The cosines of every pair of the sample, by clause; captions that are padding are left out.

    Args:
        sample: n images with K captions; n^2 * K cosines are kept.
        text_text: the form of S_tt.
    """
    features, labels = sample
    parts: dict[str, list[list[Tensor]]] = {clause: [[], [], []] for clause in CLAUSES}
    for start in range(0, len(labels), ROWS):
        rows = slice(start, start + ROWS)
        some = features._replace(
            image=None if features.image is None else features.image[rows],
            text=features.text[rows],
            valid=features.valid[rows],
            ids=features.ids[rows],
        )
        own = own_pairs(some.ids, features.ids)[..., None]  # [b, n, 1]
        alike = _same_class(labels[rows], labels)[..., None]
        for clause, cosine in similarities(some, features, text_text)._asdict().items():
            if cosine is None:
                continue
            counted = features.valid if cosine.shape[2] > 1 or clause == "image_text" else features.valid[:, :1] | True
            kinds = (own if clause == "image_text" else own & False, alike & ~own, ~alike & ~own)
            for part, kind in zip(parts[clause], kinds, strict=True):
                part.append(cosine[kind & counted].cpu())
    return {
        clause: Cosines(*(np.sort(torch.cat(p).numpy()) for p in kinds)) for clause, kinds in parts.items() if kinds[1]
    }


def _same_class(rows: Tensor, columns: Tensor) -> Tensor:
    """bool [b, n]; all True where no class is known, so that nothing is called wrong."""
    if bool((columns < 0).all()):
        return torch.ones(len(rows), len(columns), dtype=torch.bool, device=rows.device)
    return (rows[:, None] == columns[None]) & (columns >= 0)


def sweep(found: dict[str, Cosines], images: int, captions: float, batch: int, labelled: bool = True) -> pd.DataFrame:
    """What each clause alone would mine over a grid of thresholds.

    Args:
        found: `cosines` of a sample.
        images: n, the sample's size.
        captions: its mean number of captions per image; a mined image or text pair counts as so many.
        batch: the global batch N that is trained with.
        labelled: whether classes are known.

    Returns:
        One row per clause and threshold: `clause`, `threshold`, `mined_per_image` in a batch of N, `precision`, the
        share of it that is of the image's class (NaN where nothing is mined, or no class known).
    """
    rows = []
    for clause, (_, right, wrong) in found.items():
        both = np.concatenate([right, wrong])
        per_pair = captions if clause != "image_text" else 1.0
        factor = per_pair * (batch - 1) / (images * max(images - 1, 1))
        for threshold in np.linspace(np.quantile(both, 0.5), both.max(), GRID):
            hits, misses = (len(part) - np.searchsorted(part, threshold, side="right") for part in (right, wrong))
            precision = hits / (hits + misses) if labelled and hits + misses else float("nan")
            rows.append((clause, threshold, (hits + misses) * factor, precision))
    return pd.DataFrame(rows, columns=["clause", "threshold", "mined_per_image", "precision"])


def false_negatives(labels: np.ndarray, batches: np.ndarray) -> pd.DataFrame:
    """How many negatives of a batch are false, where images of one class match each other's captions.

    Args:
        labels: classes int64 [n] of a sample, none negative.
        batches: global batch sizes N.

    Returns:
        One row per N: `batch`, `per_image`, images of its class that an image meets on average, and `share`, images
        that meet one at all. Batches are drawn from data with the sample's shares of classes.
    """
    counts = np.bincount(np.unique(labels, return_inverse=True)[1])
    shares = counts / counts.sum()
    rows = [
        (batch, (batch - 1) * float((shares**2).sum()), float((shares * (1 - (1 - shares) ** (batch - 1))).sum()))
        for batch in batches.tolist()
    ]
    return pd.DataFrame(rows, columns=["batch", "per_image", "share"])
