"""The table as blocks of text, which terminal, markdown and page each set in their own way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from open_clip_fff.evaluation.compare.columns import AVERAGE, RECALL, Column
from open_clip_fff.evaluation.compare.rows import ModelRow
from open_clip_fff.evaluation.compare.table import Cell, Change, ComparisonTable
from open_clip_fff.evaluation.compare.warnings import captions, draws_one

NOTHING = "–"
TELLING = "Without the effect of more captions"


@dataclass(frozen=True)
class TextCell:
    """A cell as text.

    Attributes:
        value: "62.3 ± 0.4".
        change: "+1.9", empty where there is none.
        interval: "[+0.7, +3.0]", likewise.
        clear: whether the interval is on one side of zero.
    """

    value: str
    change: str = ""
    interval: str = ""
    clear: bool = False


@dataclass(frozen=True)
class TableBlock:
    """Columns that stand under one heading.

    Attributes:
        title: what the columns have in common.
        against: the label of the baseline of all changes in it.
        because: what that baseline tells apart; empty for the first baseline.
        columns: of every line.
        lines: each row's label and entries.
    """

    title: str
    against: str
    because: str
    columns: tuple[Column, ...]
    lines: tuple[tuple[str, tuple[TextCell, ...]], ...]

    @property
    def changed(self) -> list[tuple[str, tuple[TextCell, ...]]]:
        """The lines with a change in them."""
        return [line for line in self.lines if any(entry.change for entry in line[1])]


def make_blocks(table: ComparisonTable) -> list[TableBlock]:
    """A block per group of columns, then the changes against baselines that tell what a gain is due to."""
    first = table.baselines[0]
    found = [_block(table, group, table.rows, columns, first) for group, columns in table.groups()]
    partners: dict[ModelRow, list[ModelRow]] = {}
    for row in table.rows:
        partner = draws_one(row, table.baselines)
        if partner is not None and partner is not first:
            partners.setdefault(partner, []).append(row)
    telling = [column for column in table.columns if column.metric == AVERAGE or column.group == RECALL]
    for partner, rows in partners.items() if telling else ():
        because = f"which drew one of the same {captions(partner)[0]} captions"
        found.append(_block(table, TELLING, (partner, *rows), telling, partner, because))
    return found


def _block(
    table: ComparisonTable,
    title: str,
    rows: Sequence[ModelRow],
    columns: Sequence[Column],
    against: ModelRow,
    because: str = "",
) -> TableBlock:
    lines = tuple((name_of(row), tuple(_entry(table, row, column, against) for column in columns)) for row in rows)
    return TableBlock(title, against.label, because, tuple(columns), lines)


def name_of(row: ModelRow) -> str:
    """The label, and that it is a baseline."""
    return f"{row.label} (baseline)" if row.baseline else row.label


def _entry(table: ComparisonTable, row: ModelRow, column: Column, against: ModelRow) -> TextCell:
    cell, change = table.cells.get((row.label, column)), table.change(row, column, against)
    if cell is None:
        return TextCell(NOTHING)
    return TextCell(value_text(cell), *(("", "", False) if change is None else change_text(change)))


def value_text(cell: Cell) -> str:
    """62.3, or 62.3 ± 0.4 over seeds."""
    if math.isnan(cell.mean):
        return NOTHING
    return f"{cell.mean:.1f}" if math.isnan(cell.spread) else f"{cell.mean:.1f} ± {cell.spread:.1f}"


def change_text(change: Change) -> tuple[str, str, bool]:
    """+1.9 and [+0.7, +3.0], and whether that is clear."""
    if math.isnan(change.value):
        return "", "", False
    interval = "" if math.isnan(change.low) else f"[{_signed(change.low)}, {_signed(change.high)}]"
    return _signed(change.value), interval, change.clear


def _signed(points: float) -> str:
    """With its sign and a real minus; what rounds to nothing has no sign."""
    text = f"{points:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")
