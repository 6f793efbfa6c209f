"""The notes below the table: what the figures are, and what their intervals include."""

import math

from open_clip_fff.evaluation.compare.columns import AVERAGE, RECALL, set_name
from open_clip_fff.evaluation.compare.rows import ModelRow
from open_clip_fff.evaluation.compare.table import ComparisonTable, draws_seeds, same_seeds
from open_clip_fff.evaluation.protocol import PROTOCOL, RECALLS, RETRIEVAL


def footnotes(table: ComparisonTable) -> list[str]:
    """The notes, a sentence or two each."""
    notes = [
        "Figures in %, changes in points. In brackets the 95 % interval of the change, from "
        f"{table.resamples:,} bootstrap resamples of a set's images, the same for both models.",
        *_seeds(table),
    ]
    average = next((column for column in table.columns if column.metric == AVERAGE), None)
    if average is not None:
        titles = ", ".join(PROTOCOL[name].title for name in average.sets)
        notes.append(f"Average: unweighted, {average.detail} sets of the paper ({titles}), resampled independently.")
    if any(column.group == RECALL for column in table.columns):
        notes.append(f"{RECALLS}, and resamples images together with their captions.")
    if any(column.detail == "per class" for column in table.columns):
        notes.append("Per class: mean per class recall.")
    names = dict.fromkeys(set_name(column.key) for column in table.columns if column.key[0] != RETRIEVAL)
    of_sets = [PROTOCOL[name] for name in names if name in PROTOCOL and PROTOCOL[name].note]
    return [*notes, *_unpaired(table), *_without_interval(table), *(f"{each.title}: {each.note}." for each in of_sets)]


def _seeds(table: ComparisonTable) -> list[str]:
    notes = []
    if any(cell.seeds > 1 for cell in table.cells.values()):
        notes.append("± is the standard deviation over seeds.")
    pairs = [(row, baseline) for row in table.rows for baseline in table.baselines if row is not baseline]
    drawn = [(row, baseline) for row, baseline in pairs if draws_seeds(row, baseline)]
    if drawn:
        text = "If row and baseline have the same number of seeds, seeds are resampled, too"
        by_order = [(row, baseline) for row, baseline in drawn if not same_seeds(row, baseline)]
        text += f", paired in the order given for {_pairs(by_order)}" if by_order else ", paired by --seed"
        notes.append(f"{text}. With so few seeds, the interval is more likely too narrow than too wide.")
    single = [row.label for row in table.rows if len(row.models) == 1]
    if single:
        rows = "each" if len(single) == len(table.rows) else f"({', '.join(single)})"
        notes.append(f"One seed {rows}: the interval does not include training noise.")
    uneven = [(a, b) for a, b in pairs if len(a.models) != len(b.models) and min(len(a.models), len(b.models)) > 1]
    if uneven:
        notes.append(
            f"Unequal numbers of seeds ({_pairs(uneven)}): only images are resampled, and the interval does not "
            "include training noise."
        )
    return notes


def _unpaired(table: ComparisonTable) -> list[str]:
    titles: dict[str, list[str]] = {}
    for (label, column), cell in table.cells.items():
        if column.metric != AVERAGE and any(not change.paired for change in cell.changes.values()):
            titles.setdefault(label, []).append(column.set_title)
    if not titles:
        return []
    listed = "; ".join(f"{label}: {', '.join(dict.fromkeys(each))}" for label, each in titles.items())
    return [
        f"Unpaired ({listed}): the images were scored in another order than the baseline's, or by another number of "
        "workers, so that each model is resampled by itself; the interval is wider than a paired one."
    ]


def _without_interval(table: ComparisonTable) -> list[str]:
    titles = [
        column.set_title
        for (_, column), cell in table.cells.items()
        if any(math.isnan(change.low) for change in cell.changes.values())
    ]
    return [f"No interval for {', '.join(dict.fromkeys(titles))}: not a mean over images."] if titles else []


def _pairs(pairs: list[tuple[ModelRow, ModelRow]]) -> str:
    return ", ".join(f"{row.label} and {baseline.label}" for row, baseline in pairs)
