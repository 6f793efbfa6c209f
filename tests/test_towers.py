"""Models: K captions through one tower, frozen features of the same crop, and what is written down."""

import json
from argparse import Namespace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from open_clip_fff import Batch, CaptionBatch, UsageError
from open_clip_fff.config.mining import FrozenSource
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.hooks.mining_features import FrozenFeatures
from open_clip_fff.hooks.registry import HookContext
from open_clip_fff.hub.description import describe_model
from open_clip_fff.hub.folder import write_hub_folder
from open_clip_fff.hub.loading import load_model
from open_clip_fff.models.frozen import FrozenTowers, load_frozen, same_tokens
from open_clip_fff.models.multi_caption import take_many_captions
from tests.conftest import open_clip_loads

CAPTIONS = [["a cat", "a small cat"], ["two dogs", ""], ["a red car on a road", "car"]]

TIMM_RESNET = {
    "embed_dim": 16,
    "vision_cfg": {
        "timm_model_name": "resnet10t",
        "timm_model_pretrained": False,
        "image_size": 32,
        "timm_pool": "avg",
    },
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    "custom_text": True,
}


def caption_batch(tokenizer) -> CaptionBatch:
    tokens = torch.stack([tokenizer(row) for row in CAPTIONS])
    valid = torch.tensor([[bool(text) for text in row] for row in CAPTIONS])
    raw = torch.tensor([[True, False]] * 3)
    return CaptionBatch(tokens, valid, raw, torch.arange(3), {"more": torch.ones(3, 2)})


@pytest.fixture
def model(tiny_name):
    torch.manual_seed(0)
    return open_clip.create_model(tiny_name, output_dict=True, init_logit_bias=-10.0)


def test_k_captions_give_what_each_gives_alone(model, tiny_name):
    tokenizer, images = open_clip.get_tokenizer(tiny_name), torch.randn(3, 3, 32, 32)
    alone = [model(images, tokenizer([row[k] for row in CAPTIONS])) for k in range(2)]
    names = list(model.state_dict())
    take_many_captions(model)
    output = model(images, caption_batch(tokenizer))
    assert list(model.state_dict()) == names and isinstance(model, open_clip.CLIP)
    assert output["text_features"].shape == (3, 2, 32)
    assert not output["text_features"][1, 1].any()  # padding is not encoded
    for k in range(2):
        rows = [bool(row[k]) for row in CAPTIONS]
        torch.testing.assert_close(output["text_features"][rows, k], alone[k]["text_features"][rows])
        torch.testing.assert_close(output["image_features"], alone[k]["image_features"])
    assert output["caption_valid"].tolist() == [[True, True], [True, False], [True, True]]
    assert output["text_raw"].tolist() == [[True, False]] * 3
    assert output["image_ids"].tolist() == [0, 1, 2] and output["more"].shape == (3, 2)
    # validation hands over plain tokens
    plain = model(images, tokenizer([row[0] for row in CAPTIONS]))
    torch.testing.assert_close(plain["text_features"], alone[0]["text_features"])


def test_a_model_without_named_outputs_is_refused():
    with pytest.raises(UsageError, match="--method clip"):
        take_many_captions(torch.nn.Linear(2, 2))


def test_a_timm_tower_takes_many_captions(tmp_path):
    (tmp_path / "tiny-timm.json").write_text(json.dumps(TIMM_RESNET))
    open_clip.add_model_config(tmp_path / "tiny-timm.json")
    model = open_clip.create_model("tiny-timm", output_dict=True)
    take_many_captions(model)
    output = model(torch.randn(3, 3, 32, 32), caption_batch(open_clip.get_tokenizer("tiny-timm")))
    assert output["text_features"].shape == (3, 2, 16)


def test_frozen_features_are_those_of_the_models_own_preprocessing(tiny_name, tmp_path):
    """The training crop, normalised by the trainee's mean and std, gives what the frozen model's own would."""
    torch.manual_seed(1)
    frozen = open_clip.create_model(tiny_name, force_preprocess_cfg={"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)})
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    tokenizer = open_clip.get_tokenizer(tiny_name)
    own = open_clip.image_transform(32, is_train=False, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    trainees = open_clip.image_transform(32, is_train=False)
    image = Image.fromarray(pixels)
    from open_clip_fff.models.frozen import FrozenModel

    towers = FrozenTowers(
        FrozenModel(frozen.eval(), tokenizer),
        torch.device("cpu"),
        open_clip.OPENAI_DATASET_MEAN,
        open_clip.OPENAI_DATASET_STD,
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = towers.images(trainees(image)[None])
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, frozen.encode_image(own(image)[None], normalize=True), rtol=1e-4, atol=1e-5)
    batch = caption_batch(tokenizer)
    texts = towers.texts(batch.tokens, batch.valid)
    torch.testing.assert_close(texts[1, 0], frozen.encode_text(tokenizer(["two dogs"]), normalize=True)[0])
    # another input size is resized on the device
    assert towers.images(torch.randn(2, 3, 48, 48)).shape == (2, 32)


@pytest.mark.slow
def test_a_folder_that_is_called_like_an_architecture_is_none(tiny_name, teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / tiny_name).mkdir()  # of logs, say
    frozen = load_frozen(FrozenSource(tiny_name, str(teacher)))
    assert torch.equal(frozen.model.visual.proj, torch.load(teacher)["state_dict"]["visual.proj"])
    assert load_model(f"{tiny_name},{teacher}").given == f"{tiny_name},{teacher}"


def test_the_hook_makes_its_own_tokens_only_where_they_differ(tiny_name, teacher):
    frozen = load_frozen(FrozenSource(tiny_name, str(teacher)))
    assert not any(p.requires_grad for p in frozen.model.parameters()) and not frozen.model.training
    shared, longer = open_clip.get_tokenizer(tiny_name), open_clip.get_tokenizer("ViT-B-32")
    assert same_tokens(shared, frozen.tokenizer) and not same_tokens(longer, frozen.tokenizer)

    def context(tokenizer):
        mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
        return HookContext(make_plan(Namespace()), torch.device("cpu"), mean, std, tokenizer, frozen)

    same, other = FrozenFeatures(context(shared)), FrozenFeatures(context(longer))
    assert not same.tokenizers and list(other.tokenizers) == ["mining_tokens"]
    images = torch.randn(3, 3, 32, 32)
    from_shared = same(Batch(images, caption_batch(shared)))
    batch = caption_batch(longer)
    batch.extras["mining_tokens"] = torch.stack([other.tokenizers["mining_tokens"](row) for row in CAPTIONS])
    from_own = other(Batch(images, batch))
    for name in ("mining_image_features", "mining_text_features"):
        assert torch.equal(from_shared.captions.extras[name], from_own.captions.extras[name])
    assert set(from_own.captions.extras) == {"more", "mining_image_features", "mining_text_features"}


def test_the_description_rebuilds_the_model(tiny_name, tmp_path):
    options = {"force_quick_gelu": True, "force_image_size": 48, "force_context_length": 24, "init_logit_bias": -10.0}
    model, _, preprocess = open_clip.create_model_and_transforms(tiny_name, **options, image_mean=(0.1, 0.2, 0.3))
    with torch.no_grad():
        model.logit_bias.fill_(-4.5)
    write_hub_folder(describe_model(tiny_name, model, options), model.state_dict(), tmp_path / "out", open_clip_loads)
    again, _, preprocess_again = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    assert str(preprocess) == str(preprocess_again).replace("[", "(").replace("]", ")")
    images, tokens = torch.randn(2, 3, 48, 48), open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(["a", "b c"])
    assert tokens.shape == (2, 24)
    for a, b in zip(model.eval()(images, tokens), again.eval()(images, tokens), strict=True):
        assert torch.equal(a, b)


def test_a_folder_that_holds_something_is_not_written_over(tiny_name, tmp_path):
    model = open_clip.create_model(tiny_name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="exists already"):
        write_hub_folder(describe_model(tiny_name, model, {}), model.state_dict(), tmp_path / "out", open_clip_loads)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_write_leaves_nothing(tiny_name, tmp_path):
    model = open_clip.create_model(tiny_name)
    weights = {**model.state_dict(), "visual.proj": torch.zeros(2, 2)}
    with pytest.raises(Exception, match="size mismatch"):
        write_hub_folder(describe_model(tiny_name, model, {}), weights, tmp_path / "out", open_clip_loads)
    assert list(tmp_path.iterdir()) == []
