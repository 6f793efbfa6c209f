"""What a run is described as: every setting by itself, and each kind of run truly."""

import dataclasses
import shlex
from typing import get_args, get_type_hints

import pytest

from open_clip_fff.config.all_settings import DEFAULTS
from open_clip_fff.config.description import OWNERS, describe, settings
from open_clip_fff.config.fields import fields_by_flag
from open_clip_fff.config.flags import flag_parser
from open_clip_fff.config.methods import METHODS, TITLES
from open_clip_fff.config.open_clip import Upstream
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.config.topics import code, plain, plan_lines
from open_clip_fff.errors import UsageError
from open_clip_fff.hub import run_facts
from open_clip_fff.hub.params import plan_of_run, read_params, upstream_of_run

TARS = Upstream(model="ViT-B-32", train_data="a.tar")
# fields that no flag of ours fills, beside other settings: what was typed, and what OpenCLIP's flags say
UNFILLED = {"method", "given", "values", "dist_impl", "shards"}


def plan(*argv: str) -> Plan:
    return make_plan(flag_parser().parse_args(argv))


def words(*argv: str, upstream: Upstream = TARS, **more) -> dict[str, str]:
    """The topics of a command line's flags."""
    return {topic.name: plain("; ".join(topic.parts)) for topic in describe(plan(*argv), upstream, **more)}


def test_every_flag_is_a_field_and_every_field_a_flag():
    flags = [flag for owner in OWNERS for flag in fields_by_flag(owner)]
    assert len(flags) == len(set(flags)) and set(flags) == set(DEFAULTS)
    assert {action.dest for action in flag_parser()._actions} == {*flags, "method"}
    for owner in OWNERS:
        hints, own = get_type_hints(owner), {field.name for field in fields_by_flag(owner).values()}
        others = {field.name for field in dataclasses.fields(owner)} - own - UNFILLED
        parts = {name for name in others if any(map(dataclasses.is_dataclass, (hints[name], *get_args(hints[name]))))}
        assert others == parts, owner
    assert set(TITLES) == set(METHODS)


@pytest.mark.parametrize("method", [None, *METHODS])
def test_every_setting_is_told(method):
    argv = ["--method", method] if method else ["--loss", "softmax"]
    argv += ["--discriminator", "blip:x"] if method in ("mafa", "cosmo", "mafa-itc") else []
    told = settings(plan(*argv), TARS)
    assert told[0].flag == "method" and {each.flag for each in told} == {"method", *DEFAULTS}
    for each in told:
        expected = "given" if f"--{each.flag.replace('_', '-')}" in argv else None
        if expected is None and method and each.flag in METHODS[method]:
            expected = f"method {method}"
        assert each.source == (expected or each.source) and each.source in (
            "given",
            "default",
            "the other settings",
            expected,
        )
        assert each.value and "None" not in each.value


def test_whose_a_setting_is_and_whether_it_does_anything():
    argv = [
        "--method",
        "fff",
        "--mined-per-image",
        "3",
        "--p3",
        "off",
        "--json-text-key",
        "a;b",
        "--caption-words",
        "3:",
    ]
    told = {each.flag: each[1:] for each in settings(plan(*argv), TARS)}
    assert told["p1"] == ("found in training", "method fff", True) and told["p3"] == ("off", "given", True)
    assert told["text_text"][2] is told["p1_prime"][2] is False  # the clause is off
    assert told["json_text_key"][:2] == ("a;b", "given") and told["caption_words"][0] == "3:"
    assert told["trim_tokens"] == ("yes", "the other settings", True) and told["mined_cap"] == ("none", "default", True)
    assert told["smoothing"] == ("0.5", "default", False) and told["group_queue"][2] is False
    assert told["discriminator"] == ("none", "default", True) and told["match_positive"][2] is False
    off = {each.flag: each for each in settings(plan("--method", "fff", "--mining-features", "off"), TARS)}
    assert (
        off["mining_features"][1:] == ("off", "given", True) and not off["p1"].effect and not off["mining_model"].effect
    )
    csv = {each.flag: each for each in settings(plan("--method", "fff"), Upstream(train_data="a.csv"))}
    assert not csv["text_key"].effect and csv["captions_per_image"].effect


def test_a_rate_of_one_is_a_caption():
    for rate, held in (("1", "that give 1 caption per image"), ("1.5", "that give 1.5 captions per image")):
        assert held in words("--method", "fff", "--mined-per-image", rate)["mining"]


def test_losses_are_who_they_are(tmp_path):
    assert "FFF's Eq. 2 (arXiv 2405.10286)" in words("--method", "fff")["loss"]
    assert "counted pairs" in words("--method", "fff", "--loss-reduction", "pairs")["loss"]
    assert "not the paper's" in words("--method", "fff-softmax")["loss"]
    anchor = words("--method", "fff", "--positive-weight", "per-anchor", "--loss-reduction", "pairs")["loss"]
    assert "the positives of an image weigh 1 together" in anchor and "by the weights of the counted pairs" in anchor
    light = words("--method", "fff-softmax", "--mined-weight", "0.5")["loss"]
    assert "a mined positive weighs 0.5 where an own caption weighs 1" in light
    mined = words("--method", "fff", "--positive-weight", "mined-per-anchor")["loss"]
    assert "an own caption weighs 1, the mined positives of an image together 1;" in mined + ";"
    one = words("--loss", "softmax", "--caption-policy", "first")["loss"]
    assert one == (
        "a softmax with one caption per image, CLIP's (arXiv 2103.00020), "
        "but rows of the same image are positives of each other"
    )
    assert "any number" in words("--loss", "softmax", "--captions-per-image", "2")["loss"]
    itc = words("--loss", "s-itc", "--itc-stop-gradient", "--itc-consistency", "0.2", trained=1)["loss"]
    assert "MAFA's S-ITC (arXiv 2312.06112)" in itc and "0.2 times a consistency" in itc
    assert "from epoch 1 on, which 1 epoch of training did not reach" in itc and itc.count("arXiv 2208.04060") == 2
    assert "not reach" not in words("--loss", "s-itc", trained=2)["loss"]
    assert "no smoothing" in words("--loss", "s-itc", "--smoothing", "0")["loss"]
    assert words("--loss", "hinge", "--plugin", "my.parts")["loss"] == "hinge, a loss of a plug-in (my.parts)"


def test_open_clips_own_losses_are_chosen_as_it_chooses():
    stock = {
        "ClipLoss": (Upstream(), ()),
        "SigLipLoss": (Upstream(siglip=True), ("--method", "siglip")),
        "CoCaLoss": (Upstream(model="coca_ViT-B-32", siglip=True), ()),
        "DistillClipLoss": (Upstream(siglip=True, distill_model="a", distill_pretrained="b"), ("--method", "siglip")),
    }
    for name, (upstream, argv) in stock.items():
        assert words(*argv, upstream=upstream)["loss"].startswith(f"OpenCLIP's {name}")
    for teacher, named in (("a", "a, b"), ("local-dir:a", "local-dir:a")):  # the latter brings its weights
        told = words(upstream=Upstream(distill_model=teacher, distill_pretrained="b"))["loss"]
        assert told.endswith(f"that of a teacher, {named}")
    assert "method" not in words() and "logits" not in words()


def test_pairs_that_were_missed_may_be_ambiguous():
    rates = {"rate": 0.0, "ambiguous": 1.0, "missed": 1.0}
    stats = run_facts.SavedStats(seen={f"train/false_negatives_{name}": share for name, share in rates.items()})
    (said,) = stats.sentences(plan())
    assert said.endswith("100.0% were ambiguous, 100.0% of the pairs of one class were not called matches.")


def test_captions():
    def told(*argv: str, **more) -> str:
        return words("--loss", "fff", *argv, **more)["captions"]

    assert told("--json-text-key", "a") == "one per image, the first that is not empty; from txt, json:a"
    assert told() == "one per image; from txt"
    assert told("--captions-per-image", "5") == "up to 5 per image, all in the same batch; from txt"
    drawn = told("--captions-per-image", "5", "--caption-policy", "sample", "--raw-weight", "0.25")
    assert drawn.startswith("one of an image's first 5, drawn anew") and "weighs 0.25" in drawn
    beside = told(
        "--caption-sidecar", "dir", "--sidecar-text-key", "a;b", "--split-sentences", "--caption-words", ":30"
    )
    assert "from txt, a, b of the sidecar dir; cut into sentences" in beside and "of up to 30 words" in beside
    assert "of 3 to 30 words" in told("--caption-words", "3:30") and "of 3 words or more" in told(
        "--caption-words", "3:"
    )
    assert "nothing is trained on them" in told(
        "--class-key", "cls", "--mining-features", "frozen", "--mining-model", "m"
    )
    csv = Upstream(train_data="a.csv", csv_caption_key="title;blip")
    assert told(upstream=csv).endswith("from the CSV's title, blip")
    assert told(upstream=Upstream(dataset_type="synthetic")).endswith("from OpenCLIP's synthetic data")


def test_mining_by_whom_and_whereby():
    def told(*argv: str) -> str:
        return words("--method", "fff", *argv)["mining"]

    generated = "--no-mine-raw", "--json-text-key", "a"
    frozen = told("--p2", "0.99962", "--mined-as", "ignore", "--mined-cap", "1", "--ignore-band", "0.01", *generated)
    for clause in (
        "leave the loss where FFF's Eq. 1 holds (arXiv 2405.10286)",
        "a frozen model, ViT-L-14-quickgelu (openai), which sees the same crops",
        "image-image > p2 0.99962, text-text (pooled) > p3 0.99 where image-text > p1' 0.24",
        "at most 1 per image",
        "raw captions take no part",
        "pairs up to 0.01 below the thresholds",
    ):
        assert clause in frozen
    assert "p3 off; " in told("--p3", "off", "--mining-warmup", "9") + "; " and "where image-text" not in told(
        "--p3", "off"
    )
    assert "only above 95% of the mean image-text cosine of the image's own captions" in told("--mining-margin", "95%")
    assert "only above the mean image-text cosine of the image's own captions less 0.1" in told(
        "--mining-margin", "0.1"
    )
    assert "features stored beside the images in the tars;" in told("--mining-features", "precomputed")
    sidecar = told("--mining-features", "precomputed", "--feature-sidecar", "d", "--mining-model", "m")
    assert "features stored in the sidecar d, of m" in sidecar
    text = told("--mining-features", "text", "--mining-model", "minilm")
    assert (
        "a sentence model, minilm, which sees captions alone; p1 off, p2 off, text-text (pooled) > p3 0.99, p1' off"
        in text
    )
    capped = told("--mining-features", "text", "--mining-model", "minilm", "--mined-cap", "2")
    assert "at most 2 per image, best text-text cosine first" in capped
    assert "at most 1 per image, best image-text cosine first" in frozen
    ema = told("--mining-features", "ema", "--mining-warmup", "500")
    assert "the moving average of the trained model itself" in ema and "from step 500 on; guarded" in ema
    rate = told("--mined-per-image", "2.5", "--p1", "off")
    assert "by image-image, text-text (pooled) at the thresholds that give 2.5 captions per image, found" in rate
    assert words("--method", "grit")["mining"] == "nothing: an image's positives are its own captions alone"
    judged = words("--method", "mafa", "--discriminator", "blip:x")["mining"]
    assert judged == "nothing by FFF's Eq. 1, so that further positives are the discriminator's alone"


def test_a_discriminator():
    mined = ["--mining-features", "frozen", "--mining-model", "m", "--match-gate", "0.15", "--discriminator-start", "2"]
    argv = ["--method", "mafa", "--discriminator", "open_clip:ViT-B-32/openai", "--match-positive", "0.99962"]
    told = words(*argv, *mined, "--discriminator-cache", "kept", trained=2)["discriminator"]
    for clause in (
        "open_clip:ViT-B-32/openai (an OpenCLIP model, whose match score is its cosine), frozen, scores pairs",
        "match score above 0.99962 a positive, below 0.5 a negative, between them out of the loss",
        "only in the direction that found the pair",
        "only where the mining features' cosine is above 0.15",
        "from epoch 2 on, which 2 epochs of training did not reach",
        "scores are kept in kept",
    ):
        assert clause in told, told
    assert "both directions" in words("--loss", "fff", "--discriminator", "mine")["discriminator"]
    assert "discriminator" not in words("--method", "grit")


def test_logits_start_where_they_start():
    assert words("--method", "fff")["logits"] == (
        "scale starts at 10; bias at what is measured before the first step; learning at 20 times the towers' rate"
    )
    typed = words("--method", "fff", "--logit-bias-init", "-7", "--logit-lr-mult", "1")["logits"]
    assert "bias at -7; learning at the towers' rate" in typed
    weights = Upstream(model="ViT-B-32", pretrained="x.pt")
    loaded = words("--method", "fff", upstream=weights)["logits"]
    assert loaded.startswith(
        "scale starts at that of the weights that training starts from; bias at that of the weights"
    )
    assert "scale starts at 5;" in words("--method", "fff", "--logit-scale-init", "5", upstream=weights)["logits"]
    for resume, found in (("latest", "the last checkpoint, if there is one"), ("epoch_1.pt", "the checkpoint")):
        resumed = words("--method", "fff", "--logit-scale-init", "5", upstream=Upstream(resume=resume))["logits"]
        assert resumed == f"scale and bias go on from {found}; learning at 20 times the towers' rate"
    assert "starts at 10" in words("--method", "fff", upstream=Upstream(resume="latest"), trained=2)["logits"]  # a card
    assert "bias" not in words("--method", "fff-softmax")["logits"] + words("--method", "clip")["logits"]
    assert "bias at OpenCLIP's -10" in words("--method", "siglip")["logits"]
    assert "bias, if the loss has one," in words("--loss", "hinge")["logits"]


def test_grouping_average_scores_and_hooks():
    grouped = ["--method", "grit", "--group-share", "0.5", "--group-quantile", "0.9"]
    told = words(
        *grouped, "--batch-hooks", "grit;mine", "--ema-decay", "0.9999999", "--zeroshot-data", "sets", trained=1
    )
    assert "which 1 epoch of training did not reach (epoch 0 is random)" in told["grouping"]
    assert "0.5 of the mini-batches" in told["grouping"] and "similarity quantile 0.9" in told["grouping"]
    assert "min(0.9999999, steps / (10 + steps))" in told["weights"] and told["hooks"] == "each batch passes mine"
    assert told["zero-shot"] == "all sets in sets scored as training goes on"
    assert "that were stored" in words(*grouped, "--group-features", "stored")["grouping"]


def test_the_text_tower():
    assert "trimmed to the longest in up to 6 groups" in words("--method", "fff")["text tower"]
    assert "at full length: it sees padding" in words("--method", "fff", full_length="it sees padding")["text tower"]
    assert "unless" not in words("--method", "fff", "--distinct-captions")["text tower"] and "text" not in words(
        "--method", "clip"
    )


def test_a_name_is_a_name_whatever_is_in_it():
    assert code("a`b") == "`` a`b ``" and plain(f"x {code('a`b')}, {code('c')}") == "x a`b, c"
    lines = plan_lines(describe(plan("--method", "fff", "--mined-per-image", "3", "--mining-model", "x" * 80), TARS))
    assert all(line.startswith("  ") for line in lines) and not any("`" in line for line in lines)
    assert [line[:17].strip() for line in lines if line[2] != " "][:3] == ["method", "loss", "captions"]


AVERAGED = ["--json-text-key", "c", "--ema-decay", "0.9"]
MORE = ["--mining-model", "a folder", "--zeroshot-data", "sets", "--zeroshot-sets", "x;y", "--group-share", "1"]


@pytest.mark.parametrize(
    "argv",
    [
        ["--method", "fff", "--mining-model", "123", "--mining-pretrained", "'x'", "--p2", "off", "--p1", "1e-05"],
        ["--method", "fff", "--logit-bias-init", "-7", "--caption-words", "3:", "--no-mine-raw", *AVERAGED],
        ["--loss", "hinge", "--plugin", "a", "--plugin", "b", "--text-key", "", "--json-text-key", "re:(?:a|b) c;d"],
        ["--method", "mafa", "--discriminator", "blip:x", "--match-gate", "0", "--mining-features", "frozen", *MORE],
    ],
)
def test_a_plan_comes_back_from_params_txt(argv, tmp_path):
    """As OpenCLIP writes it, each value by `str`; the command says what was typed."""
    made = plan(*argv)
    values = {"method": made.method, **made.values, "model": "ViT-B-32", "siglip": False, "pretrained": ""}
    values["command"] = shlex.join(["python", "-m", "open_clip_fff.train", "--epochs", "3", *argv])
    (tmp_path / "params.txt").write_text("".join(f"{name}: {value}\n" for name, value in sorted(values.items())))
    params = read_params(tmp_path)
    assert plan_of_run(params) == made and upstream_of_run(params) == Upstream(model="ViT-B-32", pretrained="")
    del params["group_share"]  # a run of a release that did not have it
    assert plan_of_run(params).values == made.values
    with pytest.raises(UsageError, match=r"params\.txt of the run: logit learning-rate multiple is 0"):
        plan_of_run({**params, "logit_lr_mult": "0"})
    with pytest.raises(UsageError, match=r"params\.txt of the run: "):
        plan_of_run({**params, "captions_per_image": "many"})
    with pytest.raises(UsageError, match=r"params\.txt of the run: batch_size is 'many', and a number is needed"):
        run_facts.batch({**params, "batch_size": "many"})
