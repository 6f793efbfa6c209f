"""The bias before the first step: measured once or never, with what will be mined once the warm-up is over."""

import math
import re

import pytest

from tests.test_training import FFF, mining

pytestmark = pytest.mark.slow  # trainings, each from its start to its end

RATE = ["--mined-per-image", "1.5"]
STARTS = r"Logit bias starts at (-?[\d.]+): share of positives ([\d.]+)%(.*?), scale .* over ([\d,]+) pairs"


def started(trainer, name: str, *argv: str) -> tuple[float, float, str]:
    """The bias, how many positives and pairs it came from, and what else the line says."""
    assert trainer(*FFF, *argv, "--name", name) == 0
    ((bias, share, words, pairs),) = re.findall(STARTS, trainer.log(name))
    return float(bias), float(share) / 100 * int(pairs.replace(",", "")), words


@pytest.mark.parametrize("weights", [False, True])
def test_without_negatives_the_bias_stays_and_is_never_measured_again(trainer, teacher, weights):
    """Epoch 1 has another chance, and would overwrite what epoch 0 learnt."""
    argv = [*FFF, *mining(teacher, "-1", "off", "off", "off"), "--epochs", "2", "--lr", "1e-9"]
    argv += ["--pretrained", str(teacher)] * weights
    assert trainer(*argv, "--name", "all") == 0
    log = trainer.log("all")
    assert log.count("Logit bias stays at -10.000: the first batches hold no negatives") == 1
    assert "bias starts at" not in log and log.count("FFF Epoch: ") == 8  # measuring again showed steps, too
    assert trainer.checkpoint("all", 2)["state_dict"]["logit_bias"].item() == pytest.approx(-10.0, abs=1e-4)


@pytest.mark.parametrize("found", ["typed", "rate"])
def test_what_a_frozen_model_mines_after_the_warm_up_is_counted(trainer, teacher, found):
    source = mining(teacher, "0.2", "0.97", "0.97", "0.0")
    source = source if found == "typed" else [*source[:4], *RATE]
    now, later = started(trainer, "now", *source), started(trainer, "later", *source, "--mining-warmup", "100")
    off = started(trainer, "off", "--mining-features", "off")
    assert now[:2] == later[:2] and now[1] > off[1] + 40 and now[0] > off[0]
    assert now[2] == "" and later[2] == " (with what is mined after the warm-up)"
    assert re.findall(r"Mined/image: ([\d.]+)", trainer.log("later")) == ["0.000"] * 4
    assert trainer.log("later").count("--mining-warmup 100: the run has 4 steps, so nothing will be mined.") == 1
    assert "nothing will be mined" not in trainer.log("now")


@pytest.mark.parametrize("features", ["ema", "online"])
def test_what_the_trained_model_itself_will_mine_is_not_counted_and_that_is_told(trainer, features):
    argv = ["--mining-features", features, "--mining-warmup", "100"]
    off = started(trainer, "off", "--mining-features", "off")
    for name, more in {"rated": RATE, "typed": [], "ignored": [*RATE, "--mined-as", "ignore"]}.items():
        bias, share, words = started(trainer, name, *argv, *more)
        assert (bias, share) == off[:2]
        assert words == " (without what is mined after the warm-up, to which the learnt bias adapts)"


def test_positives_are_counted_by_weight(trainer, teacher):
    """Per anchor each image's weigh 1 together, whatever is mined: the same share as of one caption without mining."""
    source = mining(teacher, "0.2", "0.97", "0.97", "0.0")
    weighs = r"share of positives ([\d.]+)%.* over pairs of weight ([\d,]+)"
    found = {}
    for name, more in {"all": source, "above own": [*source, "--mining-margin", "100%"]}.items():
        argv = [
            *FFF,
            *more,
            "--positive-weight",
            "per-anchor",
            "--mined-weight",
            "0.5",
            "--name",
            name.replace(" ", "-"),
        ]
        assert trainer(*argv) == 0
        log = trainer.log(name.replace(" ", "-"))
        ((share, weight),) = re.findall(weighs, log)
        mined = [float(x) for x in re.findall(r"Mined/image: ([\d.]+)", log)]
        found[name] = float(share) / 100 * int(weight.replace(",", "")), sum(mined)
    assert found["all"][0] == pytest.approx(found["above own"][0], rel=0.01) and found["all"][1] > found["above own"][1]


def test_it_is_that_of_the_share_the_scale_and_the_mean_cosine(trainer, monkeypatch):
    """Of the batches whose features are finite: three of four."""
    monkeypatch.setenv("POISON", "1")
    argv = ["--method", "fff", "--captions-per-image", "4", "--json-text-key", "captions", "--mining-features", "off"]
    argv += ["--plugin", "scripts.faulty.plugin", "--batch-hooks", "poison"]
    assert trainer(*argv, "--lr", "1e-9", "--name", "b") == 0
    line = r"Logit bias starts at (-?[\d.]+): share of positives ([\d.]+)%.*?, scale ([\d.]+), mean cosine (-?[\d.]+), "
    line += r"over [\d,]+ pairs, without 1 step with features that are not finite"
    ((bias, share, scale, mean),) = [map(float, found) for found in re.findall(line, trainer.log("b"))]
    assert bias == pytest.approx(math.log(share / (100 - share)) - scale * mean, abs=0.01)
    assert scale == pytest.approx(10, abs=1e-3)
