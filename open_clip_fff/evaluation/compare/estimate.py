"""Each model's figures with their resamples: the images of a set are drawn once for all models that saw them."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.compare.bootstrap import HitCounts, figures, resample
from open_clip_fff.evaluation.compare.columns import AVERAGE, Column, hits_of, order_of_samples
from open_clip_fff.evaluation.compare.rows import ModelRow, ScoredModel, SetKey

SEED = 20240510  # of every bootstrap: the same scores give the same intervals
OFF = 0.005  # per cent: what a figure and its outcomes may differ by


@dataclass(frozen=True)
class Estimate:
    """A model's figure, in %.

    Attributes:
        value: as clip-benchmark computed it.
        draws: float64 [resamples], None where its outcomes per image are not known.
        order: two estimates pair where this is equal: the same images were drawn, in the same order.
    """

    value: float
    draws: np.ndarray | None
    order: tuple[int, ...] = ()


@dataclass
class Estimates:
    """By model and column; and figures that their own outcomes do not give, as text."""

    found: dict[tuple[ScoredModel, Column], Estimate] = field(default_factory=dict)
    doubtful: list[str] = field(default_factory=list)


def estimate(rows: Sequence[ModelRow], columns: Sequence[Column], resamples: int) -> Estimates:
    """All figures of all models.

    Raises:
        UsageError: if models were scored on different numbers of images of a set.
    """
    estimates = Estimates()
    for column in columns:
        if column.metric != AVERAGE:
            _one(rows, column, resamples, estimates)
    for average in [column for column in columns if column.metric == AVERAGE]:
        parts = [each for each in columns if each.group == average.group and each.key[1] in average.sets]
        for model in [model for row in rows for model in row.models]:
            estimates.found[model, average] = _mean([estimates.found[model, part] for part in parts])
    return estimates


def _one(rows: Sequence[ModelRow], column: Column, resamples: int, estimates: Estimates) -> None:
    key = column.key
    scored = [model for row in rows for model in row.models if key in model.scores]
    _same_number(scored, key)
    orders = [order_of_samples(model, key) for model in scored]
    for number, order in enumerate(dict.fromkeys(orders)):
        alike = [model for model, each in zip(scored, orders, strict=True) if each == order]
        values = [100 * model.scores[key].metrics.get(column.metric, float("nan")) for model in alike]
        draws: list[np.ndarray | None] = [None] * len(alike)
        try:
            hits, trials, group = zip(*(hits_of(model.scores[key], column) for model in alike), strict=True)
            outcomes = HitCounts(np.stack(hits, axis=1), trials[0], group[0])
            # one seed for all figures of a set: they are of the same images
            rng = np.random.default_rng([SEED, zlib.crc32("/".join(key).encode()), number])
            draws = list(100 * resample(outcomes, resamples, rng).T)
            for model, value, again in zip(alike, values, 100 * figures(outcomes), strict=True):
                if not abs(value - again) < OFF:
                    place = model.folder / key[1]
                    estimates.doubtful.append(f"{place}: {column.metric} is {value:.2f}, by its samples {again:.2f}")
        except KeyError:
            pass  # a metric that is not of images: shown without an interval
        for model, value, each in zip(alike, values, draws, strict=True):
            estimates.found[model, column] = Estimate(value, each, (number,))


def _mean(parts: Sequence[Estimate]) -> Estimate:
    """Sets are drawn independently of each other, so that resamples may be averaged as they come."""
    draws = [part.draws for part in parts if part.draws is not None]
    return Estimate(
        float(np.mean([part.value for part in parts])),
        np.mean(draws, axis=0) if len(draws) == len(parts) else None,
        tuple(number for part in parts for number in part.order),
    )


def _same_number(scored: Sequence[ScoredModel], key: SetKey) -> None:
    numbers = {model.scores[key].meta["set"]["images"]: model for model in scored}
    if len(numbers) > 1:
        told = ", ".join(f"{images:,} for {model.name}" for images, model in numbers.items())
        raise UsageError(
            f"{key[1]}: scored on different numbers of images ({told}): figures of different images cannot be "
            "compared; run open-clip-fff score for all on the same data"
        )
