"""Images that a captioner cannot take, which are left out, and captioners that fail in the middle."""

import io
import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.captioning_models import make_captioner
from tests.conftest import colour_sample, write_tar

BANNER = "the model cannot take it (absolute aspect ratio must be smaller than 200, got 220.0)"
FEW = ["--max-new-tokens", "6", "--captions", "2", "--workers", "2"]


def banner(width: int = 660) -> bytes:
    """A line across a page: Qwen2-VL takes sides of 1:200 at most."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, 3), "red").save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize("rows", [1, 4])
def test_an_image_that_the_model_cannot_take_is_left_out(program, tmp_path, rows):
    """Alone in its batch, and among others."""
    samples = {f"{row}": colour_sample(row) for row in range(6)}
    samples["2"]["png"] = banner()
    samples["6"] = {"png": banner(900)}  # no model gets it
    write_tar(tmp_path / "0.tar", samples)
    write_tar(tmp_path / "1.tar", {f"{width}": {"png": banner(width)} for width in range(660, 690, 3)})
    argv = ["--model", make_captioner(tmp_path / "qwen", "qwen"), "--prompt", "a square", "--batch-size", rows, *FEW]
    argv += ["--train-data", tmp_path / "{0..1}.tar", "--out"]
    done = program("caption", *argv, tmp_path / "out", folder="scripts")
    assert "holds 2 of 2 shards: 5 images" in done.out and f"left out: 2 × {BANNER}, 1 × too thin" in done.out
    assert pq.read_table(tmp_path / "out" / "0.parquet")["key"].to_pylist() == ["0", "1", "3", "4", "5"]
    record = json.loads((tmp_path / "out" / "records" / "0.json").read_text())
    assert {"key": "2", "why": BANNER} in record["left_out"] and record["counts"]["images"] == 5
    # where it can take none, that is no success
    done = program("caption", *argv, tmp_path / "none", "--train-data", tmp_path / "1.tar", folder="scripts", expect=1)
    assert "holds 1 of 1 shard: 0 images" in done.out and f"left out: 1 × {BANNER}, " in done.out
    assert done.out.count("cannot take it") == 8 and ", 2 × others; each is named in" in done.out


def test_a_model_that_fails_in_the_middle_is_no_fault_of_the_images(program, shards, tmp_path, monkeypatch):
    from transformers import BlipForConditionalGeneration

    generate, calls = BlipForConditionalGeneration.generate, []

    def failing(self, **given):
        calls.append(1)
        if len(calls) > 4:  # the check's, and the first shard's
            raise RuntimeError("CUDA error: unspecified launch failure")
        return generate(self, **given)

    monkeypatch.setattr(BlipForConditionalGeneration, "generate", failing)
    argv = ["--model", make_captioner(tmp_path / "blip", "blip"), "--train-data", shards / "{00..01}.tar"]
    argv += [*FEW, "--batch-size", "8", "--out", tmp_path / "out"]
    done = program("caption", *argv, folder="scripts", expect=1)
    (line,) = [line for line in done.err.splitlines() if "left out: " in line]
    assert "blip: cannot caption a grey image (CUDA error: unspecified launch failure)" in line
    assert "holds 1 of 2 shards: 16 images" in done.out and not (tmp_path / "out" / "01.parquet").exists()
