"""Objects with named fields: the lines of a jsonl, or a list in a json; LLaVA's conversations among them."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TextIO

from open_clip_fff.data.sources import fields_or_none
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.pack.tables.chats import ANSWER_COLUMN, answers, chat_column, one_of
from open_clip_fff.tools.pack.tables.csv import LOOK, lines_about
from open_clip_fff.tools.pack.tables.reader import Cells, Reader, open_text

CHUNK = 1 << 20  # characters


class JsonRecord(NamedTuple):
    """The line of a jsonl, or the entry of a list, from 1; its fields are None if it is no object."""

    number: int
    fields: Cells | None


class RecordsReader(Reader):
    """Columns are the fields of the first records, as `records` parses them; LLaVA's conversations become captions.

    Raises UsageError if none of the first records is an object.
    """

    fixed = False

    def __init__(self, file: str, form: str, records: Callable[[TextIO], Iterator[JsonRecord]]) -> None:
        super().__init__(file)
        self.form, self._records = form, records
        with open_text(file) as text:
            found = [record.fields for record in islice(records(text), LOOK) if record.fields]
        if not found:
            raise UsageError(f"{file} holds no row: a {form} has objects with named fields, in each line or in a list")
        self._chat = chat_column(found[0])
        if self._chat is not None:
            found = [_with_captions(fields, self._chat) for fields in found]
            self.layout, self.image, self.captions = "LLaVA's conversations", "image", (ANSWER_COLUMN,)
        self.columns = list(dict.fromkeys(name for fields in found for name in fields))
        self._later: Counter[str] = Counter()  # fields that the first records lack

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        known, self._later = set(self.columns), Counter()
        with open_text(self.file) as text:
            for number, fields in self._records(text):
                if not fields:
                    where = f"{'line' if self.form == 'jsonl' else 'entry'} {number}"
                    self.skipped.append(f"{self.file}: Skipping {where}: it is no object with named fields")
                    continue
                fields = _with_captions(fields, self._chat)
                self._later.update(fields.keys() - known)
                yield {column: fields.get(column) for column in columns}

    def about(self) -> int:
        return lines_about(self.file) if self.form == "jsonl" else 0

    def unused(self) -> list[str]:
        names = ", ".join(f"{name} in {count:,}" for name, count in sorted(self._later.items()))
        return [f"fields that the first {LOOK:,} rows do not have: {names}"] if names else []


def lines_of(text: TextIO) -> Iterator[JsonRecord]:
    """The objects of a jsonl, without empty lines."""
    for number, line in enumerate(text, 1):
        if line.strip():
            yield JsonRecord(number, fields_or_none(line))


def json_records(text: TextIO) -> Iterator[JsonRecord]:
    """The objects of a json list, parsed in chunks. Raises ValueError if it is no list, or ends too early."""
    decoder, buffer, number = json.JSONDecoder(), text.read(CHUNK), 0
    place = _skip_space(buffer, 0)
    if buffer[place : place + 1] != "[":
        raise ValueError("it is no list")
    place += 1
    while True:
        place = _skip_space(buffer, place)
        if buffer[place : place + 1] == "]":
            return
        try:
            entry, end = decoder.raw_decode(buffer, place)
        except json.JSONDecodeError:
            end = len(buffer)
        if end < len(buffer):  # an entry at the buffer's end may continue
            place, number = end, number + 1
            yield JsonRecord(number, entry if isinstance(entry, dict) else None)
        elif more := text.read(max(CHUNK, len(buffer) - place)):
            buffer, place = buffer[place:] + more, 0
        else:
            raise ValueError(f"the list ends within entry {number + 1}, or holds no json there")


def _skip_space(buffer: str, place: int) -> int:
    """The position after spaces and commas."""
    while buffer[place : place + 1] in (" ", "\n", "\r", "\t", ","):
        place += 1
    return place


def _with_captions(fields: Cells, chat: str | None) -> Cells:
    """A conversation as `captions`, its answers; without `image` if it is about several."""
    if chat is None:
        return fields
    image = one_of(fields.get("image", fields.get("images")))
    rest = {name: value for name, value in fields.items() if name not in ("image", "images", chat)}
    return {"image": image, ANSWER_COLUMN: answers(fields.get(chat)), **rest}
