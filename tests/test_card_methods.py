"""The cards of all methods, each of a run that was trained and exported: true in every respect, and complete."""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch

from open_clip_fff.config.all_settings import DEFAULTS
from open_clip_fff.config.description import settings
from open_clip_fff.config.flags import as_flag, split
from open_clip_fff.config.methods import METHODS
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.hub.base_names import base_names
from open_clip_fff.hub.params import plan_of_run, read_params, upstream_of_run
from open_clip_fff.mining.rate import RateThresholds
from tests.conftest import colour_sample, write_tar

pytestmark = pytest.mark.slow  # trainings, each from its start to its end

MINER = ["--mining-features", "frozen", "--mining-model", "tiny-clip", "--mining-pretrained", "@teacher"]
MANY = ["--captions-per-image", "4", "--json-text-key", "captions"]
GROUPED = ["--group-search-space", "32", "--class-key", "cls"]
COLOURS = ["--plugin", "tests.colour_discriminator", "--discriminator", "colours", "--json-text-key", "captions"]
TWO = ["--captions-per-image", "2", "--caption-policy", "all"]
FUSION = ["--fusion-layers", "1"]
GATE = ["--match-gate", "-0.123456", "--match-positive", "0.94000006"]
# flags of each method's run, and what its card says (@: a link to arXiv)
RUNS: dict[str, tuple[list[str], list[str]]] = {
    "clip": (
        [*MANY, "--caption-policy", "sample"],
        [
            "CLIP (Radford et al., 2021, @2103.00020) as OpenCLIP trains it",
            "OpenCLIP's ClipLoss, CLIP's softmax (@2103.00020), one positive per image",
            "**Mining**: nothing: an image's positives are its own captions alone.",
            "| Captions | one of an image's first 4, drawn anew at each visit; from `txt`, `json:captions` |",
        ],
    ),
    "siglip": (
        [],
        [
            "OpenCLIP's SigLipLoss, SigLIP's sigmoid (@2303.15343), one positive per image",
            "**Mining**: nothing:",
            "| Captions | one per image; from `txt` |",
        ],
    ),
    "fff": (
        [*MANY, *MINER, "--mined-per-image", "3", "--p3", "off"],
        [
            "FFF, Fixing Flawed Foundations (Bulat et al., CVPR 2024, @2405.10286)",
            "FFF's Eq. 2 (@2405.10286), a sigmoid over all images and all captions",
            "captions of other images are positives, too, where FFF's Eq. 1 holds (@2405.10286); cosines of a frozen",
            "by image-text, image-image at the thresholds that give 3 captions per image, found and held in training",
            "These are their values at `epoch_1.pt` (from `epoch_1.extra` beside it).",
            "captions per image were mined.",
            "| Captions | up to 4 per image, all in the same batch; from `txt`, `json:captions` |",
        ],
    ),
    "fff-softmax": (
        [*MANY, *MINER, "--p1", "off", "--p2", "0.99962", "--mined-cap", "1", "--class-key", "cls"],
        [
            "a softmax over FFF's assignment (@2405.10286)",
            "open_clip_fff's own, not the paper's",
            "p1 off, image-image > p2 0.99962, text-text (pooled) > p3 0.99 where image-text > p1' 0.24;",
            "at most 1 per image",
            "They were set before training.",
            "of them of the image's class.",
            "nothing is trained on them",
        ],
    ),
    "grit": (
        GROUPED,
        [
            "CLIP in GRIT-VLP's grouped mini-batches (Byun et al., ECCV 2022, @2208.04060)",
            "a softmax with one caption per image, CLIP's (@2103.00020), but rows of the same image are positives",
            "**Mining**: nothing: an image's positives are its own captions alone.",
            "mini-batches are of similar samples (GRIT-VLP, @2208.04060)",
            "from epoch 1 on, which 1 epoch of training did not reach (epoch 0 is random)",
            "of the hardest negatives were of the image's class.",
        ],
    ),
    "mafa": (
        [*GROUPED, *COLOURS, *FUSION],
        [
            "MAFA (Byun et al., CVPR 2024, @2312.06112): grouped mini-batches, connection mining, S-ITC, ITM and MLM",
            "**Fusion**: 1 layer of the text tower's width over the tokens of both towers (MAFA, @2312.06112); ",
            "1 x image-text matching of own pairs and each image's hardest caption and each caption's hardest ",
            "no masked language modelling: the text tower has no mask token.",
            "`--discriminator fusion:DIR`",
            "leaks COCO",
        ],
    ),
    "mafa-itc": (
        [*GROUPED, *COLOURS, *TWO, "--epochs", "2"],
        [
            "MAFA's grouped mini-batches, connection mining and smoothed ITC (Byun et al., CVPR 2024, @2312.06112)",
            "MAFA's S-ITC (@2312.06112), a softmax with any number of positives per image; ",
            "0.5 of each target even over all columns from epoch 1 on.",
            "**Mining**: nothing by FFF's Eq. 1, so that further positives are the discriminator's alone.",
            "`colours`, frozen, scores pairs (MAFA's connection mining, @2312.06112); each image's and each caption's ",
            "match score above 0.8 a positive, below 0.5 a negative, between them out of the loss; ",
            "; each only in the direction that found the pair; from epoch 0 on.",
            "MAFA's false-negative rate was",
            "The discriminator that scored pairs, and what it was trained on: not stated.",
            "leaks COCO",
        ],
    ),
    "grit-vlp": (
        [*GROUPED, *FUSION],
        [
            "GRIT-VLP (Byun et al., ECCV 2022, @2208.04060): grouped mini-batches, its ITC, ITM and MLM",
            "over the tokens of both towers (GRIT-VLP, @2208.04060)",
            "0.2 times a consistency term between the directions",
        ],
    ),
    "albef": (
        [*FUSION, "--itm-weight", "0.5"],
        [
            "ALBEF's ITC, ITM and MLM (Li et al., 2021, @2107.07651) without its momentum model",
            "0.5 x image-text matching of own pairs and a caption for each image and an image for each caption, ",
        ],
    ),
    "cosmo": (
        [*GROUPED, *COLOURS, *TWO, *MINER, *GATE, *FUSION, "--loss", "fff"],
        [
            "COSMO, which is MAFA under the name of its first version",
            "FFF's Eq. 2",
            "image-text > p1 0.27",
            "match score above 0.94000006 a positive",
            "each in both directions, since the loss has one matrix",
            "scored only where the mining features' cosine is above -0.123456, else a negative",
            "MAFA's false-negative rate was",
        ],
    ),
}


class Exported(NamedTuple):
    """A run and its card."""

    card: str
    log: str
    params: dict[str, str]
    plan: Plan
    state: dict


@pytest.fixture
def exported(trainer, teacher, tmp_path, export_here) -> Callable[..., Exported]:
    def of(*argv: str) -> Exported:
        for shard in range(4):
            rows = {
                f"{row:04d}": {**colour_sample(shard * 16 + row), "cls": str(row % 4).encode()} for row in range(16)
            }
            write_tar(tmp_path / f"{shard}.tar", rows)
        data = ["--train-data", str(tmp_path / "{0..3}.tar"), "--train-num-samples", "64"]
        typed = [str(teacher) if flag == "@teacher" else flag for flag in argv]
        assert trainer(*typed, "--name", "run", data=data) == 0
        run, log = trainer.run("run"), trainer.log("run")
        last = max((run / "checkpoints").glob("epoch_*.extra"), default=None)
        (run / "out.log").unlink()  # the card goes by the run's state
        export_here(run, tmp_path / "model")
        params = read_params(run)
        plan = make_plan(split(["--model-config", params["model_config"][2:-3], *typed])[0])
        state = torch.load(last, weights_only=True) if last else {}
        return Exported((tmp_path / "model" / "README.md").read_text(), log, params, plan, state)

    return of


def linked(text: str) -> str:
    """A paper is a link."""
    return re.sub(r"@(\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def check_settings(run: Exported) -> None:
    """Every setting of ours is listed with value and source; those without effect by name."""
    rows = dict(re.findall(r"^\| `--([\w-]+)` \| (.*) \|$", run.card, flags=re.MULTILINE))
    (idle,) = re.findall(r"^Without effect, given the others: (.*)\.$", run.card, flags=re.MULTILINE)
    told = settings(run.plan, upstream_of_run(run.params))
    assert {each.flag for each in told} == {"method", *DEFAULTS}
    for each in told:
        name = as_flag(each.flag)
        assert (name[2:] in rows) == each.effect != (f"`{name}`" in idle), name
        if each.effect:
            assert rows[name[2:]] == f"`{base_names(each.value)}` | {each.source}", name


def check_thresholds(run: Exported) -> None:
    """Pasted, each cuts where the run cut."""
    table = dict(re.findall(r"^\| .* \| (p\d'?) \| (\S+) \|$", run.card, flags=re.MULTILINE))
    mining = run.plan.mining
    assert bool(table) == (mining is not None)
    if mining is None:
        return
    used = mining
    if mining.per_image is not None:
        rate = RateThresholds(mining)
        rate.load_state_dict(run.state["miner"]["rate"], torch.device("cpu"))
        used = rate.thresholds()
    for name in ("p1", "p2", "p3", "p1_prime"):
        text, value = table[name.replace("_prime", "'")], getattr(used, name)
        assert (text == "off") == (value is None or value > 1), name
        if text != "off":
            assert np.float32(text) == np.float32(float(value)), name


@pytest.mark.parametrize("method", METHODS)
def test_the_card_of(method, exported):
    argv, expected = RUNS[method]
    run = exported("--method", method, *argv)
    assert (
        "None" not in run.card
        and "plug-in" not in run.card
        and not re.search(r"\b1 (captions|images|epochs)\b", run.card)
    )
    for text in map(linked, expected):
        assert text in run.card, text
    # the typed plan survives params.txt
    assert plan_of_run(run.params) == run.plan
    check_settings(run)
    check_thresholds(run)
    assert ("discriminator" in run.card.replace("--discriminator", "")) == (method in ("mafa", "cosmo", "mafa-itc"))
    for pattern, told in (
        (r"Mined/image: ([\d.]+)", r"line, ([\d.]+) captions per image were mined"),
        (r"False negatives: ([\d.]+)%", r"false-negative rate was ([\d.]+)%"),
        (r"Hardest of one class: ([\d.]+)%", r"line, ([\d.]+)% of the hardest negatives were of the image's class"),
    ):
        logged, told = re.findall(pattern, run.log), re.findall(told, run.card)
        assert told == (logged[-1:] if "Mined" not in pattern or run.plan.mining is not None else []), pattern


def test_every_method_has_a_run_here():
    assert set(RUNS) == set(METHODS)
