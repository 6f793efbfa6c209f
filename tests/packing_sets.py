"""Small tables, folders and shards to pack, and scripts/pack.py as a function."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from open_clip_fff.data.shards import read_samples
from tests.conftest import COLOURS, colour_image, colour_sample, write_tar

TOKENS = [
    (f"pics/{image}.png", f"caption {turn} of {image}") for turn in range(3) for image in range(8)
]  # not adjacent


@pytest.fixture
def pack(program):
    """scripts/pack.py in this process."""
    return lambda *arguments, expect=0: program("pack", *arguments, folder="scripts", expect=expect)


@pytest.fixture
def refused(pack, tmp_path):
    """Runs it, expects a refusal, and gives its one line; no shard may be there."""

    def line(*arguments: object) -> str:
        done = pack(*arguments, "--out", tmp_path / "refused", expect=2)
        assert done.err.startswith("pack.py: error: ") and len(done.err.splitlines()) == 1, done.err
        assert not list(tmp_path.glob("refused/*.tar"))
        return done.err

    return line


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Eight pictures in `pics`."""
    (tmp_path / "pics").mkdir()
    for number in range(8):
        (tmp_path / "pics" / f"{number}.png").write_bytes(colour_image(list(COLOURS)[number % 4], number))
    return tmp_path / "pics"


@pytest.fixture
def tokens(pictures) -> Path:
    """A CSV with a caption a row and three rows an image, which are not adjacent."""
    return csv(pictures.parent / "tokens.csv", [("image", "caption"), *TOKENS])


def csv(path: Path, rows: list[tuple[str, ...]]) -> Path:
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    path.write_text("\n".join(quoted) + "\n")
    return path


def compress(path: Path, content: str, codec: str = "") -> Path:
    """A text file, of the codec that its suffix names: gz, bz2, zst, or none."""
    if not codec:
        path.write_text(content)
        return path
    with pa.output_stream(path, compression={"zst": "zstd", "gz": "gzip"}.get(codec, codec)) as file:
        file.write(content.encode())
    return path


def samples(*tars: Path) -> list[dict]:
    """Samples of some shards, the json as what it says."""
    found = list(read_samples([str(tar) for tar in tars], 10_000))
    return [{**x, "json": json.loads(x["json"])} if "json" in x else x for x in found]


def picture(width: int, height: int, kind: str = "jpeg", **options: object) -> bytes:
    """A gradient with noise of some size."""
    pixels = np.random.default_rng(0).integers(0, 60, (height, width, 3)) + np.arange(width)[None, :, None] % 150
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


def left_out(out: Path, stem: str = "00000") -> dict[str, str]:
    record = json.loads((out / "records" / f"{stem}.json").read_text())
    return {entry["key"]: entry["why"] for entry in record["left_out"]}


@pytest.fixture
def tars(tmp_path) -> str:
    """Two shards of six samples, keys of their own."""
    (tmp_path / "in").mkdir()
    for shard in range(2):
        chosen = {f"{shard}{row:03d}": with_url(shard * 6 + row) for row in range(6)}
        write_tar(tmp_path / "in" / f"{shard:02d}.tar", chosen)
    return str(tmp_path / "in" / "{00..01}.tar")


def with_url(index: int) -> dict[str, bytes]:
    sample = colour_sample(index)
    return {**sample, "json": json.dumps({**json.loads(sample["json"]), "url": f"http://x/{index}"}).encode()}
