"""--zeroshot-data: scores while training goes on, which training does not notice."""

import json
from types import SimpleNamespace

import pytest
import torch

from open_clip_fff.evaluation.benchmark import EvalSettings
from open_clip_fff.evaluation.layouts import find_set
from open_clip_fff.evaluation.scoring import score_set
from open_clip_fff.host.checks.idle_flags import as_imagenets, imagenet_notes
from open_clip_fff.hub.loading import load_model
from tests.eval_sets import webdataset
from tests.programs import run

FFF = ["--method", "fff", "--captions-per-image", "4", "--json-text-key", "captions", "--mining-features", "off"]


@pytest.fixture
def sets(tmp_path):
    """A folder with a set to classify and one to retrieve from."""
    webdataset(tmp_path / "sets" / "cifar10", images=24)
    webdataset(tmp_path / "sets" / "mine", images=24, retrieval=True)
    return tmp_path / "sets"


def rows(trainer, name: str) -> list[dict]:
    path = trainer.run(name) / "checkpoints" / "fff_results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_the_logged_scores_are_those_of_the_checkpoint(trainer, sets, tmp_path):
    flags = ["--zeroshot-data", str(sets), "--zeroshot-frequency", "2", "--epochs", "3", "--ema-decay", "0.5"]
    assert trainer(*FFF, *flags, "--name", "run") == 0
    found = rows(trainer, "run")
    assert [row["epoch"] for row in found] == [2, 3]
    assert trainer.log("run").count("FFF Zero-shot Epoch: 3") == 4  # two sets, for the model and for its average
    loaded = load_model(str(trainer.run("run")))
    settings = EvalSettings(workers=0, progress_bars=False)
    for name in ("cifar10", "mine"):
        score, _ = score_set(loaded, find_set(name, sets), settings, tmp_path / "store")
        kept = {
            metric: found[-1][f"zeroshot/{name}/{metric}"] for metric, value in score.metrics.items() if value == value
        }
        assert kept == {metric: value for metric, value in score.metrics.items() if value == value}
    assert found[-1]["ema_zeroshot/cifar10/acc1"] >= 0.0 and "zeroshot/cifar10/acc5" not in found[-1]


@pytest.mark.slow
@pytest.mark.parametrize("method", [["--method", "clip"], FFF])
def test_training_does_not_notice(trainer, sets, method):
    common = [*method, "--epochs", "2", "--zeroshot-frequency", "1"]
    assert trainer(*common, "--name", "plain") == 0
    assert trainer(*common, "--zeroshot-data", str(sets), "--zeroshot-sets", "mine", "--name", "watched") == 0
    plain, watched = (trainer.checkpoint(name, 2)["state_dict"] for name in ("plain", "watched"))
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    assert len(rows(trainer, "watched")) == 2


def test_a_set_that_breaks_costs_a_warning_not_the_run(trainer, sets):
    tar = sets / "cifar10" / "test" / "0.tar"
    tar.write_bytes(tar.read_bytes().replace(b"\xff\xd8\xff", b"\0\0\0"))  # no longer JPEG
    assert trainer(*FFF, "--zeroshot-data", str(sets), "--name", "run") == 0
    assert "cifar10 cannot be scored (" in trainer.log("run")
    assert "zeroshot/mine/text_retrieval_recall@5" in rows(trainer, "run")[0]


@pytest.mark.slow
def test_no_worker_meets_what_is_left_of_a_loader_that_failed(trainer, sets, tmp_path):
    """It is a copy of the process, and ends a loader that it finds in garbage: torch refuses, with a traceback."""
    tar = webdataset(sets / "bad") / "test" / "0.tar"
    tar.write_bytes(tar.read_bytes().replace(b"\xff\xd8\xff", b"\0\0\0"))
    config = ["--model-config", trainer.config]
    argv = [*trainer.common, *config, *trainer.tars, *FFF, "--workers", "1", "--name", "run", "--ema-decay", "0.5"]
    argv += ["--zeroshot-data", sets, "--zeroshot-frequency", "1", "--epochs", "2"]
    done = run("-m", "open_clip_fff.train", *argv)
    assert done.returncode == 0 and done.stderr.count("bad cannot be scored (") == 4
    assert "Exception ignored in" not in done.stderr
    where = ["--data-root", sets, "--store", tmp_path / "store", "--workers", "1"]
    command = ["score", trainer.run("run"), *config, *where, "--datasets", "bad", "cifar10", "bad", "mine"]
    done = run("-m", "open_clip_fff", *command)
    assert done.returncode == 1 and "failed, see above" in done.stderr
    assert "Exception ignored in" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--zeroshot-data", "SETS", "--zeroshot-frequency", "0"], "--zeroshot-data: nothing is scored with"),
        (["--zeroshot-data", "nowhere"], "--zeroshot-data nowhere: there is no such folder"),
        (["--zeroshot-data", "SETS", "--zeroshot-sets", "cifar11"], "--zeroshot-sets cifar11: not one of"),
        (
            ["--zeroshot-data", "SETS", "--zeroshot-sets", "pets;dtd"],
            "--zeroshot-sets 'pets;dtd': not in --zeroshot-data",
        ),
        (["--zeroshot-data", "SETS", "--zeroshot-sets", ""], "--zeroshot-sets names no set"),
        (["--zeroshot-sets", "cifar10"], "does nothing without --zeroshot-data"),
        (["--train-data", "", "--zeroshot-data", "SETS"], "--zeroshot-data: is scored as training goes on"),
    ],
)
def test_mistakes_are_known_before_training(trainer, sets, flags, named, capsys):
    flags = [str(sets) if flag == "SETS" else flag for flag in flags]
    assert trainer(*FFF, *flags, "--name", "run") == 2
    assert named in capsys.readouterr().err and not trainer.run("run").exists()


def test_a_tar_that_is_cut_short_is_known_before_training(trainer, sets, capsys):
    tar = sets / "mine" / "test" / "0.tar"
    tar.write_bytes(tar.read_bytes()[:-20_000])
    assert trainer(*FFF, "--zeroshot-data", str(sets), "--name", "run") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{tar}: cannot be read as a tar (" in line and line.endswith("download it again")


def test_folders_that_are_not_imagenets_are_told(tmp_path):
    """OpenCLIP gives the first class's label to whatever folder is the first one."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    told = imagenet_notes(SimpleNamespace(imagenet_val=str(tmp_path)))
    assert "its 2 folders (cat first) are not ImageNet's 1,000" in told[0]
    assert imagenet_notes(SimpleNamespace(imagenet_val=None)) == []
    ids, padded = [[f"{start}{number:08d}" for number in range(1000)] for start in ("n", "")]
    assert as_imagenets(ids) and as_imagenets(padded)
    assert not as_imagenets([*ids[1:], "tench"]) and not as_imagenets(ids[1:])
    assert not as_imagenets(sorted(map(str, range(1000))))  # 10 comes before 2
