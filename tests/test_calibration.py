"""Thresholds from data: quantiles that mine what was asked, and the sample they come from."""

import io

import open_clip
import pytest
import torch
from PIL import Image

from open_clip_fff import UsageError, sample_id
from open_clip_fff.assignment import mine
from open_clip_fff.calibration import mining_flags, quantile_thresholds, sample_features
from open_clip_fff.settings import CaptionSettings, FrozenSource, MiningConfig, make_plan
from open_clip_fff.settings.flags import flag_parser
from open_clip_fff.towers.frozen import load_frozen
from tests.conftest import colour_sample, write_tar
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
    flags = mining_flags(source, config)
    plan = make_plan(flag_parser().parse_args(["--loss", "fff", "--mining-features", "frozen", *flags]))
    assert plan.miner == source and plan.mining == MiningConfig(0.3123, None, 0.5, -0.25)
    assert "--mining-pretrained" not in mining_flags(FrozenSource("folder"), config)


def test_the_sample_is_what_the_model_sees(shards, teacher, tiny_name):
    frozen = load_frozen(FrozenSource(tiny_name, str(teacher)))
    f = sample_features([str(shards / "00.tar"), str(shards / "01.tar")], CAPTIONS, frozen, limit=20)
    assert f.image.shape == (20, 32) and f.text.shape == (20, 3, 32) and f.image.dtype == torch.float32
    assert f.ids[17] == sample_id("01.tar", "0001")
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
    with pytest.raises(UsageError, match="no image with captions"):
        sample_features([str(write_tar(tmp_path / "b.tar", {"2": samples["2"]}))], CAPTIONS, frozen, 9)
