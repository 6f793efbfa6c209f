"""Architectures of one's own whose text tower cannot read what its tokenizer gives it."""

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from transformers import AutoConfig, AutoModel, M2M100Config

from open_clip_fff import UsageError
from open_clip_fff.config.mining import FrozenSource
from open_clip_fff.export import main as export
from open_clip_fff.host.checks.architecture import check_architecture
from open_clip_fff.host.checks.text_tower import check_text_tower
from open_clip_fff.hub.loading import load_model
from open_clip_fff.models.frozen import load_frozen
from open_clip_fff.models.text_tokens import TextLimits, tokens_given
from scripts.faulty.inputs import TINY

NATIVE = TINY["text_cfg"]
OURS = ["--method", "fff-softmax", "--mining-features", "off", "--captions-per-image", "1"]


def run(trainer, tmp_path, capsys, text, *argv):
    """Trains with these text towers; returns the exit code and what was printed."""
    path = tmp_path / "own.json"
    path.write_text(json.dumps({**TINY, "custom_text": True, "text_cfg": text}))
    trainer.config = path
    code = trainer("--model", "own", "--name", "x", *argv)
    printed = capsys.readouterr()
    return code, printed.err if code else printed.out


@pytest.mark.parametrize("flags", [[], OURS], ids=["stock", "ours"])
def test_a_native_tower(trainer, tmp_path, capsys, flags):
    code, err = run(trainer, tmp_path, capsys, {**NATIVE, "vocab_size": 32000}, *flags)
    assert code == 2 and "knows 32,000 tokens, its tokenizer gives 49,408; write that as vocab_size" in err
    code, err = run(trainer, tmp_path, capsys, {**NATIVE, "pool_type": "none"}, *flags)
    assert code == 2 and "--model own: pool_type none makes no feature" in err
    assert not trainer.logs.exists()


@pytest.mark.parametrize("flags", [[], OURS], ids=["stock", "ours"])
def test_a_projection_with_a_bias_is_not_cast(trainer, tmp_path, capsys, flags):
    text = {**NATIVE, "proj_bias": True}
    code, err = run(trainer, tmp_path, capsys, text, *flags, "--precision", "bf16")
    assert code == 2 and "--precision bf16: --model own has a text tower with proj_bias" in err
    assert run(trainer, tmp_path, capsys, text, *flags, "--precision", "pure_bf16")[0] == 0


@pytest.mark.parametrize(
    ("part", "fields", "says"),
    [
        ("text_cfg", {"heads": 5}, "text_cfg: heads 5: has to divide width, which is 8"),
        ("vision_cfg", {"head_width": 64}, "vision_cfg: head_width 64: has to divide width, which is 32"),
        ("text_cfg", {"width": "8"}, "text_cfg: width '8': has to be a whole number"),
        ("text_cfg", {"embed_cls": "true"}, "text_cfg: embed_cls 'true': has to be true or false"),
        ("vision_cfg", {"layers": "1"}, "vision_cfg: layers '1': has to be a whole number or a list"),
        ("vision_cfg", {"layers": -1}, "vision_cfg: layers -1: has to be a whole number, 1 or more"),
        ("vision_cfg", {"mlp_ratio": "4"}, "vision_cfg: mlp_ratio '4': has to be a number"),
        ("vision_cfg", {"patch_size": 0}, "vision_cfg: patch_size 0: has to be a whole number, 1 or more"),
        ("vision_cfg", {"image_size": [32]}, "vision_cfg: image_size [32]: has to be one number, or height and width"),
        ("vision_cfg", {"pool_type": "max"}, "vision_cfg: pool_type 'max': choose tok, avg or none"),
        ("text_cfg", {"pool_type": "tok"}, "text_cfg: pool_type 'tok': choose argmax, first, last, eos or none"),
        ("vision_cfg", {"witdh": 32}, "vision_cfg has no field witdh (did you mean width?)"),
        ("vision_cfg", {"timm_model_name": "resnet51"}, "vision_cfg: timm_model_name resnet51: timm has no such model"),
    ],
)
def test_a_field_that_open_clip_cannot_use(trainer, tmp_path, capsys, part, fields, says):
    path = tmp_path / "fields.json"
    path.write_text(json.dumps({**TINY, part: {**TINY[part], **fields}}))
    trainer.config = path
    assert trainer("--model", "fields", "--name", "x") == 2
    assert f"--model fields: fields.json: {says}" in capsys.readouterr().err and not trainer.logs.exists()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"quick_gelu": "false"}, "tiny.json: quick_gelu 'false': has to be true or false"),
        ({"custom_text": "no"}, "tiny.json: custom_text 'no': has to be true or false"),
        ({"init_logit_scale": "2.6"}, "tiny.json: init_logit_scale '2.6': has to be a number"),
        ({"init_logit_bias": "-10"}, "tiny.json: init_logit_bias '-10': has to be a number"),
        ({"init_logit_bais": -10}, "tiny.json has no field init_logit_bais (did you mean init_logit_bias?)"),
        (
            {"vision_cfg": {"layers": [1, 1, 1], "width": 8}},
            "layers [1, 1, 1]: has to be one number, or a ResNet's four",
        ),
    ],
)
def test_a_field_of_the_model_that_open_clip_cannot_use(fields, says):
    with pytest.raises(UsageError, match=f"--model tiny: .*{re.escape(says)}"):
        check_architecture("tiny", {**TINY, **fields})


def timm_model(name: str, size: int) -> dict:
    vision = {"timm_model_name": name, "timm_pool": "", "timm_proj": "linear", "image_size": size}
    return {**TINY, "vision_cfg": vision}


def test_a_timm_tower_reads_images_of_its_own_size(trainer, tmp_path, capsys):
    trainer.config = tmp_path / "own.json"
    trainer.config.write_text(json.dumps(timm_model("test_vit3", 32)))
    assert trainer("--model", "own", "--name", "x") == 2 and not trainer.logs.exists()
    says = (
        "--model own: own.json: vision_cfg: image_size 32: test_vit3 reads 160 x 160 (Input height (32) doesn't match"
    )
    assert says in capsys.readouterr().err
    assert trainer("--model", "own", "--name", "x", "--method", "clip", "--force-image-size", "32") == 0
    assert "warning: --force-image-size: it gives test_vit3 weights of other shapes" in capsys.readouterr().out
    trainer.config.write_text(json.dumps(timm_model("test_resnet", 32)))  # reads any
    assert trainer("--model", "own", "--name", "y", "--method", "clip") == 0


def test_an_embed_dim_of_nothing(trainer, tmp_path, capsys):
    trainer.config = tmp_path / "narrow.json"
    trainer.config.write_text(json.dumps({**TINY, "embed_dim": 0}))
    assert trainer("--model", "narrow", "--name", "x") == 2 and not trainer.logs.exists()
    assert "--model narrow: narrow.json: embed_dim 0: has to be a whole number, 1 or more" in capsys.readouterr().err


def test_open_clip_s_own_architectures_have_fields_that_fit():
    for path in (Path(open_clip.__file__).parent / "model_configs").glob("*.json"):
        config = json.loads(path.read_text())
        if {"text_cfg", "vision_cfg"} <= config.keys() and "genlip_cfg" not in config:  # as main's others, not trained
            check_architecture(path.stem, config)


@pytest.mark.parametrize(
    ("text", "tower", "says"),
    [
        ({}, {"vocab_size": 20}, "its text tower knows 20 tokens, its tokenizer gives 2"),
        ({}, {"max_position_embeddings": 8}, "context_length 16: NAME reads at most 8 tokens; write 8"),
        ({}, {"model_type": "roberta", "max_position_embeddings": 8, "pad_token_id": 1}, "reads at most 6 tokens"),
        ({}, {"model_type": "distilbert"}, "hf_model_name NAME is a distilbert, and OpenCLIP takes roberta, "),
        ({}, {"model_type": "chinese_clip"}, "hf_model_name NAME is a chinese_clip, and OpenCLIP takes roberta, "),
        ({}, {"pad_token_id": None}, "the config.json of hf_model_name NAME has no pad_token_id"),
        ({"hf_proj_type": None}, {"hidden_size": 48}, "hf_proj_type None: the features of NAME are 48 wide"),
        ({"hf_proj_type": "none"}, {}, "hf_proj_type none: the features of NAME are 32 wide, and embed_dim is 32"),
        ({"hf_pooler_type": "mean"}, {}, "hf_pooler_type mean: there is no such pooler; choose mean_pooler"),
        ({"hf_pooler_type": "max_pooler"}, {}, "hf_pooler_type max_pooler: OpenCLIP's fails"),
    ],
)
def test_a_tower_of_transformers(trainer, bert_clip, tmp_path, capsys, text, tower, says):
    code, err = run(trainer, tmp_path, capsys, changed(bert_clip, tmp_path, tower) | text, *OURS)
    assert code == 2 and says.replace("NAME", str(tmp_path / "tower")) in err and len(err.splitlines()) == 1
    assert not trainer.logs.exists()


def test_layers_that_are_skipped_are_refused_on_several_ranks(tmp_path):
    """transformers skips 5% of m2m_100's by default, at which torch's DDP ends."""
    M2M100Config(d_model=32).save_pretrained(tmp_path)
    text = {"hf_model_name": str(tmp_path), "hf_pooler_type": "cls_pooler", "context_length": 16}
    args = Namespace(model="own", force_context_length=None, train_data="0.tar", dataset_type="auto", lock_text=False)
    args.world_size = 2
    says = f"--model own: the config.json of hf_model_name {tmp_path} has encoder_layerdrop 0.05: layers that are "
    with pytest.raises(UsageError, match=f"{re.escape(says)}.*; write 0 there"):
        check_text_tower(args, {**TINY, "text_cfg": text}, None, given=False)
    for name, value in (("world_size", 1), ("lock_text", True), ("train_data", None)):
        assert not check_text_tower(Namespace(**{**vars(args), name: value}), {**TINY, "text_cfg": text}, None, False)
    M2M100Config(d_model=32, encoder_layerdrop=0).save_pretrained(tmp_path)
    assert not check_text_tower(args, {**TINY, "text_cfg": text}, None, given=False)


def test_tokens_that_no_text_gives_need_no_place_in_the_tower(trainer, bert_clip, tmp_path, capsys):
    """SigLIP's towers for many languages have 250,000, and their tokenizer 100 of T5's behind them."""
    text = changed(bert_clip, tmp_path, {})
    vocabulary = tmp_path / "tower" / "tokenizer.json"
    tokenizer = json.loads(vocabulary.read_text())
    words = tokenizer["model"]["vocab"]
    words |= {f"▁<extra_id_{number}>": len(words) + number for number in range(100)}
    vocabulary.write_text(json.dumps(tokenizer))
    random_weights(tmp_path / "tower")
    assert run(trainer, tmp_path, capsys, text, *OURS)[0] == 0
    words["square"] = 200
    vocabulary.write_text(json.dumps(tokenizer))
    code, err = run(trainer, tmp_path, capsys, text, *OURS, "--name", "y")
    assert code == 2 and "knows 64 tokens, its tokenizer gives 201" in err


def test_added_tokens_need_a_place_where_they_stand_around_each_text(bert_clip):
    tokenizer = HFTokenizer(str(bert_clip.parent), context_length=16)
    given, limits = tokens_given(tokenizer), TextLimits(tokens_given(tokenizer))
    tokenizer.tokenizer.add_tokens(["<image>"])
    limits.check_tokenizer(tokenizer, "--model own")
    tokenizer.tokenizer.add_special_tokens({"pad_token": "<pad>"})
    with pytest.raises(UsageError, match=f"knows {given} tokens, its tokenizer gives {given + 2}"):
        limits.check_tokenizer(tokenizer, "--model own")


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
def test_a_tower_that_was_saved_in_half_is_trained_and_loaded_in_full(trainer, bert_clip, tmp_path, capsys, precision):
    """As many on the hub are; transformers makes a model in the precision that its config.json names."""
    text = changed(bert_clip, tmp_path, {"dtype": "bfloat16"})
    random_weights(tmp_path / "tower")
    code, out = run(trainer, tmp_path, capsys, text, *OURS, "--precision", precision)
    assert code == 0 and "are bfloat16; they are trained in float32, and stock OpenCLIP fails on what" in out
    kinds = {tensor.dtype for tensor in trainer.checkpoint("x")["state_dict"].values() if tensor.is_floating_point()}
    assert kinds == {torch.float32}
    loaded = load_model(str(trainer.run("x")))
    assert loaded.model.text.transformer.dtype == torch.float32
    assert loaded.model.encode_text(loaded.tokenizer(["a red square"])).isfinite().all()


@pytest.mark.slow
def test_a_tower_that_was_saved_in_half_is_exported_once_its_config_says_float32(
    trainer, bert_clip, tmp_path, capsys, export_here
):
    text, config = changed(bert_clip, tmp_path, {"dtype": "bfloat16"}), tmp_path / "tower" / "config.json"
    random_weights(config.parent)
    assert run(trainer, tmp_path, capsys, text, *OURS)[0] == 0
    assert export([str(trainer.run("x")), "--out", str(tmp_path / "model")]) == 2
    said = f'the config.json of hf_model_name {config.parent} says bfloat16: write "dtype": "float32" there'
    assert said in capsys.readouterr().err
    config.write_text(config.read_text().replace("bfloat16", "float32"))
    export_here(trainer.run("x"), tmp_path / "model")


NO_MORE = "the tower of own has no more, so nothing would be locked; lower it"
ROBERTA = {"model_type": "roberta", "pad_token_id": 1}


@pytest.mark.parametrize(
    ("tower", "flag", "most", "says"),
    [
        (None, "--lock-image --lock-image-unlocked-groups", 2, NO_MORE),
        (None, "--lock-text --lock-text-freeze-layer-norm --lock-text-unlocked-layers", 2, NO_MORE),
        (ROBERTA, "--lock-text --lock-text-unlocked-layers", 1, NO_MORE),
        ({}, "--lock-text --lock-text-unlocked-layers", 0, "OpenCLIP can lock this tower of own whole alone; drop it"),
    ],
    ids=["image", "native", "roberta", "bert"],
)
def test_a_lock_that_locks_nothing_is_refused(trainer, bert_clip, tmp_path, capsys, tower, flag, most, says):
    text = NATIVE if tower is None else changed(bert_clip, tmp_path, tower)
    for count in (most + 1, 99):
        code, err = run(trainer, tmp_path, capsys, text, *flag.split(), str(count))
        assert code == 2 and f"{flag.split()[-1]} {count}: {says}" in err and not trainer.logs.exists()
    if tower:
        random_weights(tmp_path / "tower")
    if most:
        code, _ = run(trainer, tmp_path, capsys, text, *OURS, *flag.split(), str(most))
        assert code == 0 and len(trainer.checkpoint("x")["optimizer"]["state"]) > 0


def test_another_padding_is_a_warning(trainer, bert_clip, tmp_path, capsys):
    text = changed(bert_clip, tmp_path, {"pad_token_id": 1})
    random_weights(tmp_path / "tower")
    code, out = run(trainer, tmp_path, capsys, text, *OURS)
    assert code == 0 and "reads as text; it leaves out token 1; make pad_token_id in both one" in out


@pytest.mark.parametrize(
    ("text", "tower", "says"),
    [
        ({**NATIVE, "vocab_size": 20000}, None, "its text tower knows 20,000 tokens, its tokenizer gives 49,408"),
        ({}, {"vocab_size": 20}, "its text tower knows 20 tokens, its tokenizer gives 2"),
        ({}, {"max_position_embeddings": 8}, "its text tower reads at most 8 tokens, its tokenizer gives 16"),
        ({}, {"pad_token_id": 1}, None),
    ],
)
def test_a_model_that_mines(bert_clip, tmp_path, capsys, text, tower, says):
    """It reads other tokens than the model that is trained, if its tokenizer is another."""
    weights = made(tmp_path, "mines", text if tower is None else changed(bert_clip, tmp_path, tower) | text)
    if says is None:
        load_frozen(FrozenSource("mines", weights))
        assert "--mining-model mines --mining-pretrained" in (printed := capsys.readouterr().out)
        assert "it leaves out token 1; make pad_token_id in both one" in printed
        return
    with pytest.raises(UsageError, match=f"--mining-model mines .*: {says}.*; name another model"):
        load_frozen(FrozenSource("mines", weights))


def test_a_teacher_is_given_the_tokens_of_the_model(trainer, bert_clip, tmp_path, capsys):
    """Of `tiny-clip`, which are 16 of 49,408."""
    for name, text, says in (
        (
            "few",
            {**NATIVE, "vocab_size": 20000},
            "its text tower knows 20,000 tokens, --model's tokenizer gives 49,408",
        ),
        (
            "short",
            {**NATIVE, "context_length": 8},
            "reads texts of 8 tokens, and --model's have 16; add --force-context",
        ),
        (
            "bert",
            changed(bert_clip, tmp_path, {"max_position_embeddings": 8}),
            "reads texts of 8 tokens, and --model's",
        ),
    ):
        teacher = ["--distill-model", name, "--distill-pretrained", made(tmp_path, name, text)]
        assert trainer("--name", "x", *teacher) == 2
        assert f"--distill-model {name}: {says}" in capsys.readouterr().err and not trainer.logs.exists()


def test_a_teacher_with_another_tokenizer_is_a_warning(trainer, bert_clip, tmp_path, capsys):
    text = changed(bert_clip, tmp_path, {})
    random_weights(tmp_path / "tower")
    teacher = ["--distill-model", "teacher", "--distill-pretrained", made(tmp_path, "teacher", NATIVE)]
    code, out = run(trainer, tmp_path, capsys, text, *teacher)
    assert code == 0 and "warning: --distill-model teacher: has another tokenizer than --model's" in out
    trainer.config = tmp_path / "teacher.json"
    assert trainer("--name", "y", *teacher) == 0 and "another tokenizer" not in capsys.readouterr().out


def made(tmp_path, name, text):
    """Registers an architecture with this text tower; returns a file of random weights."""
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({**TINY, "text_cfg": text}))
    open_clip.add_model_config(path)
    model = open_clip.create_model(name, pretrained_text=False)
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, path.with_suffix(".pt"))
    return str(path.with_suffix(".pt"))


def random_weights(tower):
    """Saves some, as its config.json says, beside it."""
    AutoModel.from_config(AutoConfig.from_pretrained(tower)).save_pretrained(tower)


def changed(bert_clip, tmp_path, tower):
    """The text_cfg of `tiny-bert-clip`, for a copy of its folder in which config.json has some other values."""
    folder = tmp_path / "tower"
    shutil.copytree(bert_clip.parent, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **tower}))
    named = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
    return json.loads(bert_clip.read_text())["text_cfg"] | named


def test_weights_beside_a_folder_that_has_its_own(trainer, tmp_path, capsys):
    """OpenCLIP passes over --pretrained there, and says so in the middle of its log."""
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    flags = [*OURS, "--model", f"local-dir:{tmp_path}", "--pretrained", "weights.pt"]
    assert trainer("--name", "x", *flags) == 2
    assert f"--pretrained weights.pt: OpenCLIP does not read it beside local-dir:{tmp_path}" in capsys.readouterr().err
    assert not trainer.logs.exists()
    (tmp_path / "open_clip_model.safetensors").touch()
    assert trainer("--name", "x", *flags) == 2
    said = capsys.readouterr()
    assert f"--pretrained weights.pt is not read: --model local-dir:{tmp_path} has its own weights" in said.out
