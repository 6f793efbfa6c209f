"""The comparison for a terminal, and as GitHub's markdown."""

import textwrap
from collections.abc import Callable, Iterator, Sequence

from open_clip_fff.evaluation.compare.layout import TableBlock, TextCell

NARROWEST, GAP = 60, 2


def terminal(blocks: Sequence[TableBlock], notices: Sequence[str], notes: Sequence[str], width: int) -> str:
    """Blocks of aligned columns, each as wide as fits, then what must be known."""
    width = max(width, NARROWEST)
    parts = [part for block in blocks for part in _parts(block, width)]
    parts += [_wrapped(f"NOTICE: {notice}", width) for notice in notices]
    parts += ["\n".join(_wrapped(f"- {note}", width) for note in notes)]
    return "\n\n".join(parts)


def _parts(block: TableBlock, width: int) -> Iterator[str]:
    """Figures, then changes; in several parts of about equal width where one is too wide."""
    if not block.because:  # else the figures stand in a block before
        yield from _aligned(block, f"{block.title}, %", lambda entry: entry.value, block.lines, width)
    if block.changed:
        heading = f"{block.title}: change against {block.against}{_because(block)}, points [95 % interval]"
        yield from _aligned(
            block, heading, lambda entry: f"{entry.change} {entry.interval}".strip(), block.changed, width
        )


def _because(block: TableBlock) -> str:
    return f", {block.because}" if block.because else ""


def _aligned(
    block: TableBlock,
    heading: str,
    text: Callable[[TextCell], str],
    lines: Sequence[tuple[str, Sequence[TextCell]]],
    width: int,
) -> Iterator[str]:
    """Labels to the left, the others to the right, under headers of two lines."""
    columns = [
        [column.title, column.detail, *_by_point([text(entries[place]) for _, entries in lines])]
        for place, column in enumerate(block.columns)
    ]
    labels = ["", "", *(label for label, _ in lines)]
    longest = max(map(len, labels))
    for some in _fitting(columns, width - longest):
        cells = [[cell.rjust(max(map(len, column)) + GAP) for cell in column] for column in some]
        printed = [label.ljust(longest) + "".join(row) for label, *row in zip(labels, *cells, strict=True)]
        yield "\n".join([_wrapped(heading, width), *(line.rstrip() for line in printed if line.strip())])
        heading += " (continued)" if not heading.endswith(" (continued)") else ""


def _by_point(cells: list[str]) -> list[str]:
    """A figure of one seed under those with a spread."""
    spread = max((len(cell) - cell.index(" ±") for cell in cells if " ±" in cell), default=0)
    return [cell if " ±" in cell or not cell[:1].isdigit() else cell + " " * spread for cell in cells]


def _fitting(columns: list[list[str]], room: int) -> Iterator[list[list[str]]]:
    """As few parts as fit, and these of about the same number of columns."""
    most = max(max(map(len, column)) for column in columns) + GAP
    parts = -(-len(columns) // max(room // most, 1))
    if sum(max(map(len, column)) + GAP for column in columns) <= room:
        parts = 1
    size = -(-len(columns) // parts)
    for start in range(0, len(columns), size):
        yield columns[start : start + size]


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


# --- markdown


def markdown(blocks: Sequence[TableBlock], notices: Sequence[str], notes: Sequence[str]) -> str:
    """A table per block, a change beneath its figure, bold where the interval is on one side of zero."""
    parts = [_table(block) for block in blocks]
    parts += [f"> **Notice.** {_plain(notice)}" for notice in notices]
    parts += ["\n".join(f"- {_plain(note)}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _table(block: TableBlock) -> str:
    header = ["", *(f"{column.title}<br>{column.detail}".removesuffix("<br>") for column in block.columns)]
    lines = [header, ["---", *["---:"] * len(block.columns)]]
    lines += [[_plain(label), *map(_cell, entries)] for label, entries in block.lines]
    title = f"**{block.title}**, %"
    title += f"; beneath, the change against {block.against}{_because(block)}" if block.changed else ""
    return "\n".join([_plain(title), "", *(f"| {' | '.join(map(_escaped, line))} |" for line in lines)])


def _cell(entry: TextCell) -> str:
    change = f"**{entry.change}**" if entry.clear else entry.change
    return "<br>".join(filter(None, [entry.value, f"{change} {entry.interval}".strip()]))


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _plain(text: str) -> str:
    """The angles of a name are no HTML."""
    return text.replace("<", "&lt;")
