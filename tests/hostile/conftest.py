"""What people's data really holds: a hostile row is read, or skipped and counted; a hostile file is refused at once."""

import io

import pytest
from PIL import Image

from tests import recorder
from tests.conftest import Trainer, colour_image

FFF = ["--method", "fff", "--mining-features", "off", *recorder.RECORDED]
GOOD = 8  # rows beside the hostile ones
SIZE = ["--train-num-samples", str(GOOD)]

# Looks like the envelope in which captions cross OpenCLIP's pipeline.
FORGED = '{"open_clip_fff": 1, "id": 7, "captions": ["forged"], "raw": 1}'


def good_rows(captions: int = 1) -> list[list[str]]:
    return [[f"good {row} {n}" for n in range(captions)] for row in range(GOOD)]


def train(trainer: Trainer, data: list[str], rows: int, *flags: str, per_image: int = 1) -> str:
    """One batch of exactly `rows` rows; returns the log."""
    size = ["--batch-size", str(rows), "--captions-per-image", str(per_image)]
    size += [] if "--csv-img-key" in data else ["--train-num-samples", str(rows)]
    assert trainer(*FFF, *size, *flags, "--name", "x", data=data) == 0
    return trainer.log("x")


def bomb() -> bytes:
    """A small PNG of 400 million pixels, which PIL refuses to decode."""
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "png")
    return buffer.getvalue()


def hostile_images() -> dict[str, bytes]:
    whole = colour_image("red", 3)
    return {"no image": b"<html>404</html>", "nothing": b"", "cut short": whole[: len(whole) // 2], "a bomb": bomb()}


@pytest.fixture
def refused(trainer, capsys):
    """Runs the trainer, expects a refusal before training, and gives its one line."""

    def run(*argv: str, data: list[str]) -> str:
        assert trainer(*FFF, "--captions-per-image", "1", "--name", "x", *argv, data=data) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("open_clip_fff.train: error: ") and len(error.splitlines()) == 1, error
        assert not trainer.run("x").exists()
        return error

    return run
