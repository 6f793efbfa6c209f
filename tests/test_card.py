"""The model card describes the training, and has no number that was not measured."""

import json
import re
import shlex
import shutil

import pytest
from huggingface_hub import ModelCard

from open_clip_fff.errors import UsageError
from open_clip_fff.hub.base_names import base_names, params_by_base_names
from open_clip_fff.hub.card import CardInfo
from open_clip_fff.hub.params import read_params
from tests.test_training import FFF, mining

# a number in the card's table of thresholds
THRESHOLD = r"(?m)^\| .* \| p\S+ \| (\S*\d) \|$"


def card_of(out) -> str:
    text = (out / "README.md").read_text()
    assert "\n\n\n" not in text and "None" not in text and "{" not in text.replace("{00..03}", "")
    return text


@pytest.mark.slow
def test_of_a_run_with_typed_thresholds(trainer, teacher, tmp_path, export_here):
    argv = [*FFF, *mining(teacher, "0.2", "0.97", "off", "off"), "--mined-cap", "3", "--name", "run"]
    argv = ["--dist-url", "tcp://node7:2345", *argv]
    assert trainer(*argv) == 0
    info = CardInfo(captioner="BLIP-2\n| a captioner", license="apache-2.0")
    loaded = export_here(trainer.run("run"), tmp_path / "model", info=info)
    text = card_of(tmp_path / "model")
    front = ModelCard(text).data
    assert front.library_name == "open_clip" and front.pipeline_tag == "zero-shot-image-classification"
    assert front.license == "apache-2.0" and front.tags == ["clip", "open_clip"]
    assert text.count("# model\n") == 1 and 'name = "local-dir:model"' in text
    assert (
        "https://arxiv.org/abs/2405.10286" in text
        and "a sigmoid over all images" in text
        and "logits.sigmoid()" in text
    )
    assert f"a frozen model, `tiny-clip` (`{teacher.name}`), which sees" in text and "at most 3 per image" in text
    mined = re.findall(r"Mined/image: ([\d.]+)", trainer.log("run"))[-1]
    assert f"In the steps of the last log line, {mined} captions per image were mined." in text
    for row in ("image-text | p1 | 0.2 |", "image-image | p2 | 0.97 |", "p3 | off |", "| p1' | off |"):
        assert row in text, row
    assert "They were set before training." in text
    assert "| Captions | up to 4 per image, all in the same batch; from `txt`, `json:captions` |" in text
    assert (
        "| Captioner | BLIP-2 \\| a captioner |" in text
        and "| Epochs | 1 |" in text
        and "| Batch | 16 images |" in text
    )
    # nothing says on whose machine it was, unless that is asked for
    places = (str(tmp_path), str(teacher), str(trainer.shards), "node7")
    assert not [place for place in places if place in text] and "`{00..03}.tar`" in text
    export_here(trainer.run("run"), tmp_path / "told", info=info, paths=True)
    told = card_of(tmp_path / "told")
    assert all(place in told for place in places) and f"(`{teacher}`), which sees" in told
    # the command that was typed, as a shell takes it
    command = re.search(r"```bash\n(.*)\n```", text)[1]
    assert (
        shlex.split(command)[:3] == ["python", "-m", "open_clip_fff.train"] and shlex.split(command)[-2:] == argv[-2:]
    )
    assert "Nothing was measured for this card." in text and "scores pairs" not in text and "leaks COCO" not in text
    # its code runs
    code = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)[1].replace(
        "local-dir:model", f"local-dir:{tmp_path}/model"
    )
    picture = trainer.csv.parent / "0.png"
    exec(code.replace("image.jpg", str(picture)), {})
    assert loaded.run == trainer.run("run").resolve()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/data/me/{00..03}.tar", "{00..03}.tar"),
        ("/a/x.tar::/b/y.tar", "x.tar::y.tar"),
        ("/home/me/a.csv;~me/b.csv", "a.csv;b.csv"),
        ("('/a/m.py', '../../me/n')", "('m.py', 'n')"),
        ("local-dir:/home/A B/model/", "local-dir:model"),
        ("file:///home/me/x", "x"),
        ("me@node7:/data/x.tar", "x.tar"),
        ("pipe:ssh me@node7 cat /data/x.tar | gunzip", "pipe:ssh USER@HOST cat x.tar | gunzip"),
        ("tcp://node7:2345", "tcp://HOST"),
        ("data/cc3m/{00..31}.tar::./more/y.tar", "{00..31}.tar::y.tar"),
        ("tiny-clip (mine/teacher.pt)", "tiny-clip (teacher.pt)"),
        ("runs/me/x", "x"),
        ("me@10.0.0.7", "USER@HOST"),
        ("//nas/me/x.tar", "x.tar"),
        ("data//me/{00..03}.tar:://nas/y.tar", "{00..03}.tar::y.tar"),
        ("open_clip:tiny-clip//home/me/logs/x.pt, asked", "open_clip:tiny-clip/x.pt, asked"),
        ("open_clip:ViT-B-32/../me/x.pt", "open_clip:ViT-B-32/x.pt"),
        ("open_clip:/home/me/logs/run", "open_clip:run"),
        ("open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/openai"),
        *((same, same) for same in ("image -> text R@1", "R@10 (SE)", "ViT-L/14@336px", "hf-hub:ORG/NAME@v1.0")),
        *((same, same) for same in ("s3://bucket/a/b.tar", "https://x.org/a/b", "hf-hub:ORG/NAME", "logs/x", "1/2")),
    ],
)
def test_a_local_path_is_its_base_name(text, shown):
    assert base_names(text) == shown
    assert params_by_base_names({"command": shlex.join(["python", text])}) == {"command": shlex.join(["python", shown])}


def test_a_relative_path_that_is_there_is_its_base_name(tmp_path, monkeypatch):
    (tmp_path / "logs" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert base_names("logs/x") == "x" and base_names("logs/y") == "logs/y" and base_names("ORG/NAME") == "ORG/NAME"


@pytest.mark.slow
def test_of_a_run_that_held_a_rate(trainer, teacher, tmp_path, export_here):
    miner = ["--mining-model", "tiny-clip", "--mining-pretrained", str(teacher)]
    argv = [*FFF, *miner, "--mined-per-image", "3", "--epochs", "2"]
    assert trainer(*argv, "--ema-decay", "0.9", "--name", "run") == 0
    lines = [line for line in trainer.log("run").splitlines() if "FFF Epoch: " in line]
    (trainer.run("run") / "out.log").write_text("")  # the card goes by the state beside the checkpoint
    by_epoch = {}
    for epoch in (1, 2):
        last = [line for line in lines if f"FFF Epoch: {epoch - 1} " in line][-1]
        by_epoch[epoch] = re.search(r" p1 (\S+) p2 (\S+) p3 (\S+) p1' (\S+) ", last).groups()
        checkpoint = trainer.run("run") / "checkpoints" / f"epoch_{epoch}.pt"
        export_here(checkpoint, tmp_path / str(epoch), ema=True)
        text = card_of(tmp_path / str(epoch))
        assert tuple(re.findall(THRESHOLD, text)) == by_epoch[epoch]
        assert f"their values at `epoch_{epoch}.pt` (from `epoch_{epoch}.extra` beside it)" in text
        assert f"the moving average of the weights after epoch {epoch}, with decay 0.9" in text
    assert by_epoch[1] != by_epoch[2] and "| Epochs | 1 of 2 |" in card_of(tmp_path / "1")
    export_here(trainer.run("run"), tmp_path / "mean", average=2)
    text = card_of(tmp_path / "mean")
    assert "their values at the last of the averaged checkpoints, `epoch_2.pt`" in text
    assert tuple(re.findall(THRESHOLD, text)) == by_epoch[2]
    (trainer.run("run") / "checkpoints" / "epoch_2.extra").unlink()
    export_here(trainer.run("run"), tmp_path / "bare")
    text = card_of(tmp_path / "bare")
    assert "Its thresholds are unknown: the run adapted them to its rate" in text and not re.findall(THRESHOLD, text)


def test_of_a_run_whose_warm_up_was_not_over(trainer, tmp_path, export_here):
    mining = ["--mining-features", "ema", "--mining-warmup", "400", "--p2", "off"]
    assert trainer(*FFF, *mining, "--name", "run") == 0
    export_here(trainer.run("run"), tmp_path / "model")
    text = card_of(tmp_path / "model")
    assert "cosines of the moving average of the trained model itself" in text and "guarded: at most twice" in text
    assert "Nothing was mined yet: training made 4 steps, and the warm-up is 400 steps." in text
    assert "| `--ema-decay` | `0.999` | the other settings |" in text and "**Weights**: a moving average" in text


def test_of_a_loss_that_a_plug_in_brought(trainer, tmp_path, export_here):
    flags = ["--plugin", "tests.plain_loss", "--loss", "plain", "--captions-per-image", "2"]
    shutil.copytree(trainer.shards, tmp_path / "a|b")
    data = ["--train-data", str(tmp_path / "a|b" / "{00..03}.tar"), "--train-num-samples", "64"]
    assert trainer(*flags, "--json-text-key", "captions", "--name", "run", data=data) == 0
    export_here(trainer.run("run"), tmp_path / "model", paths=True)
    text = card_of(tmp_path / "model")
    assert "- **Method**: none, flags alone; given: `--captions-per-image`, `--json-text-key`, `--loss`," in text
    assert "- **Loss**: `plain`, a loss of a plug-in (`tests.plain_loss`)." in text and "arxiv" not in text
    assert r"/a\|b/{00..03}.tar`, 64 images an epoch |" in text  # a cell's bars are escaped
    assert "bias, if the loss has one," in text and "logits.sigmoid()" not in text


def test_of_a_stock_run(trainer, tmp_path, export_here):
    from open_clip_train.main import main as open_clip_main

    open_clip_main([*trainer.common, *trainer.table, "--siglip", "--name", "run"])
    export_here(trainer.run("run"), tmp_path / "model")
    text = card_of(tmp_path / "model")
    assert "SigLIP's sigmoid ([arXiv 2303.15343](https://arxiv.org/abs/2303.15343))" in text
    assert "**Mining**: nothing: an image's positives are its own captions alone." in text
    assert "| Captions | one per image; from the CSV's `title` |" in text and "| Captioner | not stated |" in text
    assert "The command was not saved." in text and "\nbatch_size: 16\n" in text and "\nlr: 0.0005\n" in text
    assert "FFF" not in text and "license" not in text and "open_clip_fff's settings" not in text


def test_with_a_comparison(trainer, tmp_path, export_here):
    assert trainer("--method", "clip", "--name", "run") == 0
    weights = export_here(trainer.run("run"), tmp_path / "first").weights
    table = "| model | CIFAR-10 |\n|---|---|\n| ours | 12.5 ± 0.4 |\n\nThree seeds; ± is a standard deviation."
    (tmp_path / "table.md").write_text(table + "\n")
    models = [{"label": "theirs", "weights": ["0" * 64]}, {"label": "ours", "weights": ["1" * 64, weights]}]
    (tmp_path / "comparison.json").write_text(json.dumps({"models": models}))
    export_here(trainer.run("run"), tmp_path / "second", comparison=tmp_path)
    text = card_of(tmp_path / "second")
    assert f"This model is one of the 2 of **ours** in:\n\n{table}\n" in text and "Nothing was measured" not in text
    models[1]["weights"].pop()
    (tmp_path / "comparison.json").write_text(json.dumps({"models": models}))
    with pytest.raises(UsageError, match=r"were not measured there, only those of theirs, ours; score them"):
        export_here(trainer.run("run"), tmp_path / "third", comparison=tmp_path)
    assert not (tmp_path / "third").exists()


def test_with_a_discriminator(trainer, tmp_path, export_here):
    assert trainer("--method", "clip", "--name", "run") == 0
    export_here(trainer.run("run"), tmp_path / "model", info=CardInfo(discriminator="BLIP-ITM, fine-tuned on COCO."))
    text = card_of(tmp_path / "model")
    assert "Training used no discriminator; given at export: BLIP-ITM, fine-tuned on COCO.\n" in text
    assert 'leaks COCO into what it scores: "zero-shot" COCO numbers' in text


def test_the_command_is_kept_for_stock_training_too(trainer):
    from open_clip_fff.train import main

    argv = [*trainer.common, "--dataset-type", "synthetic", "--train-num-samples", "16", "--name", "a name"]
    assert main(argv) == 0
    kept = read_params(trainer.run("a name"))["command"]
    assert shlex.split(kept) == ["python", "-m", "open_clip_fff.train", *argv]
