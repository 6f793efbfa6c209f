"""Thresholds from data: quantiles that mine what was asked, and the sample they come from."""

import io
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from open_clip_fff import sample_id
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.flags import flag_parser
from open_clip_fff.config.mining import FrozenSource, MiningConfig
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.mining.clauses import mine
from open_clip_fff.models.frozen import load_frozen
from open_clip_fff.tools.calibrate.run import feature_flags, model_flags, threshold_flags
from open_clip_fff.tools.calibrate.table import false_negatives
from tests.conftest import colour_sample, write_tar
from tests.quantiles import quantile_thresholds
from tests.samples import reading, sample_features
from tests.test_assignment import OFF, random_features

CAPTIONS = CaptionSettings(3, "all", ("txt",), ("captions",))


def test_quantile_thresholds_mine_what_was_asked():
    f = random_features(200, 3, d=16)
    batch, per_image = 50, 2.0
    config = quantile_thresholds(f, batch, per_image)
    for name in ("p1", "p2", "p3"):
        alone = MiningConfig(**{**OFF, name: getattr(config, name)})
        per_batch = mine(f, f, alone).pairs.sum().item() / 200 * (batch - 1) / 199
        assert per_batch == pytest.approx(per_image, rel=0.05), name
    assert config.p1_prime <= config.p1
    with pytest.raises(ValueError, match="sample more images"):
        quantile_thresholds(random_features(5, 1), 4096, 0.1)


def test_flags_say_what_was_meant():
    source, config = FrozenSource("m", "t"), MiningConfig(0.31234, None, 0.5, -0.25)
    flags = [*model_flags(source), *threshold_flags(config)]
    plan = make_plan(flag_parser().parse_args(["--loss", "fff", "--mining-features", "frozen", *flags]))
    assert plan.miner == source and plan.mining == MiningConfig(0.31234, None, 0.5, -0.25)
    assert "--mining-pretrained" not in model_flags(FrozenSource("folder"))
    parse = lambda *argv: make_plan(flag_parser().parse_args(["--loss", "fff", *argv]))  # noqa: E731
    by_max = parse("--mining-features", "frozen", "--mining-model", "m", "--text-text", "max")
    for config in (by_max.mining, replace(by_max.mining, p3=None, p1_prime=None)):  # p3 may be proposed off
        given = parse(*feature_flags(by_max, config), *threshold_flags(config)).mining
        assert given == (config if config.p3 is not None else replace(config, text_text="pooled"))


def test_the_sample_is_what_the_model_sees(shards, teacher, tiny_name):
    frozen = load_frozen(FrozenSource(tiny_name, str(teacher)))
    f = sample_features([str(shards / "00.tar"), str(shards / "01.tar")], CAPTIONS, frozen, limit=20)
    assert f.image.shape == (20, 32) and f.text.shape == (20, 3, 32) and f.image.dtype == torch.float32
    assert f.ids[17] == sample_id(colour_sample(17)["png"])
    # row 16 has a raw caption and one more, row 18 more than K
    assert f.valid[16].tolist() == [True, True, False] and f.valid[18].tolist() == [True, True, True]
    preprocess = open_clip.image_transform(32, is_train=False)
    image = preprocess(Image.open(io.BytesIO(colour_sample(17)["png"])))[None]
    torch.testing.assert_close(f.image[17], frozen.model.encode_image(image, normalize=True)[0])
    tokens = frozen.tokenizer(["a green square"])
    torch.testing.assert_close(f.text[17, 1], frozen.model.encode_text(tokens, normalize=True)[0])


def test_rows_that_cannot_be_read_are_passed_over(tmp_path, teacher, tiny_name):
    samples = {f"{row}": colour_sample(row) for row in range(4)}
    samples["1"]["png"] = b"no image"
    samples["2"] = {"png": samples["2"]["png"]}
    frozen = load_frozen(FrozenSource(tiny_name, str(teacher)))
    assert len(sample_features([str(write_tar(tmp_path / "a.tar", samples))], CAPTIONS, frozen, 9).ids) == 2
    none = reading([str(write_tar(tmp_path / "b.tar", {"2": samples["2"]}))], CAPTIONS, frozen)
    assert not list(none.chunks()) and none.skipped == [("2", "no caption")]


def test_false_negatives_are_those_of_drawn_batches():
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    table = false_negatives(labels, np.array([2, 8]))
    random, met = np.random.default_rng(0), []
    for _ in range(4000):
        batch = random.choice(labels, 8)
        met.append((batch[1:] == batch[0]).sum())
    assert table["per_image"][1] == pytest.approx(np.mean(met), rel=0.05)
    assert table["share"][1] == pytest.approx((np.array(met) > 0).mean(), rel=0.05)
    assert table["share"][0] == pytest.approx(0.38)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [["--class-key", "width"], []])
def test_the_program_draws_what_there_is(program, shards, teacher, tiny_name, tmp_path, classes):
    batch = ["--batch-size", "16"]
    common = [f"{tiny_name},{teacher}", str(shards / "{00..01}.tar"), "--json-text-key", "captions", *classes, *batch]
    done = program("similarities", *common, "--out", tmp_path / "out")
    drawn = {path.name for path in (tmp_path / "out").iterdir()}
    assert drawn - {"false-negatives.png"} == {"thresholds.csv", "flags.txt", "cosines.png", "rates.png"}
    assert ("false-negatives.png" in drawn) == bool(classes)
    assert ("are unknown" in done.out) == (not classes)
    for wrong, named in (
        ([*common, "--imagess", "3"], "--imagess"),
        ([common[0], str(tmp_path / "no.tar")], "no.tar"),
        ([common[0], __file__], "cannot be read as a tar"),
        (["nothing", *common[1:]], "nothing"),
        ([*common, "--images", "1"], "--images 1"),
        ([*common[:4], *batch, "--class-key", "nope"], "--class-key nope"),
    ):
        error = program("similarities", *wrong, expect=2).err.strip()
        assert named in error and len(error.splitlines()) == 1
