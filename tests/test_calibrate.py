"""scripts/calibrate.py: thresholds at which Eq. 1's clauses together mine what was asked, on a sample of one's data."""

import re
import shlex
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from open_clip_fff.config.mining import FrozenSource, MiningConfig
from open_clip_fff.hub.training_flags import training_plan
from open_clip_fff.mining.clauses import mine
from open_clip_fff.models.frozen import load_frozen
from open_clip_fff.tools.calibrate import FILES
from open_clip_fff.tools.sampling.draw import SHARDS, SampleDraw, quotas
from tests import colour_discriminator
from tests.conftest import colour_sample, write_tar
from tests.full_disk import full_disk
from tests.samples import sample_features
from tests.test_assignment import OFF
from tests.test_features import STILL, embed

pytestmark = pytest.mark.slow  # trainings, each from its start to its end

HEADER = "clause,name,threshold,p1_prime"
DISCRIMINATOR = ["--plugin", "tests.colour_discriminator", "--discriminator", "colours"]


# --- the draw --------------------------------------------------------------------------------------------------------


def test_a_draw_is_even_over_shards_and_within_them(tmp_path, monkeypatch):
    sizes = [40, 10, 30, 0, 20]
    urls = []
    for number, size in enumerate(sizes):
        samples = {f"{number}-{row:02d}": {"txt": b"x"} for row in range(size)}
        urls.append(str(write_tar(tmp_path / f"{number}.tar", samples)))

    def keys(images: int, seed: int = 0) -> list[str]:
        return [x["__key__"] for x in SampleDraw(urls, images, seed)]

    found = keys(50)
    assert [sum(key.startswith(f"{n}-") for key in found) for n in range(5)] == [20, 5, 15, 0, 10]
    assert len(set(found)) == 50 and found == keys(50) != keys(50, seed=1)
    assert max(int(key[2:]) for key in found if key[0] == "0") > 30  # not the first ones
    assert len(keys(1_000)) == 100
    monkeypatch.setattr("open_clip_fff.tools.sampling.draw.sample_starts", lambda _: ([], None))
    assert keys(50) == found  # where the size is not known, the shard is counted
    monkeypatch.undo()
    first = [int(key[2:]) for seed in range(60) for key in keys(10, seed) if key[0] == "0"]
    often = np.bincount(first, minlength=40)
    assert often.sum() == 240 and often.max() < 18  # 6 each on average
    assert quotas([1, 1, 1], 2) in ([1, 1, 0], [1, 0, 1], [0, 1, 1]) and quotas([3, 5], 100) == [3, 5]
    assert not quotas([], 5)


def test_a_draw_reads_some_of_many_shards(tmp_path, monkeypatch):
    url = str(write_tar(tmp_path / "0.tar", {"a": {"txt": b"x"}}))
    many = [f"{url}?{n}" for n in range(3 * SHARDS)]
    monkeypatch.setattr("open_clip_fff.tools.sampling.draw.sample_starts", lambda _: (range(5), None))
    draw = SampleDraw(many, 10_000, 0)
    assert len(draw.indices) == SHARDS and len(draw) == 5 * SHARDS
    assert {int(url.split("?")[1]) // SHARDS for url in draw.indices} == {0, 1, 2}


def test_a_shard_that_breaks_off_costs_itself(tmp_path, shards):
    broken = tmp_path / "broken.tar"
    broken.write_bytes((shards / "01.tar").read_bytes()[:20_000])
    draw = SampleDraw([str(shards / "00.tar"), str(broken), str(tmp_path / "no.tar")], 64, 0)
    found = [x["__url__"] for x in draw]
    assert found.count(str(shards / "00.tar")) == 16 and 0 < found.count(str(broken)) < 16
    assert set(draw.unreadable) == {str(broken), str(tmp_path / "no.tar")}  # what breaks off is told, too


# --- the program -----------------------------------------------------------------------------------------------------


@pytest.fixture
def training(trainer, teacher) -> list[str]:
    """The flags of a training that mines with the tiny model."""
    model = ["--mining-model", "tiny-clip", "--mining-pretrained", str(teacher), "--model-config", str(trainer.config)]
    return [*trainer.tars, *model, "--json-text-key", "captions", "--batch-size", "16"]


@pytest.fixture
def calibrated(program, tmp_path):
    """What the program writes and prints."""

    def run(*arguments: str, expect: int = 0) -> tuple[pd.DataFrame, list[str], str]:
        out = tmp_path / "calibration"
        done = program("calibrate", "--out", out, "--workers", "2", *arguments, expect=expect, folder="scripts")
        assert sorted({path.name for path in out.iterdir()} - {"false-negatives.png"}) == [
            "cosines.png",
            "flags.txt",
            "rates.png",
            "thresholds.csv",
        ]
        lines = (out / "flags.txt").read_text().splitlines()
        assert lines[1] in done.out and lines[3] in done.out
        return pd.read_csv(out / "thresholds.csv"), lines, done.out

    return run


def test_thresholds_of_ones_own_data(calibrated, shards, training, teacher, tiny_name):
    table, flags, out = calibrated("--mined-per-image", "2", "--", *training)
    assert "64 samples of 4 of 4 shards; batches of 16 (--batch-size of one process" in out
    plan, left = training_plan([*shlex.split(flags[1]), "--json-text-key", "captions"], defaults={"method": "fff"})
    assert not left and plan.miner == FrozenSource(tiny_name, str(teacher))
    f = sample_features([str(shards / f"0{n}.tar") for n in range(4)], plan.captions, load_frozen(plan.miner), 64)
    mined = mine(f, f, plan.mining)
    factor = 15 / (64 * 63)
    expected = [(mined.pairs & x).sum().item() * factor for x in (*mined.clauses, mined.pairs)]
    # batches of embedding differ, and float32 with them
    assert table["mined_per_image"].tolist() == pytest.approx(expected, abs=0.02)
    assert 1.5 < expected[3] <= 2.02 and "right" not in table
    assert shlex.split(flags[3])[-2:] == ["--mined-per-image", "2"]
    again, _, _ = calibrated("--mined-per-image", "2", "--", *training)
    pd.testing.assert_frame_equal(table, again)
    few, _, out = calibrated("--images", "48", "--global-batch", "8", "--", *training, "--p2", "off")
    assert few["name"].tolist()[:2] == ["p1", "p3"] and "--p2 off" in out and "in batches of 8:" in out


def test_training_mines_what_was_expected(calibrated, trainer, training, teacher):
    table, flags, _ = calibrated("--mined-per-image", "3", "--", *training)
    common = ["--method", "fff", "--json-text-key", "captions", "--epochs", "4", "--lr", "1e-6"]
    for line, name in ((flags[1], "number"), (flags[3], "rate")):
        assert trainer(*common, *shlex.split(line), *STILL, "--name", name) == 0
        mined = [float(x) for x in re.findall(r"Mined/image: ([\d.]+)", trainer.log(name))]
        assert len(mined) == 16
        assert np.mean(mined) == pytest.approx(table["mined_per_image"].iloc[-1], rel=0.2), name


def test_stored_features_give_the_same(calibrated, training, tmp_path):
    assert embed("--out", str(tmp_path / "features"), "--", *training[:-2]) == 0
    by_model, _, _ = calibrated("--", *training)
    stored = [*training[:4], *training[-4:], "--mining-features", "precomputed"]
    by_store, flags, out = calibrated("--", *stored, "--feature-sidecar", str(tmp_path / "features"))
    # float16 moves a cosine by a thousandth, and the sample's next one may be some thousandths farther
    assert by_store["threshold"].tolist()[:3] == pytest.approx(by_model["threshold"].tolist()[:3], abs=0.01)
    assert (
        "captions each, by tiny-clip/" in out and "--feature-sidecar" in flags[1] and "--mining-model" not in flags[1]
    )


def test_captions_alone(calibrated, trainer, sentence_model, tmp_path):
    """By a sentence model, and by its stored features."""
    text = ["--mining-features", "text", "--mining-model", str(sentence_model), "--json-text-key", "captions"]
    table, flags, _ = calibrated("--global-batch", "16", "--mined-per-image", "4", "--", *trainer.tars, *text)
    assert table["name"].tolist()[:1] == ["p3"] and len(table) == 2 and np.isnan(table["p1_prime"][0])
    plan, _ = training_plan(shlex.split(flags[1]), defaults={"method": "fff"})
    assert plan.mining == replace(MiningConfig(**OFF), p3=table["threshold"][0])
    assert 2 < table["mined_per_image"][1] <= 4
    assert embed("--out", str(tmp_path / "features"), "--", *trainer.tars, *text) == 0
    stored = ["--mining-features", "precomputed", "--feature-sidecar", str(tmp_path / "features"), *text[-2:]]
    again, flags, _ = calibrated("--global-batch", "16", "--mined-per-image", "4", "--", *trainer.tars, *stored)
    assert again["name"].tolist() == table["name"].tolist() and " --p1 off " in flags[1] and "off" not in flags[3]
    assert again["threshold"][0] == pytest.approx(table["threshold"][0], abs=1e-3)


def test_match_scores_and_classes(calibrated, shards, training, tmp_path):
    """The discriminator sees colours, and the class is the colour: where there is no doubt, both say the same."""
    names = list(colour_discriminator.COLOURS)
    for shard in range(4):
        samples = {f"{row}": {**colour_sample(shard * 16 + row), "cls": names[row % 4].encode()} for row in range(16)}
        write_tar(tmp_path / f"{shard}.tar", samples)
    data = ["--train-data", str(tmp_path / "{0..3}.tar"), *training[2:], "--text-key", "", "--class-key", "cls"]
    data += ["--captions-per-image", "4"]
    cache = ["--discriminator-cache", str(tmp_path / "scores")]
    table, _, out = calibrated("--mined-per-image", "4", "--match-pairs", "300", "--", *data, *DISCRIMINATOR, *cache)
    clauses = table.iloc[:-1]
    assert 0 < sum(colour_discriminator.ASKED) <= clauses["asked"].sum() <= 300
    assert clauses["match_above"].tolist() == pytest.approx(clauses["right"].tolist(), abs=0.15)
    assert clauses[["match_above", "ambiguous_above", "no_above"]].sum(axis=1).tolist() == pytest.approx(
        [1.0] * len(clauses)
    )
    assert (clauses["ambiguous_above"] == 0).all() and "match scores of" in out and "half match at" in out
    again, _, _ = calibrated("--mined-per-image", "4", "--match-pairs", "300", "--", *data, *DISCRIMINATOR, *cache)
    assert not colour_discriminator.ASKED  # all scores were cached
    pd.testing.assert_frame_equal(table, again)


def test_a_broken_shard_is_named_and_the_others_serve(program, training, shards, tmp_path):
    for shard in ("00", "01", "02"):
        (tmp_path / f"{shard}.tar").write_bytes((shards / f"{shard}.tar").read_bytes())
    (tmp_path / "03.tar").write_bytes(b"no tar at all")
    data = ["--train-data", str(tmp_path / "{00..03}.tar"), *training[2:]]
    done = program("calibrate", "--out", tmp_path / "out", "--", *data, expect=1, folder="scripts")
    assert "48 images" in done.out and (tmp_path / "out" / "flags.txt").exists()
    assert done.err.count("03.tar is left out from where it cannot be read") == 1


def test_samples_that_cannot_serve_are_counted(program, training, tmp_path):
    samples = {f"{row:02d}": colour_sample(row) for row in range(40)}
    samples["03"]["png"], samples["04"]["txt"], samples["04"]["json"] = b"no image", b"", b"{}"
    data = ["--train-data", str(write_tar(tmp_path / "00.tar", samples)), *training[2:]]
    done = program("calibrate", "--out", tmp_path / "out", "--", *data, folder="scripts")
    assert "38 images" in done.out and "1 left out: image cannot be read" in done.out
    assert "1 left out: no caption" in done.out
    for name, own, few in (
        (
            "calibrate",
            ["--global-batch", "4096"],
            "38 images (left out: 1 × image cannot be read, 1 × no caption) are too few",
        ),
        ("mined_gallery", [], "1 image with captions read (left out: 1 × image cannot be read), and pairs take 2"),
        ("calibrate", [], "1 image with captions found (left out: 1 × image cannot be read), and pairs take 2"),
        ("calibrate", [], "1 image with captions found, and pairs take 2"),
    ):  # which is the data's, and not --images' or --samples'
        error = program(name, "--out", tmp_path / name, *own, "--", *data, expect=2, folder="scripts").err
        assert f"error: --train-data: {few}" in error
        keys = ["07"] if "found (" in few else ["03", "07"]
        write_tar(tmp_path / "00.tar", {key: samples[key] for key in keys})


def test_mistakes_are_a_line_and_leave_what_was_there(program, training, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in FILES:
        (out / name).write_text(f"{HEADER}\nas it was")
    file = tmp_path / "file"
    file.write_text("")
    self_mining = ["--method", "fff", "--mining-features", "ema", "--mining-warmup", "9"]
    for own, behind, named in (
        ([], training[4:], "--train-data: name the shards"),
        ([], [*training, "--batchsize", "4"], "did you mean --batch-size"),
        (["--image", "4"], training, "--image"),
        (["--images", "1"], training, "--images 1: must be 2 or more"),
        (
            ["--images", "5", "--global-batch", "4096"],
            training,
            "--images: 5 images are too few: 1 mined caption per image in batches of 4,096 (--global-batch) is 0.0049 "
            "pairs among them, and at least 10 are needed; take 203 images or more",
        ),
        (["--images", "5"], training[:-2], "of 4,096 (the default; give the --batch-size you train with) is"),
        (["--global-batch", "1"], training, "--global-batch 1"),
        (["--mined-per-image", "0"], training, "--mined-per-image 0: must be more than 0"),
        (["--mined-per-image", "900"], training, "an image meets"),
        (["--device", "nowhere"], training, "--device nowhere"),
        (["--out", str(file)], training, "cannot be written"),
        ([], [*training[:1], "nowhere.tar", *training[2:]], "nowhere.tar does not exist"),
        ([], [*training, "--json-text-key", "nope"], "--json-text-key nope: no row of 00.tar has text there"),
        ([], [*training, "--mining-pretrained", "nowhere.pt"], "nowhere.pt: cannot be loaded"),
        ([], [*training[:4], "--method", "clip"], "nothing mines"),
        ([], [*training[:4], *self_mining], "the model that mines is the one that will be trained"),
        ([], [*training, "--p1", "off", "--p2", "off", "--p3", "off"], "off: "),
        ([], [*training, "--class-key", "nope"], "--class-key nope: no"),
        ([], [*training, "--discriminator", "nowhere:x"], "no discriminator is called 'nowhere'"),
        ([], [*training, "--mining-features", "precomputed"], "none of the first 16 rows of 00.tar has any"),
    ):
        given = own if "--out" in own else ["--out", out, *own]
        error = program("calibrate", *given, "--", *behind, expect=2, folder="scripts").err.strip()
        assert named in error and len(error.splitlines()) == 1, error
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(FILES, f"{HEADER}\nas it was")
    (out / "thresholds.csv").write_text("mine")
    error = program("calibrate", "--out", out, "--", *training, expect=2, folder="scripts").err
    assert f"--out {out}: holds thresholds.csv, not of an earlier calibration" in error
    (out / "thresholds.csv").unlink()
    error = program("calibrate", "--out", out, "--", *training, expect=2, folder="scripts").err
    assert f"--out {out}: holds flags.txt, not of" in error and len(list(out.iterdir())) == 3


def test_what_a_full_disk_ended_can_be_run_again(program, calibrated, training, tmp_path):
    given, out = ["--images", "64", "--global-batch", "16", "--", *training], tmp_path / "calibration"
    with full_disk(12_000):  # enough for the table, and not for a plot
        program("calibrate", "--out", out, *given, expect=2, folder="scripts")
    assert sorted(path.name for path in out.iterdir()) == ["flags.txt", "thresholds.csv"]
    assert (out / "thresholds.csv").read_text().startswith(HEADER)
    calibrated(*given)
