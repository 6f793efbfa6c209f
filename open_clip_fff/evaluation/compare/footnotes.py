"""What stands beneath the table: what the figures are, and what their intervals contain."""

import math

from open_clip_fff.evaluation.compare.columns import AVERAGE, RECALL
from open_clip_fff.evaluation.compare.rows import ModelRow
from open_clip_fff.evaluation.compare.table import ComparisonTable, draws_seeds, same_seeds
from open_clip_fff.evaluation.protocol import PROTOCOL, RETRIEVAL


def footnotes(table: ComparisonTable) -> list[str]:
    """A sentence or two each."""
    found = [
        "Figures in %, changes in points. In brackets the 95 % interval of the change, from "
        f"{table.resamples:,} bootstrap resamples of a set's images, the same draw for both models.",
        *_seeds(table),
        *_averages(table),
    ]
    if any(column.group == RECALL for column in table.columns):
        found.append(
            "Image → text counts the images with any own caption among the first k; text → image the captions whose "
            "image is, and resamples images together with their captions."
        )
    if any(column.detail == "per class" for column in table.columns):
        found.append("Per class: mean per class recall.")
    return [*found, *_unpaired(table), *_without_interval(table), *_sets(table)]


def _seeds(table: ComparisonTable) -> list[str]:
    found = []
    if any(cell.seeds > 1 for cell in table.cells.values()):
        found.append("± is the standard deviation over seeds.")
    pairs = [(row, baseline) for row in table.rows for baseline in table.baselines if row is not baseline]
    drawn = [(row, baseline) for row, baseline in pairs if draws_seeds(row, baseline)]
    if drawn:
        text = "Where row and baseline have the same number of seeds, seeds are drawn, too"
        by_order = [(row, baseline) for row, baseline in drawn if not same_seeds(row, baseline)]
        text += f", matched in the order given for {_pairs(by_order)}" if by_order else ", matched by --seed"
        found.append(f"{text}. From so few, the interval is rather too narrow than too wide.")
    single = [row.label for row in table.rows if len(row.models) == 1]
    if single:
        who = "each" if len(single) == len(table.rows) else f"({', '.join(single)})"
        found.append(f"One seed {who}: the interval knows nothing of training noise.")
    uneven = [(a, b) for a, b in pairs if len(a.models) != len(b.models) and min(len(a.models), len(b.models)) > 1]
    if uneven:
        found.append(
            f"Unequal numbers of seeds ({_pairs(uneven)}): only images are drawn, and the interval knows nothing of "
            "training noise."
        )
    return found


def _averages(table: ComparisonTable) -> list[str]:
    average = next((column for column in table.columns if column.metric == AVERAGE), None)
    if average is None:
        return []
    titles = ", ".join(PROTOCOL[name].title for name in average.sets)
    return [f"Average: unweighted, {average.detail} sets of the paper ({titles}), each resampled for itself."]


def _unpaired(table: ComparisonTable) -> list[str]:
    found: dict[str, list[str]] = {}
    for (label, column), cell in table.cells.items():
        if column.metric != AVERAGE and any(not change.paired for change in cell.changes.values()):
            found.setdefault(label, []).append(column.set_title)
    if not found:
        return []
    told = "; ".join(f"{label}: {', '.join(dict.fromkeys(titles))}" for label, titles in found.items())
    return [
        f"Unpaired ({told}): the images were scored in another order than the baseline's, or by another number of "
        "workers, so that each model has a draw of its own; the interval is wider than it need be."
    ]


def _without_interval(table: ComparisonTable) -> list[str]:
    titles = [
        column.set_title
        for (_, column), cell in table.cells.items()
        if any(math.isnan(change.low) for change in cell.changes.values())
    ]
    return [f"No interval for {', '.join(dict.fromkeys(titles))}: not a mean over images."] if titles else []


def _sets(table: ComparisonTable) -> list[str]:
    """What the protocol, or how it was scored, says of a set."""
    names = dict.fromkeys(column.key[1] for column in table.columns if column.key[0] != RETRIEVAL)
    return [
        f"{PROTOCOL[name].title}: {PROTOCOL[name].note}." for name in names if name in PROTOCOL and PROTOCOL[name].note
    ]


def _pairs(pairs: list[tuple[ModelRow, ModelRow]]) -> str:
    return ", ".join(f"{row.label} and {baseline.label}" for row, baseline in pairs)
