"""json: what its content says it is."""

import json
from typing import Any

from open_clip_fff.tools.pack.tables.documents import DocumentReader
from open_clip_fff.tools.pack.tables.reader import Reader
from open_clip_fff.tools.pack.tables.records import RecordsReader, entries_of, lines_of
from open_clip_fff.tools.pack.tables.text import open_text


def json_reader(file: str) -> Reader:
    """The reader of a json: of a list of objects, of an object a line, or of one object.

    Raises:
        UsageError: if it is none that is known.
        OSError, ValueError: if it cannot be read.
    """
    with open_text(file) as text:
        first = next((line for line in text if line.strip()), "")
        second = next((line for line in text if line.strip()), "")
    if first.lstrip().startswith("[") or not first:
        return RecordsReader(file, "json", entries_of)
    if second and _is_whole(first):
        return RecordsReader(file, "jsonl", lines_of)

    def load() -> dict[str, Any]:
        with open_text(file) as text:
            document = json.load(text)
        if not isinstance(document, dict):
            raise ValueError("it is neither a list nor an object")
        return document

    return DocumentReader(file, load)


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
