"""The table of a comparison: figures, their change against each baseline, and its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby

import numpy as np
import pandas as pd

from open_clip_fff.evaluation.compare.columns import Column, columns_of
from open_clip_fff.evaluation.compare.estimate import SEED, Estimates, estimate
from open_clip_fff.evaluation.compare.rows import ModelRow

TAILS = (2.5, 97.5)  # per cent: a 95 % interval
CHANGE_COLUMNS = ("against", "change", "low", "high", "paired", "seeds_drawn")  # of table.csv


@dataclass(frozen=True)
class Change:
    """A figure minus the baseline's, in points."""

    value: float  # of the means over seeds
    low: float  # the 95 % interval; NaN without outcomes per image
    high: float
    paired: bool  # whether the same images were drawn for both
    seeds: bool  # whether seeds were resampled, too

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Cell:
    """A figure in %."""

    mean: float  # over seeds
    spread: float  # their standard deviation; NaN for one seed
    seeds: int  # their number
    changes: Mapping[str, Change]  # by the baseline's label


@dataclass(frozen=True)
class ComparisonTable:
    """The comparison."""

    rows: tuple[ModelRow, ...]  # baselines first
    columns: tuple[Column, ...]  # in order
    cells: Mapping[tuple[str, Column], Cell]  # by label and column, without those that were not scored
    resamples: int  # of the bootstrap
    contradicted: tuple[str, ...] = ()  # warnings about figures that their samples contradict

    @property
    def baselines(self) -> list[ModelRow]:
        """In the order given."""
        return [row for row in self.rows if row.baseline]

    def groups(self) -> list[tuple[str, list[Column]]]:
        """The columns by their heading."""
        return [(group, list(columns)) for group, columns in groupby(self.columns, lambda column: column.group)]

    def change(self, row: ModelRow, column: Column, against: ModelRow) -> Change | None:
        """None if one of the two was not scored, and for the baseline itself."""
        cell = self.cells.get((row.label, column))
        return None if cell is None else cell.changes.get(against.label)

    def records(self) -> pd.DataFrame:
        """The table in long form: a line for each figure and baseline."""
        baselines = {row.label for row in self.baselines}
        lines = []
        for (label, column), cell in self.cells.items():
            figure = {
                **{"label": label, "baseline": label in baselines, "group": column.group, "task": column.key[0]},
                **{"set": column.key[1], "sets": " ".join(column.sets), "metric": column.metric},
                **{"value": cell.mean, "spread": cell.spread, "seeds": cell.seeds},
            }
            changes = [(against, *astuple(change)) for against, change in cell.changes.items()]
            without = (None,) * len(CHANGE_COLUMNS)
            lines += [figure | dict(zip(CHANGE_COLUMNS, values, strict=True)) for values in changes or [without]]
        return pd.DataFrame(lines)


def make_table(rows: Sequence[ModelRow], resamples: int) -> ComparisonTable:
    """Compares rows on every set that any of them was scored on; raises UsageError if rows cannot be compared."""
    columns = columns_of(rows)
    estimates = estimate(rows, columns, resamples)
    cells = {}
    for row in rows:
        for column in columns:
            if all((model, column) in estimates.found for model in row.models):
                values = np.array([estimates.found[model, column].value for model in row.models])
                spread = values.std(ddof=1) if len(values) > 1 else np.nan
                cells[row.label, column] = Cell(
                    float(values.mean()), float(spread), len(values), _changes(row, rows, column, estimates)
                )
    return ComparisonTable(tuple(rows), tuple(columns), cells, resamples, tuple(estimates.contradicted))


def _changes(row: ModelRow, rows: Sequence[ModelRow], column: Column, estimates: Estimates) -> dict[str, Change]:
    return {
        other.label: _change(row, other, column, estimates)
        for other in rows
        if other.baseline and other is not row and all((model, column) in estimates.found for model in other.models)
    }


def _change(row: ModelRow, baseline: ModelRow, column: Column, estimates: Estimates) -> Change:
    ours = [estimates.found[model, column] for model in row.models]
    theirs = [estimates.found[baseline.models[index], column] for index in seed_order(row, baseline)]
    value = float(np.mean([each.value for each in ours]) - np.mean([each.value for each in theirs]))
    draws = [each.draws for each in (*ours, *theirs) if each.draws is not None]
    paired = len({each.order for each in (*ours, *theirs)}) == 1
    seeds = draws_seeds(row, baseline)
    if len(draws) < len(ours) + len(theirs):
        return Change(value, np.nan, np.nan, paired, seeds)
    mine, other = np.stack(draws[: len(ours)], axis=1), np.stack(draws[len(ours) :], axis=1)
    if seeds:
        # the same seeds in all columns: a seed is one trained model, good or bad on all sets at once
        drawn = np.random.default_rng([SEED, len(ours)]).integers(len(ours), size=mine.shape)
        mine, other = (np.take_along_axis(each, drawn, axis=1) for each in (mine, other))
    low, high = np.percentile(mine.mean(axis=1) - other.mean(axis=1), TAILS)
    return Change(value, float(low), float(high), paired, seeds)


def draws_seeds(row: ModelRow, baseline: ModelRow) -> bool:
    """Whether seeds are resampled: both rows have the same number, at least two."""
    return len(row.models) == len(baseline.models) > 1


def same_seeds(row: ModelRow, baseline: ModelRow) -> bool:
    """Whether --seed shows which of their models belong together."""
    ours, theirs = _seeds(row), _seeds(baseline)
    return None not in ours and len(set(ours)) == len(ours) and sorted(map(str, ours)) == sorted(map(str, theirs))


def seed_order(row: ModelRow, baseline: ModelRow) -> list[int]:
    """The indices of the baseline's models that belong to the row's: by --seed, or in the order given."""
    if same_seeds(row, baseline):
        return [_seeds(baseline).index(seed) for seed in _seeds(row)]
    return list(range(len(baseline.models)))


def _seeds(row: ModelRow) -> list[str | None]:
    return [model.params.get("seed") for model in row.models]
