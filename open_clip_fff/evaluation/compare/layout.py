"""The table as blocks of text cells, which terminal, markdown and page each format in their own way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from open_clip_fff.evaluation.compare.columns import AVERAGE, RECALL, Column
from open_clip_fff.evaluation.compare.rows import ModelRow
from open_clip_fff.evaluation.compare.table import Change, ComparisonTable
from open_clip_fff.evaluation.compare.warnings import captions, draws_one

NOTHING = "–"
SAME_CAPTIONS = "Without the effect of more captions"


@dataclass(frozen=True)
class TextCell:
    """A cell as text."""

    value: str  # "62.3 ± 0.4"
    change: str = ""  # "+1.9", or empty
    interval: str = ""  # "[+0.7, +3.0]", or empty
    clear: bool = False  # whether the interval excludes zero


@dataclass(frozen=True)
class TableBlock:
    """Columns under one heading."""

    title: str  # the heading
    against: str  # the label of the baseline of all changes in the block
    reason: str  # why it is compared with another baseline than the first; else empty
    columns: tuple[Column, ...]  # of every line
    lines: tuple[tuple[str, tuple[TextCell, ...]], ...]  # each row's label and cells

    @property
    def changed(self) -> list[tuple[str, tuple[TextCell, ...]]]:
        """The lines that contain a change."""
        return [line for line in self.lines if any(cell.change for cell in line[1])]

    @property
    def baseline(self) -> str:
        """The baseline in words."""
        return f"{self.against}, {self.reason}" if self.reason else self.against


def make_blocks(table: ComparisonTable) -> list[TableBlock]:
    """A block per group of columns, then the changes against baselines that had the same captions."""
    first = table.baselines[0]
    blocks = [_block(table, group, table.rows, columns, first) for group, columns in table.groups()]
    partners: dict[ModelRow, list[ModelRow]] = {}
    for row in table.rows:
        partner = draws_one(row, table.baselines)
        if partner is not None and partner is not first:
            partners.setdefault(partner, []).append(row)
    columns = [column for column in table.columns if column.metric == AVERAGE or column.group == RECALL]
    for partner, rows in partners.items() if columns else ():
        reason = f"which drew one of the same {captions(partner)[0]} captions"
        blocks.append(_block(table, SAME_CAPTIONS, (partner, *rows), columns, partner, reason))
    return blocks


def _block(
    table: ComparisonTable,
    title: str,
    rows: Sequence[ModelRow],
    columns: Sequence[Column],
    against: ModelRow,
    reason: str = "",
) -> TableBlock:
    lines = tuple((name_of(row), tuple(_cell(table, row, column, against) for column in columns)) for row in rows)
    return TableBlock(title, against.label, reason, tuple(columns), lines)


def name_of(row: ModelRow) -> str:
    """The row's label, marked if it is a baseline."""
    return f"{row.label} (baseline)" if row.baseline else row.label


def _cell(table: ComparisonTable, row: ModelRow, column: Column, against: ModelRow) -> TextCell:
    cell, change = table.cells.get((row.label, column)), table.change(row, column, against)
    if cell is None or math.isnan(cell.mean):
        return TextCell(NOTHING)
    value = f"{cell.mean:.1f}" if math.isnan(cell.spread) else f"{cell.mean:.1f} ± {cell.spread:.1f}"
    return TextCell(value, *(("", "", False) if change is None else change_text(change)))


def change_text(change: Change) -> tuple[str, str, bool]:
    """+1.9 and [+0.7, +3.0], and whether the interval excludes zero."""
    if math.isnan(change.value):
        return "", "", False
    interval = "" if math.isnan(change.low) else f"[{_signed(change.low)}, {_signed(change.high)}]"
    return _signed(change.value), interval, change.clear


def _signed(points: float) -> str:
    """With sign and a real minus; zero after rounding has none."""
    text = f"{points:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")
