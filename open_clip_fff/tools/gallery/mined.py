"""Eq. 1 on a sample, for a person to look at: the pairs that it mines, and those that it nearly does."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.clauses import Candidates, candidates, prepared, select
from open_clip_fff.mining.labels import own_pairs
from open_clip_fff.mining.rate import RateThresholds
from open_clip_fff.mining.reference import MiningFeatures, Thresholds
from open_clip_fff.mining.tiles import AREA, tiles
from open_clip_fff.numerics import exact_float32
from open_clip_fff.tools.gallery.pairs import Nearest, Row, margins

WINDOW, BINS = 0.05, 50  # of the histogram: so far below and above the thresholds
STEPS = (0.005, 0.01, 0.02, 0.05)  # by which all thresholds might be moved


class Found(NamedTuple):
    """What Eq. 1 finds in a sample that is one batch.

    Attributes:
        thresholds: numbers.
        pairs: that are mined, and `images` that mine any.
        by_clause: mined pairs for which each clause of Eq. 1 holds.
        near: pairs that are at most WINDOW below.
        cut: pairs that pass the thresholds, and the cap leaves out.
        doubtful: pairs that are ignored, in a band below the thresholds or cut; None without a band.
        right: mined pairs within a class; None where no class is known.
        more, fewer: for each of STEPS, how many pairs (before a cap) lower thresholds add and higher ones take.
        histogram: pairs by margin, int64 [BINS] from -WINDOW to WINDOW.
        mined, nearly: the rows in doubt first: the least above, and the least below the thresholds.
    """

    thresholds: Thresholds
    pairs: int
    images: int
    by_clause: tuple[int, ...]
    near: int
    cut: int
    doubtful: int | None
    right: int | None
    more: tuple[int, ...]
    fewer: tuple[int, ...]
    histogram: Tensor
    mined: list[Row]
    nearly: list[Row]


def find_thresholds(features: MiningFeatures, config: MiningConfig, batch: int) -> Thresholds:
    """Numbers: those that were typed, or those at which the sample mines at the rate of batches of N = `batch`."""
    if config.per_image is None:
        return Thresholds.of(config)
    images, k = features.valid.shape
    if config.cap is None:
        # the more images meet, the more there is to mine: as large a share of n - 1 others as of N - 1
        config = replace(config, per_image=config.per_image * (images - 1) / (batch - 1))
        batch = images
    batch, rate = min(batch, images), RateThresholds(config)
    for start in range(0, images - batch + 1, batch):  # what a cap leaves is a matter of each batch
        columns = features.subset(slice(start, start + batch))
        rows = columns.subset(rate.sampled(batch, batch, k))

        def looks(rows: MiningFeatures = rows, columns: MiningFeatures = columns) -> Iterable[Candidates]:
            with exact_float32(columns.text.device):
                found = candidates(rows, columns, config.text_text)
            yield found

        rate.keep(rate.observe(looks)[0])
    thresholds = rate.thresholds()
    assert thresholds is not None
    return Thresholds(*(None if x is None else float(x) for x in thresholds))


@torch.no_grad()
def find(
    features: MiningFeatures,
    config: MiningConfig,
    thresholds: Thresholds,
    show: int,
    labels: Tensor | None = None,
    progress: Callable[[list[slice]], Iterable[Any]] = iter,
) -> Found:
    """Mines a sample as one batch.

    Args:
        features: of n images.
        config: the form of S_tt, cap and band.
        thresholds: of Eq. 1, numbers.
        show: rows of each part.
        labels: classes int64 [n], negative where not known; None where none are.
        progress: is handed the tiles of rows, a bar, say.
    """
    columns, parts = prepared(features, config.text_text), []
    with exact_float32(features.text.device):
        for rows in progress(list(tiles(len(features.ids), max(AREA // features.valid.numel(), 1)))):
            found = candidates(columns.subset(rows), columns, config.text_text)
            right = None if labels is None else own_pairs(labels[rows], labels) & (labels >= 0)
            parts.append(_tile(found, config, thresholds, right))
    counts, per_row, histogram, mined, nearly = zip(*parts, strict=True)
    above, below = torch.cat(per_row).unbind(dim=1)
    pairs, cut, doubtful, right, *others = torch.stack(counts).sum(dim=0).tolist()
    return Found(
        thresholds=thresholds,
        pairs=pairs,
        images=int((above > 0).sum()),
        by_clause=tuple(others[:3]),
        near=int(below.sum()),
        cut=cut,
        doubtful=doubtful if config.band else None,
        right=None if labels is None or bool((labels < 0).all()) else right,
        more=tuple(others[3 : 3 + len(STEPS)]),
        fewer=tuple(others[3 + len(STEPS) :]),
        histogram=torch.stack(histogram).sum(dim=0),
        mined=Nearest.together(mined).rows(show, above),
        nearly=Nearest.together(nearly).rows(show, below),
    )


def _tile(
    found: Candidates, config: MiningConfig, thresholds: Thresholds, right: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Nearest, Nearest]:
    """Of some rows: counts as `Found` has them, pairs above and just below per row [b, 2], a histogram, both parts."""
    mined = select(found, thresholds, config)
    margin = margins(found.similarity, thresholds, found.others.shape)
    passed = mined.clauses.any & found.others
    nearly = found.others & ~passed & (margin > -WINDOW)
    none = torch.zeros_like(passed)
    counted = [
        mined.pairs,
        passed & ~mined.pairs,
        none if mined.doubtful is None else mined.doubtful,
        none if right is None else mined.pairs & right[..., None],
        *(mined.pairs & clause for clause in mined.clauses),
        *(found.others & ~passed & (margin > -step) for step in STEPS),
        *(passed & (margin <= step) for step in STEPS),
    ]
    counts = torch.stack([pairs.sum() for pairs in counted]).cpu()
    per_row = torch.stack([pairs.sum(dim=(1, 2)) for pairs in (mined.pairs, nearly)], dim=1).cpu()
    histogram = torch.histc(margin[found.others].float(), BINS, -WINDOW, WINDOW).long().cpu()
    parts = (Nearest.among(pairs, margin, found.similarity) for pairs in (mined.pairs, nearly))
    return counts, per_row, histogram, *parts  # type: ignore[return-value]
