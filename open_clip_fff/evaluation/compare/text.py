"""The comparison for a terminal, and as GitHub's markdown."""

import textwrap
from collections.abc import Callable, Iterator, Sequence

from open_clip_fff.evaluation.compare.layout import TableBlock, TextCell

NARROWEST, GAP = 60, 2


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
    lines += [[_plain(label), *map(_cell, cells)] for label, cells in block.lines]
    title = f"**{block.title}**, %" + (f"; below, the change against {block.baseline}" if block.changed else "")
    rows = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join([_plain(title), "", *(f"| {row} |" for row in rows)])


def _cell(cell: TextCell) -> str:
    change = f"**{cell.change}**" if cell.clear else cell.change
    return "<br>".join(filter(None, [cell.value, f"{change} {cell.interval}".strip()]))


def _plain(text: str) -> str:
    """Escapes angle brackets, which markdown would take for HTML."""
    return text.replace("<", "&lt;")
