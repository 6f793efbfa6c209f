"""The table as blocks of text cells, and how a terminal and GitHub's markdown show them."""

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from open_clip_fff.config.topics import table_cell
from open_clip_fff.evaluation.compare.columns import AVERAGE, RECALL, Column
from open_clip_fff.evaluation.compare.rows import ModelRow
from open_clip_fff.evaluation.compare.table import ComparisonTable
from open_clip_fff.evaluation.compare.warnings import captions, draws_one

NARROWEST, GAP = 60, 2
NOTHING = "–"
SAME_CAPTIONS = "Without the effect of more captions"


@dataclass(frozen=True)
class TextCell:
    """A cell as text."""

    value: str  # "62.3 ± 0.4"
    change: str = ""  # "+1.9", or empty
    interval: str = ""  # "[+0.7, +3.0]", or empty
    excludes_zero: bool = False  # whether the interval does


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
    if change is None or math.isnan(change.value):
        return TextCell(value)
    interval = "" if math.isnan(change.low) else f"[{_signed(change.low)}, {_signed(change.high)}]"
    return TextCell(value, _signed(change.value), interval, change.excludes_zero)


def _signed(points: float) -> str:
    """With sign and a real minus; zero after rounding has none."""
    text = f"{points:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


# --- for a terminal


def terminal(blocks: Sequence[TableBlock], warnings: Sequence[str], notes: Sequence[str], width: int) -> str:
    """Blocks of aligned columns that fit the width, then warnings and notes."""
    width = max(width, NARROWEST)
    parts = [part for block in blocks for part in _parts(block, width)]
    parts += [_wrapped(f"WARNING: {warning}", width) for warning in warnings]
    parts += ["\n".join(_wrapped(f"- {note}", width) for note in notes)]
    return "\n\n".join(parts)


def _parts(block: TableBlock, width: int) -> Iterator[str]:
    """Figures, then changes, each split into parts of about equal width if too wide."""
    if not block.reason:  # else an earlier block has the figures
        yield from _aligned(block, f"{block.title}, %", lambda cell: cell.value, block.lines, width)
    if block.changed:
        heading = f"{block.title}: change against {block.baseline}, points [95 % interval]"
        yield from _aligned(block, heading, lambda cell: f"{cell.change} {cell.interval}".strip(), block.changed, width)


def _aligned(
    block: TableBlock,
    heading: str,
    text: Callable[[TextCell], str],
    lines: Sequence[tuple[str, Sequence[TextCell]]],
    width: int,
) -> Iterator[str]:
    """Labels aligned left, cells right, under headers of two lines."""
    columns = [
        [column.title, column.detail, *_by_point([text(cells[index]) for _, cells in lines])]
        for index, column in enumerate(block.columns)
    ]
    labels = ["", "", *(label for label, _ in lines)]
    longest = max(map(len, labels))
    for some in _fitting(columns, width - longest):
        cells = [[cell.rjust(max(map(len, column)) + GAP) for cell in column] for column in some]
        printed = [label.ljust(longest) + "".join(row) for label, *row in zip(labels, *cells, strict=True)]
        yield "\n".join([_wrapped(heading, width), *(line.rstrip() for line in printed if line.strip())])
        heading += " (continued)" if not heading.endswith(" (continued)") else ""


def _by_point(cells: list[str]) -> list[str]:
    """Aligns figures without a spread with those that have one."""
    spread = max((len(cell) - cell.index(" ±") for cell in cells if " ±" in cell), default=0)
    return [cell if " ±" in cell or not cell[:1].isdigit() else cell + " " * spread for cell in cells]


def _fitting(columns: list[list[str]], room: int) -> Iterator[list[list[str]]]:
    """As few parts as fit, with about the same number of columns each."""
    widths = [max(map(len, column)) + GAP for column in columns]
    parts = 1 if sum(widths) <= room else -(-len(columns) // max(room // max(widths), 1))
    size = -(-len(columns) // parts)
    for start in range(0, len(columns), size):
        yield columns[start : start + size]


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


# --- markdown


def markdown(blocks: Sequence[TableBlock], warnings: Sequence[str], notes: Sequence[str]) -> str:
    """A table per block, with each change below its figure, bold if its interval excludes zero."""
    parts = [_table(block) for block in blocks]
    parts += [f"> **Warning.** {_plain(warning)}" for warning in warnings]
    parts += ["\n".join(f"- {_plain(note)}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _table(block: TableBlock) -> str:
    header = ["", *(f"{column.title}<br>{column.detail}".removesuffix("<br>") for column in block.columns)]
    lines = [header, ["---", *["---:"] * len(block.columns)]]
    lines += [[_plain(label), *map(_markdown_cell, cells)] for label, cells in block.lines]
    title = f"**{block.title}**, %" + (f"; below, the change against {block.baseline}" if block.changed else "")
    return "\n".join([_plain(title), "", *(f"| {' | '.join(map(table_cell, line))} |" for line in lines)])


def _markdown_cell(cell: TextCell) -> str:
    change = f"**{cell.change}**" if cell.excludes_zero else cell.change
    return "<br>".join(filter(None, [cell.value, f"{change} {cell.interval}".strip()]))


def _plain(text: str) -> str:
    """Escapes angle brackets, which markdown would take for HTML."""
    return text.replace("<", "&lt;")
