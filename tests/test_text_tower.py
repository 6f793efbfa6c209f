"""The text tower on fewer tokens: the same features and gradients as at full length, or a line that says why not."""

import itertools
import json
import re
from functools import partial

import open_clip
import pandas as pd
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from transformers import M2M100Config

from open_clip_fff import CaptionBatch, FFFLoss, UsageError
from open_clip_fff.config.text import TextSettings
from open_clip_fff.devices import PerDevice
from open_clip_fff.models import unpadded_text
from open_clip_fff.models.multi_caption import take_many_captions, take_short_captions
from open_clip_fff.models.text_design import TextDesign, design_of_config, design_of_model, has_dropout
from open_clip_fff.models.unpadded_text import UnpaddedText, length_groups, remove_padding, short_context
from tests.conftest import DRAWN, TINY
from tests.test_scripts import script

# three captions an image, ragged, with copies and padding
CAPTIONS = [
    ["a cat", "a small cat on a red sofa in the sun", "a cat"],
    ["two dogs", "", ""],
    ["", "", ""],
    ["a cat", "a red car", "two dogs"],
]
TRIMMED = TextSettings(multiple=1, groups=1, distinct=False)
SETTINGS = {
    "trimmed": TRIMMED,
    "rounded": TextSettings(multiple=5, groups=1, distinct=False),
    "distinct": TextSettings(trim=False),
    "both": TextSettings(multiple=1),
}
WHOLE = TextSettings(trim=False, distinct=False)
NATIVE = {
    "clip": (open_clip.CLIP, {}),
    "custom text": (open_clip.CustomTextCLIP, {}),
    "eos": (open_clip.CustomTextCLIP, {"pool_type": "eos", "eos_id": 49407}),
    "other blocks": (open_clip.CustomTextCLIP, {"scale_heads": True, "proj_bias": True}),
}
REFUSED = {
    "last": ({"pool_type": "last"}, "the last position"),
    "first": ({"pool_type": "first"}, "the first position"),
    "bidirectional": ({"no_causal_mask": True}, "attends to all others"),
    "siglip": ({"no_causal_mask": True, "pool_type": "last", "proj_bias": True}, "attends to all others"),
    "class": ({"embed_cls": True}, "class embedding"),
}


def built(cls=open_clip.CLIP, dtype=torch.float64, **text):
    torch.manual_seed(0)
    config = {**TINY, "text_cfg": {**TINY["text_cfg"], "layers": 2, **text}}
    return cls(**config, output_dict=True).to(dtype).eval()


def caption_batch(tokenizer=None, captions=CAPTIONS) -> CaptionBatch:
    tokenizer = tokenizer or open_clip.SimpleTokenizer(context_length=16)
    tokens = torch.stack([tokenizer(row) for row in captions])
    valid = torch.tensor([[bool(text) for text in row] for row in captions])
    return CaptionBatch(tokens, valid, valid, torch.arange(len(captions)), {})


def features_and_gradients(model, settings: TextSettings, batch: CaptionBatch):
    """Of valid captions, each weighted otherwise, so that a gradient cannot come from the wrong one."""
    few, valid = UnpaddedText(model, settings), batch.valid.flatten()
    encode = partial(model.encode_text, normalize=True)
    features = few(model, encode, batch.tokens.flatten(0, 1), valid)[valid]
    model.zero_grad()
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1)).to(features)
    (features * weights).sum().backward()
    return features.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_equal_to_whole(model, settings: TextSettings, batch: CaptionBatch, tolerance: float) -> None:
    names = list(model.state_dict())
    whole, whole_gradients = features_and_gradients(model, WHOLE, batch)
    few, few_gradients = features_and_gradients(model, settings, batch)
    torch.testing.assert_close(few, whole, rtol=tolerance, atol=tolerance)
    assert whole_gradients.keys() == few_gradients.keys() and len(few_gradients) > 10
    for name, gradient in whole_gradients.items():
        close = {"rtol": tolerance, "atol": tolerance * max(1.0, gradient.abs().max().item())}
        torch.testing.assert_close(few_gradients[name], gradient, **close, msg=lambda m, name=name: f"{name}: {m}")
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("settings", SETTINGS)
def test_features_and_gradients_are_those_at_full_length(name, settings):
    cls, text = NATIVE[name]
    assert_equal_to_whole(built(cls, **text), SETTINGS[settings], caption_batch(), 1e-12)
    # processors add in different orders; the line above settles the rest
    assert_equal_to_whole(built(cls, torch.float32, **text), SETTINGS[settings], caption_batch(), 1e-5)


def test_length_groups_change_nothing_either(monkeypatch):
    monkeypatch.setattr(unpadded_text, "PASS_TOKENS", PerDevice(0, 0))
    model, batch = built(), caption_batch()
    packed = remove_padding(
        batch.tokens.flatten(0, 1), batch.valid.flatten(), design_of_model(model), TextSettings(multiple=1)
    )
    assert [tuple(group.shape) for group in packed.groups] == [(2, 4), (1, 5), (1, 12)]
    assert_equal_to_whole(model, TextSettings(multiple=1), batch, 1e-12)


def test_gradient_checkpointing(monkeypatch):
    monkeypatch.setattr(unpadded_text, "PASS_TOKENS", PerDevice(0, 0))
    for cls in (open_clip.CLIP, open_clip.CustomTextCLIP):
        model = built(cls).train()
        model.set_grad_checkpointing()
        assert_equal_to_whole(model, TextSettings(multiple=1), caption_batch(), 1e-12)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_hugging_face_tower_with_its_mask(bert_clip, settings):
    open_clip.add_model_config(bert_clip)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-bert-clip", pretrained_text=False).double().eval()
    words = [["red", "a square in red picture", "red"], ["all over", "", ""], ["", "", ""], ["red", "blue", "all over"]]
    batch = caption_batch(open_clip.get_tokenizer("tiny-bert-clip"), words)
    assert has_dropout(model) and not has_dropout(built())
    assert_equal_to_whole(model, SETTINGS[settings], batch, 1e-12)


@pytest.mark.parametrize("dropout", ["dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop"])
def test_dropout_that_is_no_module_of_its_own(tmp_path, dropout):
    """With a layerdrop alone equal captions share their features: it skips a layer for a whole batch."""
    shares = {name: 0.0 for name in ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop")}
    size = {"d_model": 32, "vocab_size": 49408, "max_position_embeddings": 40, **shares, dropout: 0.5}
    parts = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    M2M100Config(**size, **parts, encoder_ffn_dim=32, decoder_ffn_dim=32).save_pretrained(tmp_path)
    own = {"hf_model_name": str(tmp_path), "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"}
    model = open_clip.CustomTextCLIP(**{**TINY, "text_cfg": {**own, "hf_model_pretrained": False}}).train()
    torch.manual_seed(0)
    one, two = model.encode_text(caption_batch().tokens[0, :1].repeat(2, 1))
    assert has_dropout(model) == (not torch.equal(one, two)) == (dropout != "encoder_layerdrop")


@pytest.mark.parametrize("name", REFUSED)
def test_where_it_is_not_exact_captions_stay_whole(name):
    text, reason = REFUSED[name]
    model = built(open_clip.CustomTextCLIP, **text)
    assert reason in design_of_model(model).obstacle
    assert_equal_to_whole(model, TextSettings(multiple=1), caption_batch(), 1e-12)


def test_trimming_would_have_changed_what_is_refused():
    """Every obstacle is a real one (but `first`, a feature of the start token alone)."""
    tokens, length = caption_batch().tokens.flatten(0, 1), 12
    for name in ("last", "bidirectional", "siglip"):
        model = built(open_clip.CustomTextCLIP, **REFUSED[name][0])
        if model.text.attn_mask is None:
            del model.text.attn_mask
            model.text.register_buffer("attn_mask", None)
        with short_context(model, length):
            trimmed = model.encode_text(tokens[:, :length])
        assert (trimmed - model.encode_text(tokens)).abs().max() > 1e-6, name


@pytest.mark.parametrize("settings", ["both", "trimmed"])
def test_a_batch_without_any_caption_reaches_every_parameter(settings):
    model = built()
    reached = {name for name in features_and_gradients(model, WHOLE, caption_batch())[1]}
    batch = caption_batch(captions=[["", ""], ["", ""]])
    take_many_captions(model, SETTINGS[settings])
    model.zero_grad()
    output = model(torch.randn(2, 3, 32, 32).double(), batch)
    assert not output["text_features"].any()
    scalars = output["logit_scale"], torch.tensor(-2.0).double()
    FFFLoss()(
        output["image_features"], output["text_features"], *scalars, caption_valid=output["caption_valid"]
    ).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if name in reached}
    assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


def test_positions_beyond_the_longest_caption_get_no_gradient_and_come_back():
    model = built()
    whole = model.positional_embedding
    _, gradients = features_and_gradients(model, TextSettings(multiple=8), caption_batch(captions=[["a cat"]]))
    assert gradients["positional_embedding"][:4].any() and not gradients["positional_embedding"][4:].any()
    with pytest.raises(ZeroDivisionError), short_context(model, 4):
        assert model.positional_embedding.shape[0] == 4 and model.attn_mask.shape == (4, 4)
        _ = 1 / 0
    assert model.positional_embedding is whole and model.attn_mask.shape == (16, 16)


def test_fsdp2_keeps_its_shard_of_the_positions_in_a_pass_without_a_backward():
    """Clipping by OpenCLIP's main takes the parameters after such a pass; an unsharded one has no gradient."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        take_many_captions(model := built(), TRIMMED)
        fully_shard(
            model, mesh=init_device_mesh("cpu", (1,)), reshard_after_forward=True, ignored_params={model.logit_scale}
        )
        register_fsdp_forward_method(model, "encode_text")
        positions = model.positional_embedding
        with torch.no_grad():
            model(torch.randn(4, 3, 32, 32).double(), caption_batch())
        kept = model.positional_embedding is positions
        assert kept  # alone: pytest would print the two, and an unsharded parameter has no memory by now
    finally:
        torch.distributed.destroy_process_group()


def test_stock_training_takes_short_captions_and_validation_open_clips_path():
    model, tokens = built(), caption_batch().tokens[:, 0]
    images, seen = torch.randn(4, 3, 32, 32).double(), []
    whole = model(images, tokens)
    take_short_captions(model, TextSettings(multiple=1))
    model.transformer.register_forward_hook(lambda module, given, output: seen.append(tuple(output.shape[:2])))
    assert torch.equal(model(images, tokens)["text_features"], whole["text_features"]) and seen == [(4, 16)]
    trained = model.train()(images, tokens)
    torch.testing.assert_close(trained["text_features"], whole["text_features"], rtol=1e-12, atol=1e-12)
    assert seen[1:] == [(3, 4)]  # "a cat" twice


def test_lengths():
    tokens = torch.tensor([[1, 9, 0, 0], [1, 2, 9, 0], [1, 2, 3, 9], [3, 3, 3, 3]])
    assert TextDesign("argmax").lengths(tokens).tolist() == [2, 3, 4, 1]
    assert TextDesign("eos", token=2).lengths(tokens).tolist() == [1, 2, 2, 1]
    assert TextDesign("masked", causal=False, token=0).lengths(tokens).tolist() == [2, 3, 4, 4]
    in_front = torch.tensor([[0, 0, 1, 2], [0, 0, 0, 0]])
    assert TextDesign("masked", causal=False, token=0).lengths(in_front).tolist() == [4, 1]
    assert TextDesign("last").lengths(tokens).tolist() == [4] * 4


@pytest.mark.parametrize("another", [128, 512])
@pytest.mark.parametrize("most", [1, 2, 3, 6])
def test_the_split_is_the_cheapest(most, another):
    draw = torch.Generator().manual_seed(0)
    for scale in (2, 30, 300):
        lengths = torch.randint(1, 9, (40,), generator=draw).mul(8).repeat_interleave(scale).sort().values.tolist()
        groups = length_groups(lengths, most, another)
        assert sum(size for size, _ in groups) == len(lengths) and groups[-1][1] == lengths[-1]

        def cost(cuts, lengths=lengths) -> int:
            ends = [*cuts, len(lengths)]
            return sum((b - a) * lengths[b - 1] + another for a, b in itertools.pairwise([0, *ends]))

        starts = [i for i in range(1, len(lengths)) if lengths[i] != lengths[i - 1]]
        best = min(cost(cuts) for n in range(most) for cuts in itertools.combinations(starts, n))
        assert sum(size * length + another for size, length in groups) == best


def test_an_architecture_is_read_as_its_model():
    for cls, text in [*NATIVE.values(), *((open_clip.CustomTextCLIP, text) for text, _ in REFUSED.values())]:
        assert design_of_config({**TINY, "text_cfg": {**TINY["text_cfg"], **text}}) == design_of_model(
            built(cls, **text)
        )
    assert design_of_model(torch.nn.Linear(2, 2)).obstacle
    coca = open_clip.get_model_config("coca_ViT-B-32")
    assert "CoCa" in design_of_config(coca).obstacle
    for name in open_clip.list_models():  # none is unknown, and the most are trimmed
        assert design_of_config(open_clip.get_model_config(name)).known
    assert design_of_config(open_clip.get_model_config("ViT-B-32")).obstacle is None
    assert design_of_config(open_clip.get_model_config("roberta-ViT-B-32")).obstacle is None
    assert design_of_config(open_clip.get_model_config("ViT-B-16-SigLIP")).obstacle


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--no-trim-tokens", "--trim-multiple", "4"], "--trim-multiple does nothing without --trim-tokens"),
        (["--method", "clip", "--length-groups", "2"], "--length-groups does nothing without --trim-tokens"),
        (["--loss", "fff", "--trim-multiple", "0"], "--trim-multiple is 0: it is at least 1"),
        (["--loss", "fff", "--length-groups", "0"], "--length-groups is 0: at least 1"),
        (["--method", "clip", "--trim-tokens", "--torchscript"], "--torchscript: does not go with --trim-tokens"),
    ],
)
def test_mistakes(trainer, capsys, argv, line):
    assert trainer(*argv, "--name", "refused") == 2
    printed = capsys.readouterr().err
    assert line in printed and len(printed.strip().splitlines()) == 1


def architecture(tmp_path, name: str, text: dict, **more) -> list[str]:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({**TINY, "text_cfg": {**TINY["text_cfg"], **text}, "custom_text": True, **more}))
    return ["--model-config", str(path), "--model", name]


def test_a_tower_that_sees_padding_trains_at_full_length_and_refuses_to_be_trimmed(trainer, tmp_path, capsys):
    model = architecture(tmp_path, "tiny-bidirectional", {"no_causal_mask": True, "pool_type": "last"})
    argv = [*FFF, *model]
    assert trainer(*argv, "--trim-tokens", "--name", "refused") == 2
    printed = capsys.readouterr().err
    assert "--trim-tokens: would change the features of --model tiny-bidirectional: every token" in printed
    assert len(printed.strip().splitlines()) == 1 and not trainer.run("refused").exists()
    assert trainer(*argv, "--name", "whole") == 0
    assert re.search(
        r"text tower +captions at full length: every token of its text tower attends", capsys.readouterr().out
    )
    coca = {"multimodal_cfg": {"width": 32, "heads": 2, "layers": 1}}
    model = architecture(tmp_path, "tiny-writer", {"embed_cls": True, "output_tokens": True}, **coca)
    for flag, line in (("--trim-tokens", "CoCa also learns"), ("--distinct-captions", "needs each caption's tokens")):
        assert trainer("--method", "clip", *model, flag, "--name", "refused") == 2
        assert line in capsys.readouterr().err


def test_a_model_that_shows_only_once_made_is_refused_then(tiny_name):
    """As one from the hub is, whose architecture is not looked up beforehand."""
    from argparse import Namespace

    from open_clip_fff.config.resolve import make_plan
    from open_clip_fff.host.checks.flags_and_files import check_text

    plan, design = make_plan(Namespace(loss="fff", trim_tokens=True)), design_of_model(torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match="its text tower is not one that we know"):
        check_text("hf-hub:mine", plan, design)


FFF = ["--method", "fff", "--captions-per-image", "4", "--json-text-key", "captions", "--mining-features", "off"]
STILL = [
    "--opt",
    "timm/sgd",
    "--momentum",
    "0.9",
    "--lr",
    "0.05",
    "--logit-lr-mult",
    "0.1",
    "--report-to",
    "tensorboard",
    "--seed",
    "2",
]


def loss_curve(trainer, name: str) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trainer.run(name) / "tensorboard")).Reload()
    return [event.value for event in events.Scalars("train/loss")]


def assert_same_training(trainer, *names: str) -> None:
    first, second = (trainer.checkpoint(name)["state_dict"] for name in names)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    curves = [loss_curve(trainer, name) for name in names]
    assert len(curves[0]) > 1 and curves[0] == pytest.approx(curves[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv",
    [
        FFF,
        [*FFF, "--accum-freq", "2", "--batch-size", "8"],
        ["--method", "fff-softmax", *FFF[2:], "--grad-checkpointing"],
    ],
    ids=["fff", "accumulated", "checkpointed softmax"],
)
def test_a_run_is_the_same_trimmed_or_not(trainer, argv, capsys):
    whole = ["--no-trim-tokens", "--no-distinct-captions"]
    assert trainer(*argv, *STILL, "--name", "few", "--trim-multiple", "1") == 0
    assert re.search(r"text tower +captions trimmed to the longest in up to 6 groups", capsys.readouterr().out)
    assert trainer(*argv, *STILL, *whole, "--name", "whole") == 0
    assert_same_training(trainer, "few", "whole")


@pytest.mark.slow
def test_mining_by_a_frozen_model_is_the_same_trimmed_or_not(trainer, teacher):
    mines = ["--mining-model", "tiny-clip", "--mining-pretrained", str(teacher), "--p1", "0.2"]
    argv = [*FFF[:-2], *mines, *STILL]
    assert trainer(*argv, "--name", "few") == 0
    assert trainer(*argv, "--no-trim-tokens", "--no-distinct-captions", "--name", "whole") == 0
    assert_same_training(trainer, "few", "whole")
    mined = [re.findall(r"Mined/image: ([\d.]+)", trainer.log(name)) for name in ("few", "whole")]
    assert mined[0] == mined[1] and float(mined[0][0]) > 0


def test_a_stock_loss_trims_when_asked(trainer, capsys):
    assert trainer(*DRAWN, *STILL, "--name", "whole") == 0
    assert not re.search("^  text ", capsys.readouterr().out, flags=re.MULTILINE)
    assert trainer(*DRAWN, *STILL, "--trim-tokens", "--distinct-captions", "--name", "few") == 0
    assert_same_training(trainer, "few", "whole")


@pytest.mark.slow
def test_the_bench(shards, tmp_path):
    """Fewer tokens in every variant after the first, on captions of each source."""
    out = tmp_path / "text.csv"
    sizes = ["--batch-sizes", "8", "--rounds", "1", "--width", "32", "--layers", "1", "--captions-per-image", "2"]
    done = script("scripts/bench_text.py", "--out", out, "--captions-from", shards / "00.tar", *sizes)
    assert done.returncode == 0, done.stderr[-2000:]
    table = pd.read_csv(out)
    assert list(table["captions"].unique()) == ["8-14 words", "repeated", "00"] and len(table) == 12
    for _, rows in table.groupby("captions"):
        assert rows["tokens"].iloc[0] == 16 * 77 and rows["tokens"].is_monotonic_decreasing
        assert (rows["tokens"].iloc[1:] <= 16 * 24).all() and (rows["speed-up"] > 0).all()
