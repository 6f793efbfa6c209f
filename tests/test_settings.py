"""Flags to plan: what a method stands for, what wins over it, and where each flag lands."""

import dataclasses
import re
from pathlib import Path

import pytest

from open_clip_fff.config.all_settings import DEFAULTS
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.flags import FLAG_GROUPS, flag_parser, flags_of
from open_clip_fff.config.flags_page import page
from open_clip_fff.config.methods import METHODS
from open_clip_fff.config.mining import FrozenSource, MiningConfig
from open_clip_fff.config.objective import LogitSettings, PositiveWeights
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.errors import UsageError


def plan(*argv: str):
    return make_plan(flag_parser().parse_args(argv))


def test_nothing_typed_is_nothing_done():
    nothing = plan()
    assert not nothing.given and nothing.loss.stock and nothing.mining is None and nothing.captions == CaptionSettings()
    assert nothing.logits == LogitSettings()


def test_fff_and_its_softmax_differ_in_the_loss_and_its_scalars_alone():
    fff, softmax = plan("--method", "fff"), plan("--method", "fff-softmax")
    assert fff.captions == softmax.captions == CaptionSettings(5, "all")
    assert fff.mining == softmax.mining == MiningConfig(0.27, 0.92, 0.99, 0.24)
    assert fff.miner == softmax.miner == FrozenSource("ViT-L-14-quickgelu", "openai")
    assert (fff.loss.name, softmax.loss.name) == ("fff", "softmax")
    assert fff.logits == LogitSettings(10.0, "auto", 20.0) and softmax.logits == LogitSettings()


def test_typed_flags_win_over_the_method():
    changed = plan(
        "--method", "fff", "--p1", "off", "--captions-per-image", "3", "--logit-bias-init", "-7", "--p2", "0.5"
    )
    assert changed.mining == MiningConfig(None, 0.5, 0.99, 0.24)
    assert changed.captions.per_image == 3 and changed.logits.bias_init == -7.0
    assert changed.given == {"method", "p1", "p2", "captions_per_image", "logit_bias_init"}


def test_a_methods_weights_do_not_go_to_another_model():
    assert plan("--method", "fff", "--mining-model", "folder").miner == FrozenSource("folder", None)


def test_every_mining_flag_lands():
    argv = ["--loss", "softmax", "--mining-features", "frozen", "--mining-model", "m", "--mining-pretrained", "t"]
    argv += ["--p1", "0.1", "--p2", "0.2", "--p3", "0.3", "--p1-prime", "0.05", "--text-text", "max"]
    argv += ["--mined-cap", "4", "--mined-as", "ignore", "--ignore-band", "0.07"]
    argv += ["--json-text-key", "a", "--no-mine-raw"]
    argv += ["--mining-warmup", "9", "--mining-guard", "--mining-margin", "95%"]
    mined = plan(*argv)
    assert mined.miner == FrozenSource("m", "t") and mined.features == "frozen"
    assert mined.mining == MiningConfig(
        0.1, 0.2, 0.3, 0.05, "max", 4, "ignore", 0.07, False, None, warmup=9, guarded=True, margin="95%"
    )


def test_what_positives_weigh_lands():
    assert plan("--method", "fff").loss.weights == PositiveWeights() and plan("--method", "clip").loss.weights.equal
    weighed = plan("--method", "fff", "--positive-weight", "mined-per-anchor", "--mined-weight", "0.5")
    assert weighed.loss.weights == PositiveWeights("mined-per-anchor", 0.5)
    assert plan("--method", "fff-softmax", "--mined-weight", "0.5").loss.weights == PositiveWeights(mined=0.5)


def test_what_follows_from_the_source_of_the_features():
    ema = plan("--method", "fff", "--mining-features", "ema", "--mining-warmup", "500")
    assert ema.ema_decay == 0.999 and ema.miner is None and ema.mining.guarded and ema.mining.warmup == 500
    online = plan("--method", "fff", "--mining-features", "online", "--mining-warmup", "5", "--no-mining-guard")
    assert online.ema_decay is None and not online.mining.guarded
    text = plan("--method", "fff", "--mining-features", "text", "--mining-model", "folder")
    assert text.mining == MiningConfig(None, None, 0.99, None) and text.miner == FrozenSource("folder")
    stored = plan("--method", "fff", "--mining-features", "precomputed", "--feature-sidecar", "d")
    assert stored.miner is None and stored.feature_sidecar == "d" and not stored.mining.guarded
    rate = plan("--method", "fff", "--mined-per-image", "2", "--p3", "off")
    assert rate.mining.per_image == 2.0 and rate.mining.p3 is None and rate.mining.p1 is not None
    assert plan("--method", "clip", "--ema-decay", "0.99").ema_decay == 0.99


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--mining-features", "online"], "--mining-warmup STEPS"),
        (["--mining-features", "ema", "--mining-warmup", "9", "--mining-model", "m"], "the trained model mines"),
        (["--mined-per-image", "1", "--p1", "0.3"], "--p1: --mined-per-image finds the thresholds"),
        (["--mined-per-image", "0"], "more than 0"),
        (["--mined-per-image", "2", "--mined-cap", "1"], "the cap leaves at most 1"),
        (["--mined-per-image", "1", "--p1", "off", "--p2", "off", "--p3", "off"], "nothing can be mined"),
        (["--mining-guard"], "add --mining-warmup STEPS"),
        (["--batch-hooks", "grit;grit"], "--batch-hooks grit;grit: name grit once"),
        (["--feature-sidecar", "d"], "does nothing without --mining-features precomputed or --group-features stored"),
        (["--mining-features", "off", "--feature-sidecar", "d"], "does nothing without --mining-features precomputed"),
        (["--ema-decay", "1"], "0 < decay < 1"),
        (["--mining-margin", "3"], "mining margin is 3: a number from -2 to 2, a percentage"),
        (["--mining-features", "text", "--mining-model", "m", "--mining-margin", "95%"], "--mining-margin: a sentence"),
        (["--mining-warmup", "-1"], "it is 0 or more"),
        (["--no-mine-raw"], "--no-mine-raw: all captions are raw, from --text-key or --csv-caption-key"),
        (["--loss", "softmax", "--loss-impl", "triton"], "--loss-impl triton: the kernel is that of --loss fff"),
        (["--loss-impl", "triton", "--mined-weight", "2"], "gives every pair the same weight: use 'tiled'"),
        (["--mining-features", "off", "--mined-weight", "0.5"], "--mined-weight 0.5: no mined pair becomes a positive"),
        (["--mined-as", "ignore", "--positive-weight", "mined-per-anchor"], "no mined pair becomes a positive here"),
        (["--method", "siglip", "--loss-impl", "triton"], "has one way only"),
        (["--loss-products", "bf16", "--loss-impl", "dense"], "(--loss-products, --loss-impl)"),
        (
            ["--method", "clip", "--loss-products", "bf16"],
            "--loss-products does nothing without --loss fff, softmax or s-itc",
        ),
    ],
)
def test_settings_that_contradict_each_other(argv, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        plan("--method", "fff", *argv)


def test_sources_keep_their_order():
    captions = plan("--text-key", "txt;caption", "--json-text-key", "b; a", "--loss", "fff").captions
    assert captions.sources == ("txt", "caption", "json:b", "json:a")
    twice = plan("--text-key", "txt;caption;txt", "--json-text-key", "b; a;json:b;re:x; re:x", "--loss", "fff").captions
    assert twice.text_keys == ("txt", "caption") and twice.sources == (*captions.sources, "json:re:x")
    beside = CaptionSettings(sidecar="d", sidecar_keys=("c", "d", "c", " d")).sources
    assert beside == ("txt", "sidecar:c", "sidecar:d")
    assert captions.policy == "all" and plan("--loss", "clip").captions.policy == "first"


@pytest.mark.parametrize(
    "argv",
    [
        ("--captions-per-image", "0"),
        ("--loss", "fff", "--logit-scale-init", "0"),
        ("--loss", "fff", "--logit-scale-init", "101"),
        ("--loss", "fff", "--logit-lr-mult", "0"),
        ("--method", "fff", "--mined-cap", "0"),
        ("--method", "grit", "--group-queue", "100"),
        ("--method", "mafa", "--discriminator", "x", "--match-positive", "0.4"),
        ("--loss", "s-itc", "--smoothing-start", "-1"),
        ("--method", "fff", "--mined-weight", "-0.5"),
    ],
)
def test_numbers_out_of_range(argv):
    with pytest.raises(UsageError, match=argv[-1]) as error:
        plan(*argv)
    assert argv[-2] in str(error.value)


def test_every_flag_has_a_default_or_is_the_method():
    flags = {action.dest for action in flag_parser()._actions}
    assert flags - {"method"} == set(DEFAULTS)
    assert all(set(preset) <= set(DEFAULTS) for preset in METHODS.values())


def test_every_flag_is_in_one_group_of_the_help_and_the_page_of_flags_is_not_stale():
    grouped = [flag.name for group in FLAG_GROUPS for flag, _ in flags_of(group)]
    assert sorted(grouped) == sorted(["method", *DEFAULTS])
    stored = (Path(__file__).parent.parent / "docs" / "flags.md").read_text(encoding="utf-8")
    assert stored == page(), "run: python -m open_clip_fff.config.flags_page > docs/flags.md"


@pytest.mark.parametrize(
    ("argv", "needs"),
    [
        (["--smoothing-over", "group"], "--smoothing-over does nothing without --loss s-itc"),
        (["--group-queue", "9"], "--group-queue does nothing without --batch-hooks grit"),
        (["--match-positive", "0.9"], "--match-positive does nothing without --discriminator KIND:NAME"),
        (["--zeroshot-sets", "a"], "--zeroshot-sets does nothing without --zeroshot-data DIR"),
        (["--raw-weight", "2"], "--raw-weight does nothing without --caption-policy sample"),
        (["--sidecar-text-key", "a"], "--sidecar-text-key does nothing without --caption-sidecar DIR"),
        (["--split-sentences"], "--split-sentences does nothing without --json-text-key FIELD or --caption-"),
        (["--p3", "off", "--p1-prime", "0.2"], "--p1-prime does nothing without --p3 COS"),
        (["--p3", "off", "--text-text", "max"], "--text-text does nothing without --p3 COS"),
        (
            ["--loss", "s-itc", "--smoothing", "0", "--smoothing-start", "0"],
            "--smoothing-start does nothing without --smoothing above 0",
        ),
        (
            ["--loss", "s-itc", "--smoothing", "0", "--smoothing-over", "group"],
            "--smoothing-over does nothing without --smoothing above 0",
        ),
        (
            ["--fusion-layers", "2", "--itm-weight", "0", "--itm-negatives", "random"],
            "--itm-negatives does nothing without --itm-weight above 0",
        ),
        (
            ["--fusion-layers", "2", "--mlm-weight", "0", "--mlm-probability", "0.3"],
            "--mlm-probability does nothing without --mlm-weight above 0",
        ),
        (["--loss", "softmax", "--positive-weight", "per-anchor"], "--positive-weight does nothing without --loss fff"),
        (
            ["--method", "clip", "--mined-weight", "2"],
            "--mined-weight does nothing without --loss fff, softmax or s-itc",
        ),
        (["--no-trim-tokens", "--length-groups", "2"], "--length-groups does nothing without --trim-tokens"),
        (["--mined-cap", "2", "--mining-features", "off"], "--mined-cap does nothing while mining is off"),
        (["--loss", "softmax", "--loss-reduction", "pairs"], "--loss-reduction does nothing without --loss fff"),
        (
            ["--mining-features", "precomputed", "--mining-pretrained", "x"],
            "--mining-pretrained does nothing without --mining-model",
        ),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(argv, needs):
    with pytest.raises(UsageError, match=needs):
        plan("--method", "fff", *argv)


def test_what_is_off_may_be_called_off():
    assert plan("--method", "fff", "--p3", "off", "--p1-prime", "off").mining == MiningConfig(p3=None, p1_prime=None)


@pytest.mark.parametrize("method", ["grit", "mafa", "cosmo", "mafa-itc", "grit-vlp", "albef"])
def test_all_captions_need_no_other_method_where_the_loss_takes_them(method):
    """Another one would take away grouped mini-batches, the discriminator and the fusion model."""
    typed = ["--method", method, "--captions-per-image", "5"]
    typed += ["--discriminator", "blip:x"] if method in ("mafa", "cosmo", "mafa-itc") else []
    with pytest.raises(UsageError, match="the first caption only; add --caption-policy all for all of them in the"):
        plan(*typed)
    assert plan(*typed, "--caption-policy", "all").captions == CaptionSettings(5, "all")


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan("--method", "fff").mining.p1 = 0.1
    with pytest.raises(TypeError):
        METHODS["fff"]["p1"] = 0.1
