"""The way out: stock OpenCLIP and clip-benchmark take an exported run, where our package cannot be imported."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from open_clip_fff.errors import UsageError
from open_clip_fff.export import main as export
from open_clip_fff.hub.description import describe_model
from open_clip_fff.hub.loading import load_model
from open_clip_fff.hub.stock_check import check_in_stock_process
from open_clip_fff.hub.stock_outputs import model_outputs
from open_clip_fff.hub.weight_source import choose_weights
from open_clip_fff.tools.export import export as write
from tests import programs
from tests.conftest import COLOURS, TINY, colour_image, write_tar

FFF = ["--method", "fff", "--captions-per-image", "4", "--json-text-key", "captions", "--mining-features", "off"]

# Runs in a process that refuses to import our package, wherever it is installed.
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "open_clip_fff":
            raise ImportError("not here")
sys.meta_path.insert(0, Refuse())
import torch, open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + sys.argv[1])
tokens = open_clip.get_tokenizer("local-dir:" + sys.argv[1])(["a red square", "something blue"])
torch.manual_seed(0)
with torch.no_grad():
    logits, _ = model.eval().get_logits(torch.randn(3, 3, 32, 32), tokens)
torch.save(logits, sys.argv[2])
assert "open_clip_fff" not in sys.modules
"""


@pytest.mark.slow
def test_stock_open_clip_gives_the_same_logits(trainer, tmp_path, capsys):
    assert trainer(*FFF, "--name", "run") == 0
    exported = tmp_path / "model"
    assert export([str(trainer.run("run")), "--out", str(exported)]) == 0
    assert "local-dir:" in capsys.readouterr().out and not (exported / "tokenizer_config.json").exists()
    subprocess.run([sys.executable, "-c", ALONE, exported, tmp_path / "logits.pt"], check=True, timeout=300)
    model = open_clip.create_model("tiny-clip", init_logit_bias=0.0)
    model.load_state_dict(trainer.checkpoint("run")["state_dict"])
    tokens = open_clip.get_tokenizer("tiny-clip")(["a red square", "something blue"])
    torch.manual_seed(0)
    with torch.no_grad():
        logits, _ = model.eval().get_logits(torch.randn(3, 3, 32, 32), tokens)
    assert torch.equal(logits, torch.load(tmp_path / "logits.pt", weights_only=True))


@pytest.mark.slow
def test_clip_benchmark_scores_it(trainer, tmp_path, export_here):
    assert trainer(*FFF, "--name", "run") == 0
    exported = tmp_path / "model"
    export_here(trainer.run("run"), exported)
    root = tmp_path / "colours"
    (root / "test").mkdir(parents=True)
    samples = {
        f"{row:03d}": {"png": colour_image(list(COLOURS)[row % 4], 500 + row), "cls": str(row % 4).encode()}
        for row in range(20)
    }
    write_tar(root / "test" / "0.tar", samples)
    (root / "test" / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(COLOURS))
    (root / "zeroshot_classification_templates.txt").write_text("a {c} square")
    command = [Path(sys.executable).with_name("clip_benchmark"), "eval", "--model", f"local-dir:{exported}"]
    data = [
        "--dataset",
        "wds/colours",
        "--dataset_root",
        root,
        "--task",
        "zeroshot_classification",
        "--num_workers",
        "0",
    ]
    out = tmp_path / "result.json"
    done = programs.run(*command, *data, "--no_amp", "--batch_size", "5", "--output", out)
    assert done.returncode == 0, done
    assert 0.0 <= json.loads(out.read_text())["metrics"]["acc1"] <= 1.0


@pytest.mark.slow
def test_a_single_checkpoint_of_a_run_and_what_it_is_called(trainer, tmp_path, export_here):
    assert trainer(*FFF, "--epochs", "2", "--name", "run") == 0
    run = trainer.run("run")
    export_here(run, tmp_path / "last")
    loaded = export_here(run / "checkpoints" / "epoch_2.pt", tmp_path / "again")
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "last" / name).read_bytes()
    # the same weights by every way there is to them, before and after the export
    mine = {load_model(str(given)).weights for given in (run, tmp_path / "last", f"local-dir:{tmp_path / 'again'}")}
    assert mine == {loaded.weights}
    export_here(run / "checkpoints" / "epoch_1.pt", tmp_path / "first")
    assert load_model(str(tmp_path / "first")).weights not in mine
    assert {path.name for path in tmp_path.iterdir()} == {"logs", "last", "again", "first"}


def test_extra_heads_are_left_out_and_other_depths_refused(trainer, tmp_path, export_here):
    assert trainer("--method", "clip", "--name", "run") == 0
    checkpoint = trainer.run("run") / "checkpoints" / "epoch_1.pt"
    stored = trainer.checkpoint("run")
    weights = dict(stored["state_dict"])
    heads = {"head.0.weight": torch.ones(2, 2), "visual.extra.bias": torch.ones(3)}
    torch.save({**stored, "state_dict": weights | heads}, checkpoint)
    loaded = export_here(checkpoint, tmp_path / "model")
    assert set(loaded.stripped) == set(heads)
    assert "Left out: 2 parameters of training" in (tmp_path / "model" / "README.md").read_text()
    assert set(open_clip.create_model(f"local-dir:{tmp_path / 'model'}").state_dict()) == set(weights)
    torch.save(
        {**stored, "state_dict": weights | {"visual.transformer.resblocks.1.ln_1.weight": torch.ones(32)}}, checkpoint
    )
    with pytest.raises(UsageError, match="the model has no layer for"):
        export_here(checkpoint, tmp_path / "deeper")
    del weights["ln_final.bias"]
    torch.save({**stored, "state_dict": weights}, checkpoint)
    with pytest.raises(UsageError, match=r"1 are missing, ln_final.bias among them"):
        export_here(checkpoint, tmp_path / "less")


STOCK = {
    "plain": [],
    "siglip": ["--siglip"],
    "forced": [
        *("--force-image-size", "48", "--force-quick-gelu", "--force-context-length", "12"),
        *("--image-mean", "0.1", "0.2", "0.3", "--image-interpolation", "bilinear", "--image-resize-mode", "squash"),
    ],
    "custom-text": ["--force-custom-text"],
}


@pytest.mark.parametrize("kind", STOCK)
def test_a_run_of_open_clips_own_trainer(trainer, tmp_path, export_here, kind):
    """Its folder holds params.txt and nothing of ours; what it says is what the model was made with."""
    from open_clip_train.main import main as open_clip_main

    synthetic = ["--dataset-type", "synthetic", "--train-num-samples", "16"]
    open_clip_main([*trainer.common, *synthetic, *STOCK[kind], "--name", kind])
    assert not (trainer.run(kind) / "open_clip_config.json").exists()
    options = {
        "siglip": {"init_logit_bias": -10.0},
        "forced": {"force_image_size": 48, "force_quick_gelu": True, "force_context_length": 12},
        "custom-text": {"force_custom_text": True},
    }.get(kind, {})
    images = {"image_mean": (0.1, 0.2, 0.3), "image_interpolation": "bilinear", "image_resize_mode": "squash"}
    model, _, preprocess = open_clip.create_model_and_transforms(
        "tiny-clip", **options, **(images if kind == "forced" else {})
    )
    model.load_state_dict(trainer.checkpoint(kind)["state_dict"])
    tokenizer = open_clip.get_tokenizer("tiny-clip", context_length=options.get("force_context_length"))
    trained = model_outputs(model.eval(), preprocess, tokenizer)
    loaded = export_here(trainer.run(kind), tmp_path / "model")
    for each in (loaded, load_model(str(tmp_path / "model")), load_model(str(trainer.run(kind)))):
        given = model_outputs(each.model, each.preprocess, each.tokenizer)
        assert all(torch.equal(trained[name], given[name]) for name in ("pixels", "tokens"))
        weights = each.model.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
        # equal but for the last bits: on some processors products depend on where in memory their factors are
        torch.testing.assert_close(given["logits"], trained["logits"])
    config = json.loads((tmp_path / "model" / "open_clip_config.json").read_text())["model_cfg"]
    assert config.get("init_logit_bias") == (-10.0 if kind == "siglip" else None)


def save_lone(path: Path, name: str, **stored) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    weights = open_clip.create_model(name, pretrained_text=False).state_dict()
    torch.save({"epoch": 3, "name": "x", "state_dict": weights, **stored}, path)
    return weights


def test_a_name_beside_a_file_loses_no_preprocessing_in_silence(tiny_name, tmp_path, export_here):
    """What a file's own folder says of images and activation, against the model of a name."""
    save_lone(tmp_path / "lone.pt", tiny_name)
    export_here(tmp_path / "lone.pt", tmp_path / "model", model=tiny_name)
    named = f"{tiny_name},{tmp_path / 'model' / 'open_clip_model.safetensors'}"
    assert load_model(named).notes == ()
    path = tmp_path / "model" / "open_clip_config.json"
    description = json.loads(path.read_text())
    description["preprocess_cfg"]["mean"], description["model_cfg"]["quick_gelu"] = [0.5] * 3, True
    path.write_text(json.dumps(description))
    mean, quick = load_model(named).notes
    assert "was trained with mean (0.5, 0.5, 0.5), and tiny-clip has (0.48" in mean and str(path.parent) in mean
    assert "was trained with quick_gelu True, and tiny-clip has False" in quick
    assert load_model(str(path.parent)).notes == ()


def test_the_colour_beside_images_is_kept(tiny_name, trainer, tmp_path, export_here):
    """`resize_mode` longest fills up with it; no flag of OpenCLIP's sets it, a hub folder may."""
    save_lone(tmp_path / "lone.pt", tiny_name)
    export_here(tmp_path / "lone.pt", tmp_path / "model", model=tiny_name)
    path = tmp_path / "model" / "open_clip_config.json"
    description = json.loads(path.read_text())
    assert "fill_color" not in description["preprocess_cfg"]
    description["preprocess_cfg"] |= {"fill_color": 255, "resize_mode": "longest"}
    path.write_text(json.dumps(description))
    assert trainer("--method", "clip", "--model", f"local-dir:{path.parent}", "--name", "run") == 0
    wide = Image.new("RGB", (64, 32))
    pixels = [load_model(str(given)).preprocess(wide) for given in (path.parent, trainer.run("run"))]
    assert torch.equal(*pixels) and pixels[0].max() > 1


def test_a_lone_checkpoint_of_any_age(tiny_name, tmp_path, export_here):
    """Prefixes of DDP, torch.compile and FSDP, a bias unknown to the name, scalars of shape [1], numpy's numbers."""
    path = tmp_path / "lone-00001-of-00001.pt"
    weights = save_lone(path, tiny_name)
    with pytest.raises(UsageError, match=r"neither open_clip_config.json nor params.txt .*--model NAME"):
        export_here(path, tmp_path / "x")
    inner = {name.replace("visual.", "visual._fsdp_wrapped_module._orig_mod."): weights[name] for name in weights}
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in inner.items()}
    wrapped["module._orig_mod.logit_bias"] = torch.tensor([-3.5])
    wrapped["module._orig_mod.logit_scale"] = weights["logit_scale"].reshape(1)
    torch.save({"epoch": 3, "state_dict": wrapped, "optimizer": {"lr": np.float64(1e-3)}}, path)
    export_here(path, tmp_path / "model", model=tiny_name)
    again = load_model(f"{tiny_name},{path}")
    assert again.weights == load_model(str(tmp_path / "model")).weights and again.model.logit_bias == -3.5
    card = (tmp_path / "model" / "README.md").read_text()
    assert "was exported without its run folder" in card and "`tiny-clip`" in card
    # the types of training are kept, and read back as they were
    torch.save({"state_dict": {name: tensor.bfloat16() for name, tensor in weights.items()}}, path)
    export_here(path, tmp_path / "half", model=tiny_name)
    sizes = [(tmp_path / name / "open_clip_model.safetensors").stat().st_size for name in ("half", "model")]
    assert 0.4 < sizes[0] / sizes[1] < 0.6
    # a text tower of its own, from the days when it was not
    custom = tmp_path / "tiny-custom.json"
    custom.write_text(json.dumps({**TINY, "custom_text": True}))
    open_clip.add_model_config(custom)
    torch.save({"state_dict": weights}, path)
    assert not export_here(path, tmp_path / "custom", model="tiny-custom").stripped


TIMM = {
    "embed_dim": 16,
    "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160},
    "text_cfg": TINY["text_cfg"],
}


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["timm", "hugging-face"])  # a native one: test_stock_open_clip_gives_the_same_logits
def test_every_kind_of_tower_answers_alike_in_a_stock_process(tower, bert_clip, tmp_path):
    (tmp_path / "tiny-timm.json").write_text(json.dumps(TIMM))
    open_clip.add_model_config(tmp_path / "tiny-timm.json")
    open_clip.add_model_config(bert_clip)
    name = {"timm": "tiny-timm", "hugging-face": "tiny-bert-clip"}[tower]
    save_lone(tmp_path / "lone.pt", name)
    told = []
    source = choose_weights([tmp_path / "lone.pt"], None, False, name)
    write(source, tmp_path / "model", check=lambda folder, loaded: told.append(check_in_stock_process(folder, loaded)))
    assert told == [0.0]
    assert (tmp_path / "model" / "tokenizer_config.json").exists() == (tower == "hugging-face")


def test_open_clips_own_resnet(tmp_path, export_here):
    config = {**TINY, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}
    (tmp_path / "tiny-rn.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-rn.json")
    save_lone(tmp_path / "lone.pt", "tiny-rn")
    export_here(tmp_path / "lone.pt", tmp_path / "model", model="tiny-rn")
    assert "images of 32 × 32 pixels" in (tmp_path / "model" / "README.md").read_text()


def test_a_timm_tower_at_another_size_is_beyond_the_hub_format(trainer, tmp_path, export_here):
    """OpenCLIP gives timm no image size when it builds a tower, and weights are loaded before --force-image-size."""
    config = tmp_path / "tiny-timm.json"
    config.write_text(json.dumps(TIMM))
    argv = ["--method", "clip", "--model-config", str(config), "--model", "tiny-timm", "--force-image-size", "32"]
    assert trainer(*argv, "--name", "run") == 0
    with pytest.raises(UsageError, match="a timm tower at its own image size"):
        export_here(trainer.run("run"), tmp_path / "model")
    # with rotary positions the weights fit all the same
    tower = {"timm_model_name": "vit_small_patch16_rope_224", "timm_model_pretrained": False, "image_size": 224}
    config.write_text(json.dumps({**TIMM, "vision_cfg": {**TIMM["vision_cfg"], **tower, "timm_pool": "avg"}}))
    open_clip.add_model_config(config)
    model = open_clip.create_model("tiny-timm", force_image_size=112)
    torch.save(model.state_dict(), tmp_path / "lone.pt")
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps(describe_model("tiny-timm", model, {"force_image_size": 112}))
    )
    with pytest.raises(UsageError, match="a timm tower at its own image size"):
        write(choose_weights([tmp_path / "lone.pt"], None, False, None), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_folder_that_answers_otherwise_is_noticed(tiny_name, tmp_path, export_here):
    save_lone(tmp_path / "lone.pt", tiny_name)
    loaded = export_here(tmp_path / "lone.pt", tmp_path / "model", model=tiny_name)
    config = tmp_path / "model" / "open_clip_config.json"
    config.write_text(config.read_text().replace('"embed_dim"', '"quick_gelu": true, "embed_dim"'))
    with pytest.raises(UsageError, match="the logits of what was written differ by"):
        check_in_stock_process(tmp_path / "model", loaded)
    (tmp_path / "model" / "open_clip_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(UsageError, match=f"stock OpenCLIP {open_clip.__version__} does not load what was written"):
        check_in_stock_process(tmp_path / "model", loaded)


def test_a_model_that_diverged_is_not_exported(tiny_name, tmp_path, export_here):
    weights = save_lone(tmp_path / "lone.pt", tiny_name)
    torch.save({**weights, "visual.proj": torch.full((32, 32), float("nan"))}, tmp_path / "lone.pt")
    with pytest.raises(UsageError, match="not finite, so the training diverged"):
        write(choose_weights([tmp_path / "lone.pt"], None, False, tiny_name), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_mistakes_get_one_line_and_lose_nothing(trainer, tmp_path, capsys, export_here):
    assert trainer(*FFF, "--name", "run") == 0
    run, checkpoints = trainer.run("run"), trainer.run("run") / "checkpoints"
    export_here(run, tmp_path / "model")
    before = (tmp_path / "model" / "open_clip_model.safetensors").read_bytes()
    lone = tmp_path / "lone.pt"
    lone.write_bytes((checkpoints / "epoch_1.pt").read_bytes())
    (tmp_path / "half.pt").write_bytes(lone.read_bytes()[:5000])
    torch.save({"epoch": 1, "state_dict": {"a": 1}}, tmp_path / "odd.pt")
    parts = [tmp_path / "a-00001-of-00002.safetensors", tmp_path / "a.safetensors.index.json"]
    for part in parts:
        part.write_text("{}")
    (tmp_path / "half.json").write_text('{"embed_dim": ')
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    capsys.readouterr()
    x = tmp_path / "x"
    mistakes = {
        f"{run} --out {tmp_path / 'model'}": "exists already",
        f"{run}": "required: --out",
        f"{tmp_path / 'nothing'} --out {x}": f"{tmp_path / 'nothing'}: neither a checkpoint nor a run",
        f"{tmp_path / 'empty'} --out {x}": f"{tmp_path / 'empty'}: neither a checkpoint nor a run",
        f"{tmp_path / 'half.pt'} --model tiny-clip --out {x}": "half.pt: cannot be read as a checkpoint",
        f"{tmp_path / 'odd.pt'} --model tiny-clip --out {x}": f"{tmp_path / 'odd.pt'}: no weights of a model",
        **{f"{part} --model tiny-clip --out {x}": f"{part}: a part of weights in several files" for part in parts},
        f"{lone} --out {x}": f"{lone}: neither open_clip_config.json nor params.txt",
        f"{lone} --model ViT-B-32 --out {x}": f"{lone}: the weights do not fit the architecture: positional",
        f"{lone} --model tiny-clop --out {x}": "OpenCLIP has no model tiny-clop",
        f"{lone} --model local-dir:{tmp_path / 'no'} --out {x}": "cannot be looked up",
        f"{lone} --model a --model-config {tmp_path / 'no.json'} --out {x}": "no.json: there is no such file",
        f"{run} --ema --out {x}": "has no moving average beside it",
        f"{run} --average 2 --out {x}": "has 1 numbered checkpoint (",
        f"{run} --average --out {x}": "of how many?",
        f"--average {lone} {lone} --out {x}": "lone.pt is no number; put checkpoints before --average",
        f"{lone} --average 2 --out {x}": "is one checkpoint; give its run's folder",
        f"{run} --ema --average 2 --out {x}": "give one of them",
        f"{run} {lone} --out {x}": "to export the mean of several, add --average",
        f"{run} --out {lone}/model": "cannot be written",
        f"{run} --comparison {tmp_path} --out {x}": "no comparison of open-clip-fff compare",
        f"{run} --license MIT! --out {x}": "the hub's identifier",
        f"{run} --push model --out {x}": "write it as ORG/NAME",
        f"{run} --private --out {x}": "goes with --push",
    }
    for argv, told in mistakes.items():
        assert export(argv.split()) == 2, argv
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("open-clip-fff export: error: ") and told in line, (argv, line)
    assert (tmp_path / "model" / "open_clip_model.safetensors").read_bytes() == before
    assert not x.exists() and not list(tmp_path.glob(".*"))
    (run / "open_clip_config.json").write_text("{}")
    assert export([str(run), "--out", str(x)]) == 2
    assert "open_clip_config.json: not a description of a model" in capsys.readouterr().err
    assert export([str(run), "--out", str(x), "--model-config", str(tmp_path / "half.json")]) == 2
    assert "half.json: cannot be read" in capsys.readouterr().err
    open_clip.factory._MODEL_CONFIG_PATHS.pop()  # it stays registered, and would break every test that adds another


def test_a_half_written_folder_is_one_line(trainer, tmp_path, export_here):
    assert trainer("--method", "clip", "--name", "run") == 0
    model = tmp_path / "model"
    export_here(trainer.run("run"), model)
    weights = model / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UsageError, match=r"open_clip_model\.safetensors: cannot be read as a checkpoint"):
        load_model(str(model))
    (model / "open_clip_config.json").unlink()
    with pytest.raises(UsageError, match=r"neither checkpoints/ nor open_clip_config\.json"):
        load_model(str(model))


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_nothing_at_out(tiny_name, tiny_config, tmp_path):
    save_lone(tmp_path / "lone.pt", tiny_name)
    argv = [tmp_path / "lone.pt", "--model", tiny_name, "--model-config", tiny_config, "--out", tmp_path / "model"]
    writing = programs.Program(["-m", "open_clip_fff.export", *argv])
    while not list(tmp_path.glob(".model.*/open_clip_model.safetensors")):
        time.sleep(0.01)
        assert writing.process.is_alive()
    writing.kill()
    assert not (tmp_path / "model").exists()
