"""MAFA in real runs: grouped batches, a discriminator of hardest negatives, smoothed targets; each elsewhere, too."""

import re
from pathlib import Path

import pytest
import torch

from open_clip_fff.data.caption_strings import caption_hashes, string_bytes, strings
from open_clip_fff.data.ids import text_hash
from open_clip_fff.host.report import mining_warnings
from tests import colour_discriminator
from tests.conftest import colour_sample, write_tar
from tests.matching_models import make

pytestmark = pytest.mark.slow  # trainings, each from its start to its end

DISCRIMINATOR = ["--plugin", "tests.colour_discriminator", "--discriminator", "colours", "--json-text-key", "captions"]
MAFA = ["--method", "mafa-itc", "--group-search-space", "32", "--captions-per-image", "2", "--caption-policy", "all"]
RATE = r"False negatives: ([\d.]+)% \(of images ([\d.]+)%, of captions ([\d.]+)%, truly ([\d.]+)%, right ([\d.]+)%"


@pytest.fixture
def classed(trainer, tmp_path) -> list[str]:
    """The colour shards with the colour's number beside each image."""
    for shard in range(4):
        rows = {f"{row:04d}": {**colour_sample(shard * 16 + row), "cls": str(row % 4).encode()} for row in range(16)}
        write_tar(tmp_path / f"{shard}.tar", rows)
    return ["--train-data", str(tmp_path / "{0..3}.tar"), "--train-num-samples", "64"]


def test_strings_travel_as_bytes():
    texts = ["a dog", "", "été à Paris", "x" * 600, "é" * 300]
    made = string_bytes(texts)
    assert made.dtype == torch.uint8 and strings(made) == ["a dog", "", "été à Paris", "x" * 512, "é" * 256]
    assert strings(string_bytes(["x" + "é" * 300])) == ["x" + "é" * 255]
    assert caption_hashes(texts).tolist() == [text_hash(text) for text in texts]


@pytest.mark.parametrize("loss", ["s-itc", "softmax", "fff"])
def test_false_negatives_are_found_and_counted(trainer, classed, capsys, loss):
    """It knows colours, a raw caption names none: what it finds is right, and it scores no own pair."""
    argv = [*DISCRIMINATOR, *MAFA, "--loss", loss, "--class-key", "cls", "--epochs", "2", "--name", loss]
    assert trainer(*argv, "--log-every-n-steps", "1", data=classed) == 0
    printed = capsys.readouterr().out
    assert "colours, frozen, scores pairs (MAFA's connection mining" in printed
    assert "match score above 0.8 a positive, below 0.5 a negative, between them out of the loss" in printed
    assert ("in both directions" in printed) == (loss == "fff") != ("only in the direction that found" in printed)
    found = [[float(x) for x in line] for line in re.findall(RATE, trainer.log(loss))]
    assert len(found) == 8 and all(right == 100.0 for *_, right in found)
    assert all(both == pytest.approx((a + b) / 2, abs=0.11) for both, a, b, *_ in found)
    assert sum(both for both, *_ in found) > 0, found
    assert max(colour_discriminator.ASKED) <= 16 + 32


def test_without_a_discriminator_the_truth_is_logged(trainer, classed):
    argv = ["--method", "grit", "--group-search-space", "32", "--class-key", "cls", "--epochs", "2", "--name", "told"]
    assert trainer(*argv, data=classed) == 0
    shares = [float(x) for x in re.findall(r"Hardest of one class: ([\d.]+)%", trainer.log("told"))]
    assert len(shares) == 8 and 0 < max(shares) <= 100


def test_accumulation_asks_once(trainer, classed):
    argv = [*DISCRIMINATOR, *MAFA, "--batch-size", "8", "--accum-freq", "2", "--epochs", "1", "--name", "accumulated"]
    assert trainer(*argv, data=classed) == 0
    assert len(colour_discriminator.ASKED) == 4  # steps


def test_scores_are_cached(trainer, classed, tmp_path, monkeypatch):
    argv = [*DISCRIMINATOR, *MAFA, "--discriminator-cache", str(tmp_path / "scores"), "--aug-cfg", "scale=(1.0,1.0)"]
    assert trainer(*argv, "--name", "first", data=classed) == 0
    asked = sum(colour_discriminator.ASKED)
    monkeypatch.setattr(mining_warnings, "ENOUGH", 40)
    higher = ["--match-positive", "0.99", "--match-negative", "0.98"]  # than any of its scores
    assert trainer(*argv, *higher, "--name", "second", data=classed) == 0
    assert asked > 0 and sum(colour_discriminator.ASKED) == 0
    log = trainer.log("second")
    assert "none is a match" not in trainer.log("first") and log.count("none is a match or ambiguous") == 1
    assert re.search(r"--discriminator colours: of the first [4-9]\d pairs that it scored none", log)
    assert list((tmp_path / "scores").glob("*.sqlite"))


def test_it_begins_at_its_epoch_and_goes_through_the_gate(trainer, classed, teacher):
    argv = [*DISCRIMINATOR, *MAFA, "--loss", "softmax", "--epochs", "2", "--class-key", "cls"]
    assert trainer(*argv, "--discriminator-start", "1", "--name", "late", data=classed) == 0
    rates = re.findall(r"FFF Epoch: (\d).* False negatives: ([\d.]+)%", trainer.log("late"))
    assert [epoch for epoch, _ in rates] == ["1"] * 4 and all(float(rate) > 0 for _, rate in rates)
    assert trainer(*DISCRIMINATOR, *MAFA, "--discriminator-start", "1", "--name", "never", data=classed) == 0
    for line in (
        "--discriminator-start 1: the last epoch is 0, so it will never be asked.",
        "--smoothing-start 1: the last epoch is 0, so no target will be smoothed.",
        "and the run has one epoch, so none will be grouped. (--group-features stored groups from the first one on.)",
    ):
        assert trainer.log("never").count(line) == 1 and line not in trainer.log("late")
    mining = ["--mining-features", "frozen", "--mining-model", "tiny-clip", "--mining-pretrained", str(teacher)]
    asked, found = {}, {}
    for gate in ("-1", "0", "0.99"):
        assert trainer(*argv, *mining, "--match-gate", gate, "--name", f"gate{gate}", data=classed) == 0
        asked[gate] = sum(colour_discriminator.ASKED)
        found[gate] = re.findall(r"False negatives: (.*?) Positives", trainer.log(f"gate{gate}"))
    assert asked["-1"] > asked["0"] > 0 == asked["0.99"]
    # pairs that nobody examined are no part of the rate
    assert found["0.99"] == ["not known (all of the hardest are below --match-gate)"] * 8
    assert "not scored" not in found["-1"][0] and "not scored" in found["0"][0]


@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_a_real_discriminator_of_transformers(trainer, classed, tmp_path, kind):
    folder = make(tmp_path / kind, kind)
    argv = [*MAFA, "--json-text-key", "captions", "--discriminator", f"{kind}:{folder}", "--match-positive", "0.6"]
    assert trainer(*argv, "--match-negative", "0.4", "--name", kind, data=classed) == 0
    assert trainer.log(kind).count("False negatives: ") == 4
    assert trainer.checkpoint(kind)["epoch"] == 1


def test_cosmo_says_what_it_is(trainer, classed, capsys):
    assert trainer(*DISCRIMINATOR, *MAFA, "--method", "cosmo", "--epochs", "1", "--name", "cosmo", data=classed) == 0
    printed = capsys.readouterr().out
    assert "cosmo: COSMO, which is MAFA under the name of its first version" in printed
    assert "0.5 of each target even over all columns from epoch 1 on" in printed


def test_what_does_not_go_is_said(trainer, capsys):
    def refused(*argv: str) -> str:
        assert trainer(*argv, "--name", "refused") == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "needs a discriminator: add --discriminator fusion:DIR, a model trained" in refused("--method", "mafa")
    assert "does nothing without --discriminator" in refused("--method", "grit", "--match-positive", "0.9")
    assert "add --mining-features frozen" in refused(*DISCRIMINATOR, "--method", "mafa", "--match-gate", "0.2")
    assert "0 <= negative <= positive" in refused(*DISCRIMINATOR, "--method", "mafa", "--match-negative", "0.9")
    assert "takes no other positives" in refused("--method", "clip", "--discriminator", "blip:x")
    missing = refused("--method", "mafa", "--group-search-space", "32", "--discriminator", "blip:no/such-model")
    assert "--discriminator blip:no/such-model" in missing and not Path("no").exists()
