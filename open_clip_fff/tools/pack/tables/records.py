"""Objects with named fields, one after the other: the lines of a jsonl, or a list in a json."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TextIO

from open_clip_fff.errors import UsageError
from open_clip_fff.tools.pack.tables.chats import as_captions, is_chat
from open_clip_fff.tools.pack.tables.reader import Cells, Reader
from open_clip_fff.tools.pack.tables.separated import LOOK, lines_about
from open_clip_fff.tools.pack.tables.text import open_text

CHUNK = 1 << 20  # characters


class JsonRecord(NamedTuple):
    """What stands at a line (from 1), or at a place of a list (from 1); None for what is no object."""

    number: int
    fields: Cells | None


class RecordsReader(Reader):
    """Columns are the fields of the first records; conversations about an image, as LLaVA has them, become captions.

    Args:
        file: its path.
        form: `jsonl` or `json`.
        records: goes through the file.

    Raises:
        UsageError: if none of the first records is an object.
    """

    fixed = False

    def __init__(self, file: str, form: str, records: Callable[[TextIO], Iterator[JsonRecord]]) -> None:
        super().__init__(file)
        self.form, self._records = form, records
        with open_text(file) as text:
            found = [record.fields for record in islice(records(text), LOOK) if record.fields]
        if not found:
            raise UsageError(f"{file} holds no row: a {form} has objects with named fields, in each line or in a list")
        self._chats = is_chat(found[0])
        if self._chats:
            found = [as_captions(fields) for fields in found]
            self.taken, self.image, self.captions = "LLaVA's conversations", "image", ("captions",)
        self.columns = list(dict.fromkeys(name for fields in found for name in fields))
        self._late: Counter[str] = Counter()

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        known, self._late = set(self.columns), Counter()
        with open_text(self.file) as text:
            for number, fields in self._records(text):
                if not fields:
                    where = f"{'line' if self.form == 'jsonl' else 'entry'} {number}"
                    self.skipped.append(f"{self.file}: Skipping {where}: it is no object with named fields")
                    continue
                fields = as_captions(fields) if self._chats else fields
                self._late.update(fields.keys() - known)
                yield {column: fields.get(column) for column in columns}

    def about(self) -> int:
        return lines_about(self.file) if self.form == "jsonl" else 0

    def unused(self) -> list[str]:
        met = ", ".join(f"{name} in {count:,}" for name, count in sorted(self._late.items()))
        return [f"fields that the first {LOOK:,} rows do not have: {met}"] if met else []


def lines_of(text: TextIO) -> Iterator[JsonRecord]:
    """The objects of a jsonl; empty lines are none."""
    for number, line in enumerate(text, 1):
        if line.strip():
            yield JsonRecord(number, _object(line))


def entries_of(text: TextIO) -> Iterator[JsonRecord]:
    """The objects in a list that is a json's whole content, one in memory at a time.

    Raises:
        ValueError: if it is no list, or ends too early.
    """
    decoder, buffer, number = json.JSONDecoder(), text.read(CHUNK), 0
    place = _after_space(buffer, 0)
    if buffer[place : place + 1] != "[":
        raise ValueError("it is no list")
    place += 1
    while True:
        place = _after_space(buffer, place)
        if buffer[place : place + 1] == "]":
            return
        try:
            entry, end = decoder.raw_decode(buffer, place)
        except json.JSONDecodeError:
            end = len(buffer)
        if end < len(buffer):  # what ends the text may go on
            place, number = end, number + 1
            yield JsonRecord(number, entry if isinstance(entry, dict) else None)
        elif more := text.read(max(CHUNK, len(buffer) - place)):
            buffer, place = buffer[place:] + more, 0
        else:
            raise ValueError(f"the list ends within entry {number + 1}, or holds no json there")


def _after_space(buffer: str, place: int) -> int:
    """Where the next entry or bracket stands, behind spaces and the comma."""
    while buffer[place : place + 1] in (" ", "\n", "\r", "\t", ","):
        place += 1
    return place


def _object(line: str) -> Cells | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None
