"""Hostile parquet beside the shards: types, keys, files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import recorder
from tests.conftest import colour_image, write_tar
from tests.hostile.conftest import GOOD, SIZE, good_rows, train

KEYS = [f"{row:04d}" for row in range(GOOD)]
STRINGS = [texts[0] for texts in good_rows()]


class Beside:
    """Shards of raw captions, and a parquet for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shard("00")

    def shard(self, stem: str) -> None:
        samples = {key: {"png": colour_image("red", row)} for row, key in enumerate(KEYS)}
        write_tar(self.folder / f"{stem}.tar", samples)

    def write(self, table: dict | pa.Table | bytes, stem: str = "00") -> list[str]:
        path = self.folder / f"{stem}.parquet"
        if isinstance(table, bytes):
            path.write_bytes(table)
        else:
            pq.write_table(pa.table(table) if isinstance(table, dict) else table, path)
        return ["--train-data", str(self.folder / "00.tar")]

    @property
    def flags(self) -> list[str]:
        return ["--text-key", "", "--caption-sidecar", str(self.folder)]


@pytest.fixture
def beside(tmp_path) -> Beside:
    return Beside(tmp_path)


LISTS = [[text] for text in STRINGS]
NAMES = pa.array(KEYS)

ODD_PARQUET = {
    "strings": {"key": KEYS, "captions": STRINGS},
    "lists": {"key": KEYS, "captions": LISTS},
    "lists with nulls": {"key": KEYS, "captions": [[None, text, ""] for text in STRINGS]},
    "lists of lists": {"key": KEYS, "captions": [[[text], []] for text in STRINGS]},
    "large strings": {"key": NAMES.cast(pa.large_string()), "captions": pa.array(STRINGS, pa.large_string())},
    "views": {"key": NAMES.cast(pa.string_view()), "captions": pa.array(STRINGS, pa.string_view())},
    "dictionaries": {"key": NAMES.dictionary_encode(), "captions": pa.array(STRINGS).dictionary_encode()},
    "large lists": {"key": KEYS, "captions": pa.array(LISTS, pa.large_list(pa.string()))},
    "strings that say they are binary": {
        "key": NAMES.cast(pa.binary()),
        "captions": pa.array(STRINGS).cast(pa.binary()),
    },
    "binary of one width": {
        "key": pa.array([key.encode() for key in KEYS], pa.binary(4)),
        "captions": pa.array([text.encode().ljust(20, b"\0") for text in STRINGS], pa.binary(20)),
    },
    "another order, and keys of nobody": {"key": [*KEYS[::-1], "none", None], "captions": [*STRINGS[::-1], "x", "y"]},
    "more columns": {"score": [0.5] * GOOD, "captions": STRINGS, "key": KEYS},
}


@pytest.mark.parametrize("form", ODD_PARQUET)
def test_captions_in_whatever_arrow_stores_them(trainer, beside, form):
    log = train(trainer, beside.write(ODD_PARQUET[form]), GOOD, *beside.flags)
    assert recorder.rows() == recorder.rows_of(*good_rows()) and "Rows skipped" not in log


def test_a_key_of_several_rows_has_the_captions_of_all(trainer, beside):
    rows = {"key": [*KEYS, *KEYS], "captions": [*STRINGS, *(f"more {key}" for key in KEYS)]}
    train(trainer, beside.write(rows), GOOD, *beside.flags, per_image=2)
    assert recorder.rows() == recorder.rows_of(
        *([text, f"more {key}"] for key, text in zip(KEYS, STRINGS, strict=True))
    )


def test_rows_that_a_sidecar_lacks_are_counted(trainer, beside):
    content = [text.encode() for text in STRINGS]
    content[1], content[2], content[3] = None, b"", "café".encode("latin-1")  # type: ignore[call-overload]
    log = train(trainer, beside.write({"key": KEYS[:6], "captions": content[:6]}), 3, *beside.flags)
    assert recorder.rows() == recorder.rows_of(*(good_rows()[row] for row in (0, 4, 5)))
    assert "epoch 0: 5 without a caption, 1 with unreadable captions\n" in log
    assert "00.tar: 0003, captions in its sidecar, cannot be read ('utf-8'" in log


@pytest.mark.parametrize("content", [None, b"PAR1 and no more", b"<html>404</html>", "another column", "numbers"])
def test_a_later_shard_without_a_sidecar_is_counted(trainer, beside, content):
    beside.shard("01")
    beside.write({"key": KEYS, "captions": STRINGS})
    if content is not None:
        tables = {"another column": {"key": KEYS, "text": STRINGS}, "numbers": {"key": KEYS, "captions": range(GOOD)}}
        beside.write(tables.get(content, content), "01")
    data = ["--train-data", str(beside.folder / "{00..01}.tar")]
    log = train(trainer, data, GOOD, *beside.flags)
    assert recorder.rows() == recorder.rows_of(*good_rows())
    assert f"{GOOD} without a caption, {GOOD} with unreadable captions\n" in log
    assert log.count("01.parquet cannot be read (") == 1  # once for the shard
    reasons = {
        "another column": "(it has no column 'captions'; it has key, text). Going",
        "numbers": "(its column 'captions' holds int64, and not strings or lists of them). Going",
    }
    assert reasons.get(content, "") in log


def test_sidecars_that_cannot_be_meant(refused, beside):
    whole = {"key": KEYS, "captions": STRINGS}
    data = [*beside.write(whole), *SIZE]
    path = beside.folder / "00.parquet"
    content = path.read_bytes()
    damaged = content[:8] + b"\xff" * 72 + content[80:]
    latin = pa.Array.from_buffers(pa.string(), GOOD, pa.array(["café".encode("latin-1")] * GOOD).buffers())
    nothing = {"key": pa.array([], pa.string()), "captions": pa.array([], pa.string())}
    cases = {
        "cut short": (content[:-20], "00.parquet cannot be read as parquet ("),
        "no parquet": (b"key,captions\n", "00.parquet cannot be read as parquet ("),
        "nothing": (b"", "00.parquet cannot be read as parquet ("),
        "damaged within": (damaged, "00.parquet cannot be read (Couldn't deserialize"),
        "no key": ({"id": KEYS, "captions": STRINGS}, "00.parquet has no column 'key'; it has id, captions"),
        "no captions": ({"key": KEYS, "text": STRINGS}, "--sidecar-text-key captions: "),
        "no rows": (nothing, "no key of the shard is in"),
        "keys that lost their zeros": (
            {**whole, "key": range(GOOD)},
            "where the first is '0' and not '0000' as in the tar",
        ),
        "keys with the shard": (
            {**whole, "key": [f"00/{key}" for key in KEYS]},
            "where the first is '00/0000' and not",
        ),
        "null keys": ({**whole, "key": pa.array([None] * GOOD, pa.string())}, "which has no rows"),
        "objects": ({"key": KEYS, "captions": [{"text": "a"}] * GOOD}, "holds struct<text: string> there"),
        "lists of objects": ({"key": KEYS, "captions": [[{"text": "a"}]] * GOOD}, "struct<text: string>> there"),
        "numbers": ({"key": KEYS, "captions": range(GOOD)}, "holds int64 there; write strings or lists of them"),
        "nulls": ({"key": KEYS, "captions": [None] * GOOD}, "--sidecar-text-key captions: no row of 00.tar has text"),
        "latin-1": ({"key": KEYS, "captions": latin}, "00.parquet cannot be read ('utf-8' codec"),
    }
    for name, (table, expected) in cases.items():
        beside.write(dict(table, key=pa.array(table["key"])) if isinstance(table, dict) and "key" in table else table)
        assert expected in refused(*beside.flags, data=data), name
    path.unlink()
    assert "00.parquet does not exist; each shard has a parquet of its own stem there; open-clip-fff pack" in refused(
        *beside.flags, data=data
    )
    path.mkdir()
    assert "00.parquet cannot be read as parquet (" in refused(*beside.flags, data=data)
