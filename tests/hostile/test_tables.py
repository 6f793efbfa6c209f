"""Hostile tables: cells, files, images."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_clip_fff import sample_id
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.ids import NO_ID, class_id
from open_clip_fff.data.preview import preview_csv
from tests import recorder
from tests.conftest import colour_image, colour_sample, write_tar
from tests.hostile.conftest import FFF, FORGED, GOOD, good_rows, hostile_images, train

HOSTILE_CELLS = {
    "a number": ("2010", ["2010"]),
    "leading zeros": ("007", ["007"]),
    "an exponent": ("1e5", ["1e5"]),
    "a boolean": ("True", ["True"]),
    "missing": ("", []),
    "blanks": ("   ", []),
    "a marker of missing": ("NaN", []),
    "quotes": ('"a ""fat"" cat"', ['a "fat" cat']),
    "a line break": ('"a cat\nand a dog"', ["a cat\nand a dog"]),
    "the separator": ('"a cat\tand a dog"', ["a cat\tand a dog"]),
    "a list as Python prints it": ("\"['a cat', 'a dog']\"", ["a cat"]),  # as the next
    "a list of code": ("\"['a cat', cat]\"", ["['a cat', cat]"]),
    "a list as json": ('"[""a cat"", ""a dog""]"', ["a cat"]),  # of the two captions, K = 1
    "emoji": ("🐈 قطة", ["🐈 قطة"]),
    "NUL": ("a\0dog", ["adog"]),
    "long": ("a cat sits " * 100_000, ["a cat sits " * 100_000]),
    "our own envelope": ('"' + FORGED.replace('"', '""') + '"', [FORGED]),
    "no cell at all": (None, []),
}


class Table:
    """A tab-separated file of good rows, written with whatever is hostile."""

    head = "filepath\ttitle\n"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = [folder / f"{row}.png" for row in range(GOOD)]
        for row, image in enumerate(self.images):
            image.write_bytes(colour_image("green", row))

    @property
    def body(self) -> str:
        return "".join(f"{image}\t{text}\n" for image, (text,) in zip(self.images, good_rows(), strict=True))

    def write(self, content: str | bytes, name: str = "train.csv", column: str = "title") -> list[str]:
        (self.folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return ["--train-data", str(self.folder / name), "--csv-img-key", "filepath", "--csv-caption-key", column]


@pytest.fixture
def table(tmp_path) -> Table:
    return Table(tmp_path)


def test_hostile_cells_are_read_or_counted(trainer, table, tmp_path):
    image = table.images[0]
    lines = [f"{image}\n" if cell is None else f"{image}\t{cell}\n" for cell, _ in HOSTILE_CELLS.values()]
    expected = [texts for _, texts in HOSTILE_CELLS.values() if texts]
    log = train(trainer, table.write(table.head + table.body + "".join(lines)), GOOD + len(expected))
    assert recorder.rows() == recorder.rows_of(*good_rows(), *expected)
    assert f"Rows left out of {tmp_path}/train.csv: 4 without a caption" in log
    # rows of one image are one image's: each is the others' positive
    assert recorder.ids().count(sample_id(str(image))) == 1 + len(expected)


@pytest.mark.parametrize(
    "content",
    {
        "a byte order mark": lambda t: b"\xef\xbb\xbf" + (t.head + t.body).encode(),
        "line ends of Windows": lambda t: (t.head + t.body).replace("\n", "\r\n"),
        "blank lines": lambda t: (t.head + t.body).replace("\n", "\n\n\n"),
        "separators at the end": lambda t: (t.head + t.body).replace("\n", "\t\n"),
        "a column twice": lambda t: (t.head + t.body).replace("\n", "\ttitle\n"),
        "no line end": lambda t: (t.head + t.body).rstrip("\n"),
    }.items(),
    ids=lambda case: case[0],
)
def test_files_that_are_merely_odd(trainer, table, content):
    train(trainer, table.write(content[1](table)), GOOD)
    assert recorder.rows() == recorder.rows_of(*good_rows())


def test_images_that_are_none_in_a_csv(trainer, table, tmp_path):
    paths = {"/nowhere/1.png", str(tmp_path), ""}
    for name, content in hostile_images().items():
        (tmp_path / name).write_bytes(content)
        paths.add(str(tmp_path / name))
    lines = "".join(f"{path}\tnever seen\n" for path in sorted(paths))
    log = train(trainer, table.write(table.head + lines + table.body), GOOD + len(paths) - 1)
    assert set(recorder.rows()) == set(recorder.rows_of(*good_rows()))  # the next good row stands in
    assert f"Rows left out of {tmp_path}/train.csv: 1 without an image\n" in log
    assert f"epoch 0: {len(paths) - 1} with an unreadable member or image" in log  # each row once
    for path in paths - {""}:
        assert f"{path} cannot be read (" in log


def test_tables_that_cannot_be_meant(refused, table, tmp_path):
    whole = table.head + table.body
    missing = table.head + "".join(f"{image}\tNA\n" for image in table.images)
    parquet = pa.Table.from_pydict({"filepath": list(map(str, table.images)), "title": ["a café"] * len(table.images)})
    pq.write_table(parquet, tmp_path / "x.parquet")
    tar = write_tar(tmp_path / "x.tar", {f"{row}": colour_sample(row) for row in range(2)}).read_bytes()
    cases = {
        "nothing": ("", "train.csv cannot be read as a table (No columns"),
        "only blank lines": ("\n\n", "cannot be read as a table (No columns"),
        "only a header": (table.head, "train.csv holds no sample"),
        "another separator": (
            whole.replace("\t", ","),
            r"title (read with --csv-separator '\t'); try --csv-separator ','",
        ),
        "Excel's first line": (
            "\ufeffsep=\t\r\n" + whole,
            "train.csv begins with Excel's line on the separator, sep=, ",
        ),
        "no header": (table.body, "--csv-img-key filepath:"),
        "only missing captions": (missing, "--csv-caption-key title: no row of train.csv has text there"),
        "lists without texts": (
            missing.replace("NA", "[1]"),
            "no row of train.csv has text there; the first title is [1]",
        ),
        "a cell too many": (whole + f"{table.images[0]}\ta\tb\tc\n", "Expected 2 fields in line 10, saw 4"),
        "a quote that never ends": (whole + f'{table.images[0]}\t"a cat\n', "EOF inside string starting at row 9"),
        "latin-1": (whole.replace("good", "café").encode("latin-1"), "is not UTF-8 text ("),
        "UTF-16": (whole.encode("utf-16"), "train.csv is UTF-16; save it as UTF-8"),
        "a tar": (tar, "train.csv is not UTF-8 text"),
        "gzip": (gzip.compress(whole.encode()), "train.csv is gzip, which its name does not say; let it end in .gz"),
        "a parquet": ((tmp_path / "x.parquet").read_bytes(), "train.csv is a parquet; let its name end in .parquet"),
        "relative paths": (
            whole.replace(f"{tmp_path}/", ""),
            f"No such file or directory: '0.png'; paths start at {Path.cwd()}",
        ),
        "more cells than names": (
            table.head + table.body.replace("\n", "\t\n"),
            "more cells per row than names in its header; a cell that holds the separator, a quote or a line",
        ),
        "urls": (whole.replace(f"\n{tmp_path}", "\nhttps://x"), "'https://x/0.png'; urls are not downloaded: get"),
        "file urls": (whole.replace(f"\n{tmp_path}", "\nfile:///x"), "write paths, without file://)"),
        "no images": (table.head + "\tgood\n" * GOOD, "--csv-img-key filepath: the first rows of"),
        "images of another folder": (whole.replace(str(tmp_path), "/nowhere"), "--csv-img-key filepath: "),
    }
    for name, (content, expected) in cases.items():
        assert expected in refused(data=table.write(content)), name
    for path in tmp_path.glob("*.png"):
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert "none of the first images can be read (cannot identify image file" in refused(data=table.write(whole))
    assert "(several are separated by ;, as 'filepath;title')" in refused(
        data=table.write(whole, column="filepath,title")
    )
    assert "--csv-separator '': what is between" in refused("--csv-separator", "", data=table.write(whole))
    assert "--csv-caption-key: names no column" in refused(data=table.write(whole, column=" ; "))
    folder = ["--train-data", str(tmp_path), "--dataset-type", "csv"]
    assert "is a folder; name the table in it" in refused(data=folder)


@pytest.mark.parametrize(
    "last, says", {"un café": " is not UTF-8 text", "a cat\ta dog": " cannot be read as a table"}.items()
)
def test_what_cannot_be_read_far_down_a_csv(trainer, table, capsys, last, says):
    far = table.head + table.body * 2_000 + f"{table.images[0]}\t{last}\n"  # below what is looked at before
    assert trainer(*FFF, "--captions-per-image", "1", "--name", "x", data=table.write(far.encode("latin-1"))) == 2
    assert f"error: {table.folder}/train.csv{says}" in capsys.readouterr().err.splitlines()[-1]


def test_classes_beside_an_empty_cell_are_classes(table):
    """Pandas makes 0.0, 1.0 and NaN of 0, 1 and nothing."""
    labels = ["0", "1", "", "3", "a cat", "NaN", "0", "1"]
    rows = [f"{line}\t{label}\n" for line, label in zip(table.body.splitlines(), labels, strict=True)]
    table.write("filepath\ttitle\tlabel\n" + "".join(rows))
    settings = CaptionSettings(text_keys=("title",), class_key="label")
    assert preview_csv(f"{table.folder}/train.csv", "\t", "filepath", settings).classes == 6
    assert class_id(3.0) == class_id("3") == class_id(3) == 3 and class_id(0.5) == class_id(float("nan")) == NO_ID


def test_rows_inside_a_caption_are_told(trainer, table):
    """A quote that begins a cell ends where the next one is, rows further down."""
    rows = table.body.splitlines(keepends=True)
    rows[0] = f'{table.images[0]}\t"good 0 0\nand no row: x.png"\n'
    for row in (1, 4):
        rows[row] = f'{table.images[row]}\t"open {row}\n'
    log = train(trainer, table.write(table.head + "".join(rows)), GOOD - 3)
    assert f"train.csv: 3 rows of it are inside a caption, the first in that of {table.images[1]}, where a quote" in log


def test_a_csv_with_fewer_rows_than_a_batch(trainer, table, capsys):
    assert trainer(*FFF, "--captions-per-image", "1", "--name", "x", data=table.write(table.head + table.body)) == 2
    assert "--batch-size and --accum-freq: an epoch holds fewer rows" in capsys.readouterr().err.splitlines()[-1]
