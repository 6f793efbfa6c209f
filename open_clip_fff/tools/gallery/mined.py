"""Eq. 1 on a sample: the pairs that it mines, and those just below the thresholds."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.clauses import Candidates, candidates, prepared, select
from open_clip_fff.mining.labels import own_pairs
from open_clip_fff.mining.rate import RateThresholds
from open_clip_fff.mining.reference import MiningFeatures, Thresholds
from open_clip_fff.mining.tiles import AREA, tiles
from open_clip_fff.numerics import exact_float32
from open_clip_fff.progress import progress
from open_clip_fff.tools.gallery.pairs import MinedRow, NearestPairs, margins

WINDOW, BINS = 0.05, 50  # of the histogram, which goes that far below and above the thresholds
THRESHOLD_STEPS = (0.005, 0.01, 0.02, 0.05)  # by which all thresholds might be moved


class MinedSample(NamedTuple):
    """What Eq. 1 mines in a sample treated as one batch."""

    thresholds: Thresholds  # as numbers
    pairs: int  # mined
    images: int  # images that mine any
    by_clause: tuple[int, ...]  # mined pairs for which each clause of Eq. 1 holds
    near: int  # pairs at most WINDOW below the thresholds
    cut: int  # pairs that pass the thresholds and exceed the cap
    ignored: int | None  # ignored pairs, in a band below the thresholds or cut; None without a band
    right: int | None  # mined pairs within a class; None if no class is known
    more: tuple[int, ...]  # for each of STEPS, how many pairs (before a cap) lower thresholds add
    fewer: tuple[int, ...]  # likewise, that higher thresholds remove
    histogram: Tensor  # pairs by margin, int64 [BINS] from -WINDOW to WINDOW
    mined: list[MinedRow]  # nearest above the thresholds
    nearly: list[MinedRow]  # nearest below them


@torch.no_grad()
def find_thresholds(features: MiningFeatures, config: MiningConfig, batch: int) -> Thresholds:
    """The given thresholds, or those at which the sample mines at the given rate in batches of N = `batch`."""
    if config.per_image is None:
        return Thresholds.of(config)
    images = len(features.ids)
    if config.cap is None:
        # pairs grow with the batch: the same share of n - 1 others as of N - 1
        config = replace(config, per_image=config.per_image * (images - 1) / (batch - 1))
        batch = images
    batch, rate = min(batch, images), RateThresholds(config)
    for start in range(0, images - batch + 1, batch):  # a cap's effect depends on the batch
        columns = prepared(features.subset(slice(start, start + batch)), config.text_text)
        rate.keep(rate.observe(partial(_all_pairs, columns, config.text_text))[0])
    thresholds = rate.thresholds()
    assert thresholds is not None
    return Thresholds(*(None if x is None else float(x) for x in thresholds))


def _all_pairs(images: MiningFeatures, text_text: str) -> Iterator[Candidates]:
    """All pairs of a batch; training counts only some rows' pairs, and averages over steps."""
    number, area = images.valid.numel(), AREA.on(images.valid.device)
    for columns in progress(list(tiles(len(images.ids), max(area // number, 1))), desc="thresholds"):
        with exact_float32(images.valid.device):
            found = candidates(images, images.subset(columns), text_text)
        yield found


@torch.no_grad()
def mine_sample(
    features: MiningFeatures, config: MiningConfig, thresholds: Thresholds, show: int, labels: Tensor | None = None
) -> MinedSample:
    """Mines a sample of n images as one batch, with the form of S_tt, the cap and the band of `config`.

    `labels` are classes int64 [n], negative where unknown; None if all are. `show` rows of each part are kept.
    """
    columns, parts = prepared(features, config.text_text), []
    with exact_float32(features.text.device):
        area = AREA.on(features.valid.device)
        for rows in progress(list(tiles(len(features.ids), max(area // features.valid.numel(), 1))), desc="mining"):
            found = candidates(columns.subset(rows), columns, config.text_text)
            right = None if labels is None else own_pairs(labels[rows], labels) & (labels >= 0)
            parts.append(_mine_tile(found, config, thresholds, right))
    counts, per_row, histogram, mined, nearly = zip(*parts, strict=True)
    above, below = torch.cat(per_row).unbind(dim=1)
    pairs, cut, ignored, right, *others = torch.stack(counts).sum(dim=0).tolist()
    return MinedSample(
        thresholds=thresholds,
        pairs=pairs,
        images=int((above > 0).sum()),
        by_clause=tuple(others[:3]),
        near=int(below.sum()),
        cut=cut,
        ignored=ignored if config.band else None,
        right=None if labels is None or bool((labels < 0).all()) else right,
        more=tuple(others[3 : 3 + len(THRESHOLD_STEPS)]),
        fewer=tuple(others[3 + len(THRESHOLD_STEPS) :]),
        histogram=torch.stack(histogram).sum(dim=0),
        mined=NearestPairs.concatenated(mined).rows(show, above),
        nearly=NearestPairs.concatenated(nearly).rows(show, below),
    )


def _mine_tile(
    found: Candidates, config: MiningConfig, thresholds: Thresholds, right: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, NearestPairs, NearestPairs]:
    """For some rows: the counts of `MinedSample`, pairs above and below by row [b, 2], histogram, nearest pairs."""
    mined = select(found, thresholds, config)
    margin = margins(found.similarity, thresholds, found.others.shape)
    others = found.allowed(config.margin)
    passed = mined.clauses.any & others
    nearly = others & ~passed & (margin > -WINDOW)
    none = torch.zeros_like(passed)
    counted = [
        mined.pairs,
        passed & ~mined.pairs,
        none if mined.ignored is None else mined.ignored,
        none if right is None else mined.pairs & right[..., None],
        *(mined.pairs & clause for clause in mined.clauses),
        *(others & ~passed & (margin > -step) for step in THRESHOLD_STEPS),
        *(passed & (margin <= step) for step in THRESHOLD_STEPS),
    ]
    counts = torch.stack([pairs.sum() for pairs in counted]).cpu()
    per_row = torch.stack([pairs.sum(dim=(1, 2)) for pairs in (mined.pairs, nearly)], dim=1).cpu()
    histogram = torch.histc(margin[others].float(), BINS, -WINDOW, WINDOW).long().cpu()
    nearest = (NearestPairs.of(pairs, margin, found.similarity) for pairs in (mined.pairs, nearly))
    return counts, per_row, histogram, *nearest  # type: ignore[return-value]
