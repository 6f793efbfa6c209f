"""Each model's figures with their resamples; models that saw the same images share the draws."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.compare.bootstrap import HitCounts, figures, resample
from open_clip_fff.evaluation.compare.columns import AVERAGE, Column, hits_of, sample_order
from open_clip_fff.evaluation.compare.rows import ModelRow, ScoredModel, SetKey

SEED = 20240510  # of every bootstrap: the same scores give the same intervals
TOLERANCE = 0.005  # per cent, between a stored figure and the one recomputed from its samples


@dataclass(frozen=True)
class Estimate:
    """A model's figure, in %."""

    value: float  # as clip-benchmark computed it
    draws: np.ndarray | None  # float64 [resamples]; None if there are no outcomes per image
    # two estimates are paired if it is equal: the same images were drawn, in the same order
    order: tuple[int, ...] = ()


@dataclass
class Estimates:
    """The estimates by model and column, and warnings about figures that their samples contradict."""

    found: dict[tuple[ScoredModel, Column], Estimate] = field(default_factory=dict)
    contradicted: list[str] = field(default_factory=list)


def estimate(rows: Sequence[ModelRow], columns: Sequence[Column], resamples: int) -> Estimates:
    """All figures of all models; raises UsageError if models were scored on different numbers of images of a set."""
    estimates = Estimates()
    for column in columns:
        if column.metric != AVERAGE:
            _estimate_column(rows, column, resamples, estimates)
    for average in [column for column in columns if column.metric == AVERAGE]:
        parts = [each for each in columns if each.group == average.group and each.key[1] in average.sets]
        for model in [model for row in rows for model in row.models]:
            estimates.found[model, average] = _mean([estimates.found[model, part] for part in parts])
    return estimates


def _estimate_column(rows: Sequence[ModelRow], column: Column, resamples: int, estimates: Estimates) -> None:
    key = column.key
    scored = [model for row in rows for model in row.models if key in model.scores]
    _check_same_number(scored, key)
    orders = [sample_order(model, key) for model in scored]
    for number, order in enumerate(dict.fromkeys(orders)):
        paired = [model for model, each in zip(scored, orders, strict=True) if each == order]
        values = [100 * model.scores[key].metrics.get(column.metric, float("nan")) for model in paired]
        draws: list[np.ndarray | None] = [None] * len(paired)
        try:
            hits, trials, group = zip(*(hits_of(model.scores[key], column) for model in paired), strict=True)
            counts = HitCounts(np.stack(hits, axis=1), trials[0], group[0])
            # one seed for all figures of a set, since they are of the same images
            rng = np.random.default_rng([SEED, zlib.crc32("/".join(key).encode()), number])
            draws = list(100 * resample(counts, resamples, rng).T)
            for model, value, again in zip(paired, values, 100 * figures(counts), strict=True):
                if not abs(value - again) < TOLERANCE:
                    folder = model.folder / key[1]
                    sampled = f"{folder}: {column.metric} is {value:.2f}, by its samples {again:.2f}"
                    estimates.contradicted.append(sampled)
        except KeyError:
            pass  # a metric that is no mean over images: shown without an interval
        for model, value, each in zip(paired, values, draws, strict=True):
            estimates.found[model, column] = Estimate(value, each, (number,))


def _mean(parts: Sequence[Estimate]) -> Estimate:
    """The average over sets; they are drawn independently, so that resamples can be averaged in any order."""
    draws = [part.draws for part in parts if part.draws is not None]
    return Estimate(
        float(np.mean([part.value for part in parts])),
        np.mean(draws, axis=0) if len(draws) == len(parts) else None,
        tuple(number for part in parts for number in part.order),
    )


def _check_same_number(scored: Sequence[ScoredModel], key: SetKey) -> None:
    numbers = {model.scores[key].meta["set"]["images"]: model for model in scored}
    if len(numbers) > 1:
        listed = ", ".join(f"{images:,} for {model.name}" for images, model in numbers.items())
        raise UsageError(
            f"{key[1]}: scored on different numbers of images ({listed}): figures of different images cannot be "
            "compared; run open-clip-fff score for all on the same data"
        )
