"""Photographs with their human captions, written in the formats of other projects: equal batches from equal content.

Flickr8k is no part of the repository: where $SHARED_DATA does not name its folder, these tests are skipped.
"""

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from open_clip_fff.data.shards import read_samples
from tests import recorder
from tests.conftest import Trainer, write_tar
from tests.test_training import assert_equal_checkpoints

FLICKR = Path(os.environ.get("SHARED_DATA", "")) / "flickr8k" / "train-00.tar"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FLICKR.exists(), reason="$SHARED_DATA names no folder with flickr8k/train-00.tar"),
]

ROWS, SHARDS = 96, 2
STILL = ["--aug-cfg", "scale=(1.0,1.0)"]  # the same pixels at every visit


class Photograph(NamedTuple):
    """A JPEG and five captions, each one sentence."""

    key: str
    jpg: bytes
    captions: list[str]


@pytest.fixture(scope="module")
def photographs() -> list[Photograph]:
    return [
        Photograph(
            sample["__key__"], sample["jpg"], [sentence(text) for text in json.loads(sample["json"])["captions"]]
        )
        for sample in read_samples([str(FLICKR)], ROWS)
    ]


def sentence(caption: str) -> str:
    return re.sub(r"\s*[.!?]+", "", caption).strip() + "."


def encoded(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def flair(a: str, b: str, c: str, d: str, e: str) -> dict[str, bytes]:
    """FLAIR's recaptions: short ones as strings or lists, long ones as paragraphs, all in one json."""
    fields = {"shortIB_captions": [b], "longIB_captions": f"{d} {e}", "shortSV_captions": c, "raw_caption": a}
    return {"json": encoded(**fields, longLLA_captions="Beyond K. And beyond.", url="https://x/1.jpg")}


def dreamlip(a: str, *rest: str) -> dict[str, bytes]:
    """DreamLIP's: paragraphs of three captioners, cut into sentences."""
    b, c, d, e = rest
    fields = {"raw_caption": a, "longIB_captions": f"{b} {c}", "longSV_captions": d, "longLLA_captions": [e]}
    return {"json": encoded(**fields)}


def mobileclip(first: str, *rest: str) -> dict[str, bytes]:
    """DataCompDR's: synthetic captions, augmentations and embeddings in members of their own."""
    augmentation = encoded(param_aug="[[0.1, 0.2, 0.9, 0.8]]")
    return {"txt": first.encode(), "syn.json": encoded(syn_text=rest), "paug.json": augmentation, "pth.gz": b"\x1f\x8b"}


# by name: what is written for five captions, and the flags that read it
FORMATS = {
    "one list": (lambda *texts: {"json": encoded(captions=texts)}, ["--json-text-key", "captions"]),
    "members": (
        lambda *texts: dict(zip(("txt", "a", "b", "c", "d"), map(str.encode, texts), strict=True)),
        ["--text-key", "txt;a;b;c;d"],
    ),
    "FLAIR": (
        flair,
        ["--json-text-key", "raw_caption;re:short.*_captions;re:long(IB|LLA)_captions", "--split-sentences"],
    ),
    "DreamLIP": (dreamlip, ["--json-text-key", "raw_caption;re:long.*_captions", "--split-sentences"]),
    "MobileCLIP": (mobileclip, ["--text-key", "txt", "--json-text-key", "syn.json:syn_text"]),
    "objects": (
        lambda *texts: {"json": encoded(meta={"all": [{"text": text, "score": 1} for text in texts]})},
        ["--json-text-key", "meta.all.text"],
    ),
    "sidecar, a list": (None, ["--caption-sidecar", "HERE/lists"]),
    "sidecar, a paragraph": (None, ["--caption-sidecar", "HERE/paragraphs", "--split-sentences"]),
    "sidecar, a row per caption": (None, ["--caption-sidecar", "HERE/rows"]),
    "sidecar, a column per caption": (None, ["--caption-sidecar", "HERE/columns", "--sidecar-text-key", "0;1;2;3;4"]),
    "text and sidecar": (
        lambda first, *_: {"txt": first.encode()},
        ["--text-key", "txt", "--caption-sidecar", "HERE/generated"],
    ),
}


def write_sidecars(folder: Path, stem: str, rows: list[Photograph]) -> None:
    keys = [row.key for row in rows]
    tables = {
        "lists": {"captions": [row.captions for row in rows]},
        "paragraphs": {"captions": [" ".join(row.captions) for row in rows]},
        "columns": {str(n): [row.captions[n] for row in rows] for n in range(5)},
        "generated": {"captions": [row.captions[1:] for row in rows]},
    }
    tables = {name: {"key": keys, **columns} for name, columns in tables.items()}
    tables["rows"] = {"key": keys * 5, "captions": [row.captions[n] for n in range(5) for row in rows]}
    for name, table in tables.items():
        (folder / name).mkdir(exist_ok=True)
        pq.write_table(pa.table(table), folder / name / f"{stem}.parquet")


def train(trainer: Trainer, name: str, data: list[str], *flags: str) -> list:
    """Six steps of 16 images with five captions each; returns the batches."""
    fff = ["--method", "fff", "--mining-features", "off", "--captions-per-image", "5", *recorder.RECORDED, *STILL]
    assert trainer(*fff, *flags, "--name", name, data=data) == 0
    assert len(recorder.BATCHES) == 6
    return list(recorder.BATCHES)


def train_on_tars(trainer: Trainer, folder: Path, name: str, photographs: list[Photograph]) -> list:
    """The same, from tars in a format of `FORMATS`."""
    members, flags = FORMATS[name]
    (folder / name).mkdir()
    for shard in range(SHARDS):
        rows = photographs[shard::SHARDS]
        samples = {row.key: {"jpg": row.jpg, **(members(*row.captions) if members else {})} for row in rows}
        write_tar(folder / name / f"{shard:02d}.tar", samples)
        write_sidecars(folder / name, f"{shard:02d}", rows)
    flags = [flag.replace("HERE", str(folder / name)) for flag in flags]
    data = ["--train-data", str(folder / name / "{00..01}.tar"), "--train-num-samples", str(ROWS)]
    return train(trainer, name, data, *([] if "--text-key" in flags else ["--text-key", ""]), *flags)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "one list"])
def test_the_format_changes_nothing(trainer, tmp_path, photographs, name):
    reference = train_on_tars(trainer, tmp_path, "one list", photographs)
    batches = train_on_tars(trainer, tmp_path, name, photographs)
    for ours, theirs in zip(batches, reference, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert ours.captions.valid.all()
        for field in ("tokens", "valid", "ids"):
            assert torch.equal(getattr(ours.captions, field), getattr(theirs.captions, field)), field
    assert_equal_checkpoints(trainer.checkpoint(name), trainer.checkpoint("one list"))


def test_a_csv_holds_the_same_rows_as_the_tars(trainer, tmp_path, photographs):
    """Its order and its ids are its own, so the rows are compared: each image with its captions, once."""

    def rows(batches: list) -> Counter:
        pairs = [pair for b in batches for pair in zip(b.images, b.captions.tokens, b.captions.valid, strict=True)]
        return Counter((image.numpy().tobytes(), tokens[valid].numpy().tobytes()) for image, tokens, valid in pairs)

    tars = rows(train_on_tars(trainer, tmp_path, "one list", photographs))
    names = ["title", "blip", "blip2", "llava", "human"]
    lines = ["\t".join(["filepath", *names])]
    for row in photographs:
        (tmp_path / f"{row.key}.jpg").write_bytes(row.jpg)
        quoted = ['"' + text.replace('"', '""') + '"' for text in row.captions]
        lines.append("\t".join([str(tmp_path / f"{row.key}.jpg"), *quoted]))
    (tmp_path / "train.csv").write_text("\n".join(lines))
    data = ["--train-data", str(tmp_path / "train.csv"), "--csv-img-key", "filepath"]
    assert rows(train(trainer, "csv", [*data, "--csv-caption-key", ";".join(names)])) == tars
    assert len(tars) == len(set(recorder.ids())) == ROWS
