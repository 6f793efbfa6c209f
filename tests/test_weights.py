"""Weights of any kind into any model: what is left out is reported, a mismatch is one line before training."""

import re
from pathlib import Path

import open_clip
import pytest
import torch

from open_clip_fff.config.mining import FrozenSource
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.checkpoints import find_checkpoint, read_weights
from open_clip_fff.hub.loading import load_model
from open_clip_fff.hub.stored_names import stored_name
from open_clip_fff.hub.weights import LoadReport, activation_warning, find_mismatch, load_weights
from open_clip_fff.models.frozen import load_frozen
from open_clip_fff.train import main
from tests.conftest import TINY, Trainer

MANY = ["--captions-per-image", "4", "--json-text-key", "captions"]
SIGMOID = ["--method", "fff", "--mining-features", "off", *MANY]
DISTILLED = ["--method", "clip", "--distill-model", "tiny-clip", "--distill-pretrained"]
STILL = ["--lr", "0", "--wd", "0"]  # what was loaded is what is saved


@pytest.fixture(scope="module")
def runs(tiny_config, tiny_name, shards, csv, tmp_path_factory) -> Trainer:
    """Runs `sigmoid`, whose weights hold a bias, and `softmax`, whose do not."""
    trainer = Trainer(tiny_config, shards, csv, tmp_path_factory.mktemp("runs"))
    assert trainer(*SIGMOID, "--name", "sigmoid") == 0
    assert trainer("--method", "clip", "--name", "softmax") == 0
    return trainer


def last(runs: Trainer, name: str) -> Path:
    return runs.run(name) / "checkpoints" / "epoch_1.pt"


@pytest.fixture
def biased(runs) -> Path:
    return last(runs, "sigmoid")


def stock(trainer: Trainer, *argv: str) -> int:
    """No flag of ours: `trainer` itself types --model-config."""
    return main([*trainer.common, *trainer.tars, *argv])


@pytest.fixture
def refused(trainer, capsys):
    def run(*argv: str, by=None) -> str:
        capsys.readouterr()
        assert (trainer(*argv, "--name", "x") if by is None else by(trainer, *argv, "--name", "x")) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert not (trainer.logs / "x").exists()
        return line

    return run


def saved(path: Path, weights: dict, **more) -> Path:
    torch.save({"state_dict": weights, **more}, path)
    return path


# --- a bias on one side ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", [["clip"], ["fff-softmax", "--mining-features", "off", *MANY]])
def test_the_sigmoids_weights_start_a_model_without_a_bias(trainer, biased, method):
    assert trainer("--method", *method, "--pretrained", str(biased), *STILL, "--name", "next") == 0
    assert f"--pretrained {biased}: left out logit_bias, which the model does not have" in trainer.log("next")
    before, after = read_weights(biased), trainer.checkpoint("next")["state_dict"]
    assert before.keys() - after.keys() == {"logit_bias"}
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_weights_without_a_bias_start_the_sigmoid_whose_bias_is_measured(trainer, runs, tmp_path):
    plain = read_weights(last(runs, "softmax"))
    assert trainer(*SIGMOID, "--pretrained", str(last(runs, "softmax")), *STILL, "--name", "next") == 0
    log, after = trainer.log("next"), trainer.checkpoint("next")["state_dict"]
    assert "holds no logit_bias" in log and float(re.search(r"Logit bias starts at (-[\d.]+)", log)[1]) < -0.5
    assert all(torch.equal(tensor, after[name]) for name, tensor in plain.items())
    # a bias of 0 that is there was learnt, and stays
    zero = saved(tmp_path / "zero.pt", plain | {"logit_bias": torch.tensor(0.0)})
    assert trainer(*SIGMOID, "--pretrained", str(zero), *STILL, "--name", "zero") == 0
    assert "holds no" not in trainer.log("zero") and trainer.checkpoint("zero")["state_dict"]["logit_bias"] == 0


def test_a_teacher_may_have_a_bias(trainer, biased, tmp_path, export_here, capsys):
    assert trainer(*DISTILLED, str(biased), "--name", "file") == 0
    assert f"--distill-pretrained {biased}: left out logit_bias" in trainer.log("file")
    # a folder's description gives the teacher its bias, of which OpenCLIP's loss knows nothing
    export_here(biased, tmp_path / "model")
    folder = ["--distill-model", f"local-dir:{tmp_path / 'model'}", "--distill-pretrained", "its own"]
    assert trainer("--method", "clip", *folder, "--name", "folder") == 0
    assert "The teacher's logit_bias is left out" in trainer.log("folder")
    assert f"--distill-pretrained its own is not read: --distill-model {folder[1]} has" in capsys.readouterr().out
    losses = [re.findall(r"Distill_loss: ([\d.]+)", trainer.log(name)) for name in ("file", "folder")]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_the_sigmoids_weights_mine(biased, trainer, capsys):
    frozen = load_frozen(FrozenSource("tiny-clip", str(biased)))
    assert "left out logit_bias, which the model does not have" in capsys.readouterr().out
    stock = open_clip.create_model("tiny-clip", init_logit_bias=0.0)
    stock.load_state_dict(read_weights(biased))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(frozen.model.encode_image(images), stock.eval().encode_image(images))


def test_a_resume_under_another_method_is_one_line(runs, refused):
    to_softmax = refused("--method", "clip", "--resume", str(last(runs, "sigmoid")))
    assert "holds a logit_bias (trained with --method fff), and this run's model has none" in to_softmax
    assert f"start from its towers with --pretrained {last(runs, 'sigmoid')}" in to_softmax
    to_sigmoid = refused(*SIGMOID, "--resume", str(last(runs, "softmax")))
    assert "holds no logit_bias (trained with --method clip), and this run's model has one" in to_sigmoid
    # no flag of ours: OpenCLIP's own words would be a traceback
    assert "(trained with --method fff)" in refused("--resume", str(last(runs, "sigmoid")), by=stock)
    assert "and this run's model has one" in refused("--siglip", "--resume", str(last(runs, "softmax")), by=stock)


def test_the_latest_checkpoint_of_another_method(runs, capsys):
    params = (runs.run("sigmoid") / "params.txt").read_bytes()
    assert runs("--method", "clip", "--name", "sigmoid", "--resume", "latest", "--epochs", "2") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"--resume {last(runs, 'sigmoid')}: holds a logit_bias (trained with --method fff)" in line
    assert (runs.run("sigmoid") / "params.txt").read_bytes() == params


# --- other weights ---------------------------------------------------------------------------------------------------


def test_a_resume_that_cannot_go_on_is_one_line(trainer, runs, refused, tmp_path):
    wide = tmp_path / "wide.json"
    wide.write_text(str({**TINY, "embed_dim": 48}).replace("'", '"'))
    line = refused("--model-config", str(wide), "--model", "wide", "--resume", str(last(runs, "softmax")))
    assert "does not fit --model wide: text_projection is [8, 32] there and [8, 48] in the model" in line
    assert "(trained with --method clip --model tiny-clip)" in line
    stored = runs.checkpoint("softmax")
    weights = stored["state_dict"]
    more = saved(tmp_path / "more.pt", weights | {"head.weight": torch.ones(2)}, epoch=1, optimizer=stored["optimizer"])
    assert "it holds head.weight, which the model does not have" in refused("--resume", str(more))
    bare = saved(tmp_path / "bare.pt", weights, epoch=1)
    assert "holds weights and no optimizer's state" in refused("--resume", str(bare))
    (tmp_path / "half.pt").write_bytes(last(runs, "softmax").read_bytes()[:9000])
    assert "half.pt: cannot be read as a checkpoint" in refused("--resume", str(tmp_path / "half.pt"))


def test_a_resume_with_other_towers_locked_is_one_line(trainer, runs, capsys):
    capsys.readouterr()
    locked = ["--lock-image", "--epochs", "2", "--resume", str(last(runs, "softmax")), "--name", "locked"]
    assert trainer("--method", "clip", *locked) == 2
    assert "--lock-image" in capsys.readouterr().err.strip().splitlines()[-1]


def test_weights_of_another_architecture_are_refused_before_anything_is_made(trainer, runs, refused, tmp_path):
    weights = read_weights(last(runs, "softmax"))
    less = saved(tmp_path / "less.pt", {name: x for name, x in weights.items() if name != "ln_final.bias"})
    wide = saved(tmp_path / "wide.pt", weights | {"visual.proj": torch.ones(32, 48)})
    deep = saved(tmp_path / "deep.pt", weights | {"transformer.resblocks.1.ln_1.bias": torch.ones(32)})
    clip, teacher = ["--method", "clip"], ["--distill-model", "tiny-clip"]
    for flags, start, mine, by in (
        ([*clip, "--pretrained"], "--pretrained", "--model", None),
        (["--pretrained"], "--pretrained", "--model", stock),
        ([*clip, *teacher, "--distill-pretrained"], "--distill-pretrained", "--distill-model", None),
    ):
        said = refused(*flags, str(less), by=by)
        assert f"{start} {less}: the weights do not fit {mine} tiny-clip: 1 are missing, ln_final.bias among" in said
        assert "visual.proj is [32, 48] there and [32, 32] in the model" in refused(*flags, str(wide), by=by)
        assert "the model has no layer for transformer.resblocks.1.ln_1.bias" in refused(*flags, str(deep), by=by)
    mines = [*SIGMOID[:2], *MANY, "--mining-model", "tiny-clip", "--mining-pretrained"]
    said = refused(*mines, str(less))
    assert f"--mining-pretrained {less}: the weights do not fit the architecture: 1 are missing" in said
    assert "--mining-features off" in said


def test_weights_under_other_names_are_told_with_what_helps(tiny_name, tmp_path):
    """Files of other trainers, of wrappers and of transformers; a clone without Git LFS."""
    model = open_clip.create_model(tiny_name)
    own = model.state_dict()

    def line(content: object) -> str:
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(UsageError) as found:
            load_weights(model, read_weights(tmp_path / "w.pt"), "--pretrained w.pt")
        return str(found.value)

    for name in ("model", "model_state_dict", "module"):
        assert f"those under {name!r} may be meant: torch.save them alone" in line({"epoch": 1, name: own})
    for prefix in ("model.", "net.", "base_model.model."):
        said = line({prefix + name: tensor for name, tensor in own.items()})
        assert f"they are there as {prefix}positional_embedding and so on: save them without {prefix!r}" in said
    custom = {name if name.startswith(("visual", "logit")) else f"text.{name}": x for name, x in own.items()}
    assert "they are there as text.positional_embedding and so on: of an architecture with custom_text" in line(custom)
    named = {"vision_model.pre_layrnorm.bias": torch.ones(2), "logit_scale": torch.ones(1)}
    assert "its names are transformers': take OpenCLIP's file" in line(named)
    (tmp_path / "lfs.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    with pytest.raises(UsageError, match="it is Git LFS's pointer to the file: git lfs pull"):
        read_weights(tmp_path / "lfs.pt")


@pytest.mark.slow
def test_stock_training_loads_by_itself_and_says_what_it_cannot(trainer, runs, refused, biased):
    said = refused("--pretrained", str(biased), by=stock)
    assert "holds logit_bias, which --model tiny-clip does not have" in said and "--method clip" in said
    start = ["--pretrained", str(last(runs, "softmax"))]
    assert stock(trainer, *start, *STILL, "--name", "stock") == 0
    before, after = read_weights(last(runs, "softmax")), trainer.checkpoint("stock")["state_dict"]
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    assert stock(trainer, "--siglip", "--pretrained", str(biased), "--name", "siglip") == 0


def test_heads_are_left_out_and_told(trainer, runs, tmp_path, capsys):
    weights = read_weights(last(runs, "softmax"))
    heads = {f"head.{i}.weight": torch.ones(2) for i in range(7)}
    path = saved(tmp_path / "heads.pt", {f"module.{name}": x for name, x in (weights | heads).items()}, epoch=3)
    assert trainer("--method", "clip", "--pretrained", str(path), *STILL, "--name", "heads") == 0
    assert re.search(r"left out head\.0\.weight, .*, … \(7\), which the model does not have", trainer.log("heads"))
    capsys.readouterr()
    assert load_model(f"tiny-clip,{path}").stripped == tuple(heads)
    assert capsys.readouterr().out.count("left out") == 1


@pytest.mark.parametrize("form", ["safetensors", "of another time"])
def test_every_form_of_a_file_is_the_same_weights(trainer, biased, tmp_path, form):
    from safetensors.torch import save_file

    weights, path = read_weights(biased), tmp_path / "weights.pt"
    if form == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(weights, path)
    else:  # by DDP and torch.compile, with scalars of shape [1]
        wrapped = {f"module._orig_mod.{name}": x.reshape(x.shape or 1) for name, x in weights.items()}
        saved(path, wrapped, epoch=1, optimizer={})
    assert trainer(*SIGMOID, "--pretrained", str(path), *STILL, "--name", "next") == 0
    after = trainer.checkpoint("next")["state_dict"]
    assert all(torch.equal(tensor, after[name]) for name, tensor in weights.items())
    assert torch.equal(load_frozen(FrozenSource("tiny-clip", str(path))).model.visual.proj, weights["visual.proj"])


def test_a_moving_average_is_no_checkpoint_and_says_what_makes_one(trainer, refused):
    assert trainer("--method", "clip", "--ema-decay", "0.9", "--name", "ema") == 0
    extra = trainer.run("ema") / "checkpoints" / "epoch_1.extra"
    assert "export --ema makes a model of" in refused("--method", "clip", "--pretrained", str(extra))


def test_position_embeddings_are_interpolated_as_open_clip_does(trainer, runs, tmp_path, capsys):
    path = last(runs, "softmax")
    argv = ["--method", "clip", "--pretrained", str(path), "--force-image-size", "48", "--force-context-length", "12"]
    assert trainer(*argv, *STILL, "--name", "larger") == 0
    stock = open_clip.create_model("tiny-clip", str(path), force_image_size=48, force_context_length=12).state_dict()
    after = trainer.checkpoint("larger")["state_dict"]
    assert all(torch.equal(tensor, after[name]) for name, tensor in stock.items())
    assert "visual.positional_embedding has another length, and was interpolated" in trainer.log("larger")


def test_what_open_clip_loads_we_load_alike(tiny_name, tmp_path):
    """Old names and shapes, by `load_weights` and by OpenCLIP's own loader."""
    torch.manual_seed(0)
    plain = open_clip.create_model(tiny_name)
    weights = plain.state_dict() | {"text.transformer.embeddings.position_ids": torch.arange(3)}
    path = saved(tmp_path / "old.pt", weights | {"logit_scale": weights["logit_scale"].reshape(1)})
    for options in ({}, {"force_custom_text": True}, {"init_logit_bias": -10.0}):
        ours, theirs = (open_clip.create_model(tiny_name, **options) for _ in range(2))
        assert load_weights(ours, read_weights(path), "x") == LoadReport(no_bias="init_logit_bias" in options)
        open_clip.load_checkpoint(theirs, str(path))
        assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    assert find_mismatch({}, plain.state_dict()).startswith(f"{len(plain.state_dict())} are missing")


# --- a run or a checkpoint as the model that mines -------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_a_checkpoint_or_a_folder_mines(runs, biased, tmp_path, export_here):
    export_here(biased, tmp_path / "model")
    other = saved(tmp_path / "other.pt", {k: x * 2 for k, x in read_weights(biased).items()})
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def seen(*source: str) -> torch.Tensor:
        frozen = load_frozen(FrozenSource(*map(str, source)))
        assert frozen.tokenizer(["a"]).shape == (1, 16)
        with torch.no_grad():
            return frozen.model.encode_image(images)

    wanted = seen("tiny-clip", biased)
    model, file = tmp_path / "model", tmp_path / "model" / "open_clip_model.safetensors"
    for source in (runs.run("sigmoid"), biased, model, f"local-dir:{model}", file):
        assert torch.equal(seen(source), wanted), source
    doubled = seen("tiny-clip", other)
    assert not torch.equal(doubled, wanted)
    for source in (runs.run("sigmoid"), biased, tmp_path / "model"):  # the architecture of one, the weights of another
        assert torch.equal(seen(source, other), doubled), source
    with pytest.raises(UsageError, match=r"comes with its weights, and openai is no checkpoint"):
        seen(runs.run("sigmoid"), "openai")
    with pytest.raises(UsageError, match=r"other.pt: neither .* --mining-model NAME with --mining-pretrained other.pt"):
        seen(other)
    file.unlink()
    with pytest.raises(UsageError, match=r"model: (cannot be loaded|there are no weights)"):
        seen(model)
    with pytest.raises(UsageError, match=r"there are no weights in this folder"):
        stored_name(FrozenSource(str(model)))
    with pytest.raises(UsageError, match=r"hf-hub:a/b comes with its weights"):
        seen("hf-hub:a/b", "openai")
    with pytest.raises(UsageError, match=r"OpenCLIP has no model no-run .* no such run, checkpoint or folder"):
        seen("no-run")


@pytest.mark.slow
def test_a_run_mines_in_training(runs, trainer):
    mines = [*SIGMOID[:2], *MANY, "--p1", "0.2", "--p2", "0.9", "--mining-model"]
    assert trainer(*mines, str(runs.run("sigmoid")), "--name", "run") == 0
    assert trainer(*mines, "tiny-clip", "--mining-pretrained", str(last(runs, "sigmoid")), "--name", "file") == 0
    mined = [re.findall(r"Mined/image: ([\d.]+)", trainer.log(name)) for name in ("run", "file")]
    assert mined[0] == mined[1] and len(mined[0]) == 4


def test_the_last_checkpoint_of_a_run_is_the_newest(runs, tmp_path):
    """With --save-most-recent, which OpenCLIP writes every epoch, beside those of --save-frequency."""
    stored = runs.checkpoint("softmax")
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name, epoch in (("epoch_2", 2), ("epoch_10", 10)):
        torch.save({**stored, "epoch": epoch}, folder / f"{name}.pt")
    for epoch, name in ((10, "epoch_10.pt"), (13, "epoch_latest.pt"), (9, "epoch_10.pt")):
        torch.save({**stored, "epoch": epoch}, folder / "epoch_latest.pt")
        assert find_checkpoint(tmp_path / "run").name == name


def test_weights_that_are_not_finite_go_nowhere(trainer, runs, tmp_path, capsys):
    nan = {"visual.proj": torch.full((32, 32), torch.nan)}
    path = saved(tmp_path / "nan.pt", read_weights(last(runs, "softmax")) | nan)
    for load in (
        lambda: load_model(f"tiny-clip,{path}"),
        lambda: load_frozen(FrozenSource("tiny-clip", str(path))),
    ):
        with pytest.raises(UsageError, match=r"nan.pt: visual.proj is not finite, so the training diverged"):
            load()
    assert trainer("--method", "clip", "--pretrained", str(path), "--name", "nan") == 2
    assert f"--pretrained {path}: visual.proj is not finite" in capsys.readouterr().err


# --- the activation --------------------------------------------------------------------------------------------------


def test_every_tag_of_quickgelu_names_an_architecture_that_has_it():
    asked = 0
    for name, tag in open_clip.list_pretrained():
        note = activation_warning(name, tag, "X")
        wants = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu"))
        has = bool(open_clip.get_model_config(name).get("quick_gelu"))
        assert (note is not None) == (wants and not has), (name, tag)
        if note is not None:
            asked += 1
            right = re.search(r"use (\S+)$", note)[1]
            assert open_clip.get_model_config(right)["quick_gelu"] and activation_warning(right, tag, "X") is None
            assert open_clip.is_pretrained_cfg(right, tag)
    assert asked > 20


def test_openais_weights_without_quickgelu():
    said = activation_warning("ViT-B/32", "openai", "--model ViT-B/32 --pretrained openai")
    assert said == (
        "warning: --model ViT-B/32 --pretrained openai: these weights were trained with QuickGELU, and ViT-B-32 has "
        "GELU: use ViT-B-32-quickgelu"
    )
    assert activation_warning("ViT-B-32", "OpenAI", "X") is not None
    assert activation_warning("ViT-B-32", "openai", "X", forced=True) is None
    assert "drop --force-quick-gelu" in activation_warning("ViT-B-32", "laion2b_s34b_b79k", "X", forced=True)
    for name, tag in (("ViT-B-32", "a.pt"), ("no-model", "openai"), ("hf-hub:a/b", None), ("ViT-B-32", None)):
        assert activation_warning(name, tag, "X") is None


@pytest.mark.slow
def test_all_that_loads_a_tag_warns_once(trainer, runs, monkeypatch, capsys, recwarn):
    tag = {"quick": {"file": str(last(runs, "softmax")), "quick_gelu": True}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", tag)

    def warned(called: str) -> None:
        out = capsys.readouterr().out
        assert out.count("QuickGELU") == 1 and f"warning: {called}: these weights" in out, out

    load_model("tiny-clip,quick")
    warned("tiny-clip,quick")
    load_frozen(FrozenSource("tiny-clip", "quick"))
    warned("--mining-model tiny-clip --mining-pretrained quick")
    load_frozen(FrozenSource("tiny-clip", "quick"), called="--discriminator open_clip:tiny-clip/quick")
    warned("--discriminator open_clip:tiny-clip/quick")
    assert trainer("--method", "clip", "--pretrained", "quick", "--name", "model") == 0
    warned("--model tiny-clip --pretrained quick")
    assert trainer(*DISTILLED, "quick", "--name", "teacher") == 0
    warned("--distill-model tiny-clip --distill-pretrained quick")
    assert not [each for each in recwarn if "QuickGELU" in str(each.message)]
    assert stock(trainer, "--pretrained", "quick", "--name", "stock") == 0  # OpenCLIP's own comes, too
    warned("--model tiny-clip --pretrained quick")
    assert trainer("--method", "clip", "--pretrained", "quick", "--force-quick-gelu", "--name", "forced") == 0
    assert "QuickGELU" not in capsys.readouterr().out
