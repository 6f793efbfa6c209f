"""Images that are too thin: of a few bytes, a transform that resizes the short side would make gigabytes."""

import io
import json

import open_clip
import pytest
from PIL import Image

from open_clip_fff.data.decoded import decoded
from open_clip_fff.data.images import MOST_RATIO, read_image
from open_clip_fff.data.shards import SkippedSample, unreadable_reason
from open_clip_fff.evaluation.benchmark import EvalSettings, make_loader
from open_clip_fff.evaluation.layouts import find_sets
from tests.conftest import colour_image, colour_sample, write_tar
from tests.eval_sets import webdataset

THIN = f"too thin: one side is more than {MOST_RATIO} times the other"
RUNS = [(False, []), (True, ["--method", "clip"])]
both_runs = pytest.mark.parametrize(("ours", "flags"), RUNS, ids=["stock", "clip"])


def line(width: int, height: int = 1, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, kind)
    return buffer.getvalue()


def train(trainer, ours: bool, data: list[str], *argv: str) -> str:
    """The log of a run, with flags of ours or without any."""
    from open_clip_fff.train import main

    config = ["--model-config", str(trainer.config)] if ours else []
    assert main([*trainer.common, *config, *data, *argv, "--name", "x"]) == 0
    return trainer.log("x")


def samples(thin: int) -> dict[str, dict[str, bytes]]:
    """Samples of a shard, of which one has a thin image."""
    made = {f"{row:04d}": colour_sample(row) for row in range(16)}
    made[f"{thin:04d}"]["png"] = line(1000)
    return made


def test_a_thin_image_is_left_out_before_it_is_resized():
    resize = open_clip.image_transform(224, is_train=False)
    for content in (line(60_000, kind="jpeg"), line(1, 60_000)):  # 11 GiB each
        assert decoded({"__key__": "0", "jpg": content}, resize) == SkippedSample("0", THIN)
        assert unreadable_reason(content) == THIN
    assert decoded({"__key__": "0", "jpg": line(3 * MOST_RATIO, 3)}, resize).shape == (3, 224, 224)
    assert decoded({"__key__": "0", "jpg": b"no image"}, resize) == SkippedSample("0", "image cannot be read")


@both_runs
def test_validation_leaves_it_out_of_tars(trainer, tmp_path, ours, flags):
    val = write_tar(tmp_path / "0.tar", samples(5))
    log = train(trainer, ours, trainer.tars, *flags, "--val-data", str(val), "--val-num-samples", "16")
    assert f"0.tar: 0005.png cannot be read ({THIN})" in log
    counted = "Rows skipped or damaged in validation after epoch 1: 1 with an unreadable member or image"
    assert (counted in log) == ours
    (found,) = (trainer.run("x") / "checkpoints" / "results.jsonl").read_text().splitlines()
    assert json.loads(found)["num_samples"] == 15


@both_runs
def test_validation_leaves_it_out_of_a_table(trainer, csv, tmp_path, ours, flags):
    (tmp_path / "thin.png").write_bytes(line(1000))
    rows = csv.read_text().splitlines()
    rows[3] = "\t".join([str(tmp_path / "thin.png"), *rows[3].split("\t")[1:]])
    (tmp_path / "val.csv").write_text("\n".join(rows))
    log = train(trainer, ours, trainer.table, *flags, "--val-data", str(tmp_path / "val.csv"))
    assert f"thin.png cannot be read ({THIN}). Using the next row." in log
    assert ("in validation after epoch 1: 1 with an unreadable member or image" in log) == ours


@both_runs
def test_training_without_our_flags_crops_it_as_openclip_does(trainer, tmp_path, ours, flags):
    data = ["--train-data", str(write_tar(tmp_path / "0.tar", samples(5))), "--train-num-samples", "16"]
    log = train(trainer, ours, data, *flags, "--batch-size", "5")
    assert ("cannot be read" in log) == ours


@pytest.mark.slow
def test_imagenets_validation_names_it(trainer, tmp_path, caplog):
    for row in range(2):
        (tmp_path / "val" / str(row)).mkdir(parents=True)
        (tmp_path / "val" / str(row) / "0.png").write_bytes(line(1000) if row else colour_image("red", 0))
    assert trainer("--imagenet-val", str(tmp_path / "val"), "--zeroshot-frequency", "1", "--name", "x") == 0
    assert f"1/0.png cannot be read ({THIN})" in trainer.log("x")
    assert (trainer.run("x") / "checkpoints" / "epoch_1.pt").exists()


def test_a_score_names_it(tmp_path):
    webdataset(tmp_path / "birds", shards=1)
    made = {"0": {"jpg": line(1000, kind="jpeg"), "cls": b"0"}, "1": {"jpg": line(40, 40), "cls": b"1"}}
    write_tar(tmp_path / "birds" / "test" / "0.tar", made)
    (local,), _ = find_sets(["birds"], tmp_path)
    settings = EvalSettings(workers=0, progress_bars=False)
    with pytest.raises(ValueError, match=rf"0.jpg in 0.tar cannot be read: {THIN}"):
        list(make_loader(local, open_clip.image_transform(224, is_train=False), settings))
    assert read_image(made["1"]["jpg"]).size == (40, 40)
