"""Damaged rows, plug-ins and programs: read, counted or refused with a message."""

import getpass
import io
import re
import socket
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from .inputs import colour_image, colour_sample, png, write_tar
from .lab import MANY, SCRIPTS, Lab
from .rows import Outcome, fault, require

TOPIC = "reports count rows and name causes"
OTHER = "plug-ins, programs, what is published"
ROWS = 32


def rows_of(lab: Lab, bad: bytes) -> list[str]:
    """A shard of good rows, and one with another image."""
    data = lab.shards(ROWS)
    samples = {f"{n:04d}": colour_sample(n) for n in range(ROWS)}
    write_tar(lab.tar(0), {"bad": {**colour_sample(0), "png": bad}, **samples})
    return data


@fault(TOPIC, "an image that is cut short")
def cut_image(lab: Lab) -> Outcome:
    ended = lab.train(*MANY, data=rows_of(lab, colour_image("red", 1)[:900])).succeeded()
    ended.line(r"00\.tar: bad\.png cannot be read \(.+\)")
    return Outcome(ended.line(r"Rows skipped or damaged in epoch 0: .+"), "the row")


@fault(TOPIC, "an image of 400 million pixels in 50 KB")
def bomb(lab: Lab) -> Outcome:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "png")
    ended = lab.train(*MANY, data=rows_of(lab, buffer.getvalue())).succeeded()
    return Outcome(ended.line(r"Rows skipped or damaged in epoch 0: .+"), "the row, undecoded")


@fault(TOPIC, "16-bit grey images")
def grey(lab: Lab) -> Outcome:
    from open_clip_fff.data.images import read_image

    values = np.linspace(0, 65535, 1600).reshape(40, 40).astype(np.uint16)
    seen = np.asarray(read_image(png(values)))[..., 0]
    white = float((seen == 255).mean())
    require(white < 0.02, f"{white:.0%} white")
    lab.train(*MANY, data=rows_of(lab, png(values))).succeeded()
    return Outcome(f"scaled to 8 bits, {seen.min()} to {seen.max()}", "the low 8 bits")


def sidecar(lab: Lab, captions: pa.Array) -> list[str]:
    """A shard with a caption sidecar."""
    data, folder = lab.shards(ROWS), lab.folder / "side"
    folder.mkdir()
    pq.write_table(pa.table({"key": [f"{n:04d}" for n in range(ROWS)], "captions": captions}), folder / "00.parquet")
    return [*data, "--caption-sidecar", str(folder)]


@fault(TOPIC, "a caption sidecar that holds numbers")
def numbers(lab: Lab) -> Outcome:
    return Outcome(lab.train(*MANY, data=sidecar(lab, pa.array(range(ROWS)))).refusal(), "nothing")


@fault(TOPIC, "a caption sidecar that is an html page")
def not_parquet(lab: Lab) -> Outcome:
    data = sidecar(lab, pa.array(["x"] * ROWS))
    (lab.folder / "side" / "00.parquet").write_text("<html>")
    return Outcome(lab.train(*MANY, data=data).refusal(), "nothing")


def plugin(lab: Lab, text: str) -> Outcome:
    """Training with a plug-in of this source."""
    (lab.folder / "mine.py").write_text(text)
    return Outcome(lab.train(*MANY, "--plugin", "mine", data=lab.shards(ROWS)).refusal(), "nothing")


@fault(OTHER, "a --plugin that raises")
def raises(lab: Lab) -> Outcome:
    return plugin(lab, "x = 1 / 0")


@fault(OTHER, "a --plugin with a syntax error")
def syntax(lab: Lab) -> Outcome:
    return plugin(lab, "def x(:\n")


@fault(OTHER, "a --plugin that exits")
def exits(lab: Lab) -> Outcome:
    return plugin(lab, "import sys\nsys.exit(0)")


SCORER = """
import torch
from open_clip_fff import register_discriminator

@register_discriminator("half")
class Half:
    identity = "half"
    def __init__(self, context): pass
    def __call__(self, images, captions): return torch.full((len(captions),), 0.5)
"""


@fault(OTHER, "match scores outside [0, 1] in the discriminator's cache")
def scores(lab: Lab) -> Outcome:
    (lab.folder / "mine.py").write_text(SCORER)
    kept, data = lab.folder / "scores", lab.shards(ROWS)
    flags = ["--method", "mafa-itc", "--json-text-key", "captions", "--group-search-space", "32", "--plugin", "mine"]
    flags += ["--discriminator", "half", "--discriminator-cache", str(kept)]
    lab.train(*flags, data=data).succeeded()
    (path,) = kept.glob("*.sqlite")
    with sqlite3.connect(path) as file:
        count = file.execute("UPDATE verdicts SET q = 1.5").rowcount
    line = lab.train(*flags, "--name", "y", data=data).succeeded().line(r"[^\n]*a match score of 1\.5[^\n]*")
    with sqlite3.connect(path) as file:
        left = file.execute("SELECT count(*) FROM verdicts WHERE q > 1").fetchone()[0]
    return Outcome(line.split("| ")[-1], f"nothing: of {count} scores, {count - left} were computed again")


@fault(OTHER, "a full disk while pack.py writes")
def packed(lab: Lab) -> Outcome:
    images = lab.folder / "images"
    images.mkdir()
    for n in range(40):
        (images / f"{n}.png").write_bytes(colour_image("red", n))
        (images / f"{n}.txt").write_text("red")
    out = lab.folder / "out"
    ended = lab.run([SCRIPTS / "pack.py", images, "--out", out], largest_file=30_000)
    left = [path.name for path in out.rglob("*.tar")]
    require(not left, f"there are {left}")
    return Outcome(ended.refusal(), "the unfinished shard; a second start makes it")


@fault(OTHER, "local paths in what is exported")
def card(lab: Lab) -> Outcome:
    lab.train(*MANY, data=lab.shards(ROWS)).succeeded()
    out = lab.folder / "out"
    lab.run(["-m", "open_clip_fff.export", lab.logs / "x", "--out", out]).succeeded()
    secrets = [str(lab.folder), str(Path.home()) + "/", rf"\b{socket.gethostname()}\b", getpass.getuser() + "@"]
    for path in (*out.glob("*.json"), *out.glob("*.md")):
        found = re.search("|".join(secrets), path.read_text())
        require(not found, f"{path.name} holds {found and found[0]}")
    return Outcome(f"none in {', '.join(sorted(path.name for path in out.iterdir()))}", "nothing")
