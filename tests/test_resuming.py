"""A resumed run equals one that was never stopped, whatever is random in it: crops, captions drawn, dropout."""

import shutil
from argparse import Namespace

import pytest
import torch

from open_clip_fff.errors import UsageError
from open_clip_fff.host.checkpoints.mid_epoch import _names, check_loader_sizes, loader_sizes
from open_clip_fff.train import main as train
from tests.conftest import DRAWN
from tests.test_short_epochs import Launched
from tests.test_training import assert_equal_checkpoints

pytestmark = pytest.mark.slow  # trainings, each from its start to its end

# OpenCLIP's random crops are its default
RANDOM = ["--force-patch-dropout", "0.5", "--caption-policy", "sample"]
FFF = ["--method", "fff", "--mining-features", "off", "--captions-per-image", "2", "--json-text-key", "captions"]
RUNS = {
    "fff-tars-0": [*FFF, "--workers", "0"],
    "fff-tars-2": [*FFF, "--workers", "2"],
    "fff-csv-0": [*FFF[:-2], "--workers", "0"],
    "fff-csv-2": [*FFF[:-2], "--workers", "2"],
    "clip-tars-0": [*DRAWN, "--workers", "0"],
    "clip-tars-2": [*DRAWN, "--workers", "2"],
    "clip-csv-2": ["--method", "clip", "--captions-per-image", "2", "--workers", "2"],
    "clip-resampled-2": [*DRAWN, "--workers", "2", "--dataset-resampled"],
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_resumed_run_draws_what_it_would_have_drawn(trainer, kind):
    argv = [*RUNS[kind], *RANDOM, "--epochs", "3"]
    data = [*trainer.table[:-1], "title;pseudo"] if "csv" in kind else trainer.tars
    if "tars" in kind:  # whose workers persist, too, and are made when a run first validates
        argv += ["--val-data", str(trainer.shards / "00.tar"), "--val-num-samples", "16", "--val-frequency", "3"]
    assert trainer(*argv, "--name", "straight", data=data) == 0
    resume = ["--resume", str(trainer.run("straight") / "checkpoints/epoch_2.pt")]
    assert trainer(*argv, *resume, "--name", "resumed", data=data) == 0
    assert_equal_checkpoints(trainer.checkpoint("straight", 3), trainer.checkpoint("resumed", 3))


def test_epochs_draw_differently(trainer, capsys):
    """With a rate of nothing and one batch an epoch, the logged losses differ by what is drawn alone."""
    data = [*trainer.tars[:-1], "16"]
    still = [*FFF, *RANDOM, "--lr", "0", "--wd", "0", "--epochs", "3", "--logit-bias-init", "-3", "--name", "still"]
    assert trainer(*still, data=data) == 0
    assert capsys.readouterr().out.count("warning: --lr 0 trains nothing") == 1
    said = {("--wd", "-0.1"): "must be 0 or more", ("--epochs-cooldown", "-1"): "must be 0 or more"}
    said["--epochs-cooldown", "4"] = "the run has 3 epochs; at most as many"
    for (flag, value), why in said.items():
        assert trainer(*still, "--lr-scheduler", "const-cooldown", flag, value, data=data) == 2
        assert f"{flag} {value}: {why}" in capsys.readouterr().err
    losses = [line.split("Loss: ")[1] for line in trainer.log("still").splitlines() if "Loss: " in line]
    assert len(losses) == len(set(losses)) == 3


def test_random_generators_that_are_missing_are_told(trainer):
    assert trainer(*DRAWN, *RANDOM, "--name", "first") == 0
    checkpoint = trainer.run("first") / "checkpoints" / "epoch_1.pt"
    extra = checkpoint.with_suffix(".extra")
    state = torch.load(extra, weights_only=True)

    def told(name: str) -> str:
        argv = [*DRAWN, *RANDOM, "--epochs", "2", "--resume", str(checkpoint), "--name", name]
        assert trainer(*argv) == 0
        return " ".join(line for line in trainer.log(name).splitlines() if "other random numbers" in line)

    assert told("whole") == ""
    torch.save({**state, "random": state["random"] * 2}, extra)
    assert "holds the random generators of 2 ranks, not of 1" in told("ranks")
    torch.save({"epoch": 1, "seen": {}}, extra)
    assert "holds no random generators" in told("none")
    extra.unlink()
    assert "epoch_1.extra is not there" in told("no-file")


@pytest.mark.parametrize("method", [FFF, DRAWN], ids=["fff", "clip"])
def test_two_ranks_resume_exactly(trainer, tmp_path, method):
    def launched(name: str, *more: str) -> None:
        argv = [*method, *RANDOM, "--workers", "2", "--epochs", "2", "--name", name, *more]
        assert Launched(trainer, tmp_path / name, *argv, data=trainer.tars).ended(180) == (0, [])

    launched("straight")
    stopped = shutil.copytree(trainer.run("straight") / "checkpoints", tmp_path / "stopped")
    launched("resumed", "--resume", str(stopped / "epoch_1.pt"))
    assert_equal_checkpoints(trainer.checkpoint("straight", 2), trainer.checkpoint("resumed", 2))


def test_an_optimizers_state_of_other_parameters_names_what_it_was_trained_with(trainer, tmp_path, capsys):
    """Without a flag of ours, too, and of a checkpoint whose run is not known."""
    albef = ["--method", "albef", "--batch-size", "8", "--json-text-key", "captions"]

    def line(*argv: str) -> str:
        capsys.readouterr()
        assert trainer(*argv, "--epochs", "2") == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert trainer(*FFF, "--name", "fff") == 0 and trainer(*albef, "--fusion-layers", "1", "--name", "albef") == 0
    last = trainer.run("fff") / "checkpoints" / "epoch_1.pt"
    capsys.readouterr()
    stock = [*trainer.common, *trainer.tars, "--epochs", "2", "--siglip"]
    assert train([*stock, "--resume", str(last), "--name", "stock"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{last}: its optimizer's state does not fit (trained with --method fff): another --logit-lr-mult" in said
    lone = shutil.copy(last, tmp_path / "epoch_1.pt")
    said = line(*FFF, "--opt", "timm/lamb", "--lr", "1e-3", "--resume", str(lone), "--name", "lone")
    assert f"{lone}: its optimizer's state does not fit: another --logit-lr-mult, --opt, --fusion-layers" in said
    said = line(*albef, "--fusion-layers", "0", "--resume", "latest", "--name", "albef")
    assert "epoch_1.pt: it was trained with --fusion-layers 1; resume with the flags it was trained with" in said
    assert not trainer.run("stock").exists()


def test_data_that_have_moved_are_the_same_and_others_are_not():
    def names(data: str | None) -> str:
        return _names(Namespace(train_data=data, dataset_type="webdataset"))

    here = names("data/{00..03}.tar")
    assert here == names("/far/{00..03}.tar") == names("pipe:aws s3 cp s3://x/{00..03}.tar -") == "{00..03}"
    assert here == names("https://x/{00..03}.tar?signed=1.2/3") and names(None) == ""
    assert (
        len({here, *map(names, ("{00..07}.tar", "{04..07}.tar", "{03,02,01,00}.tar", "{00..01}.tar::{02..03}.tar"))})
        == 5
    )
    many = [names(f"{{{','.join(str(7919 * n % 10007) for n in range(most))}}}.tar") for most in (998, 999)]
    assert many[0] != many[1] and max(map(len, many)) < 130


def test_factors_that_come_or_go_are_other_data():
    """With --dataset-resampled an epoch has as many steps with them, of other shards."""
    flags = {"world_size": 1, "workers": 1, "batch_size": 8, "accum_freq": 1, "seed": 0, "dataset_resampled": True}
    of = {"train_data": "a.tar::b.tar", "dataset_type": "webdataset", "train_num_samples": None, **flags}
    before, now = (Namespace(**of, train_data_upsampling_factors=each) for each in (None, "2::1"))
    with pytest.raises(UsageError, match="with --train-data-upsampling-factors None, and now it is 2::1"):
        check_loader_sizes(now, {"midway": {"sizes": loader_sizes(before)}}, "x.pt")
    now.train_data_upsampling_factors, now.train_num_samples = None, 32
    check_loader_sizes(now, {"midway": {"sizes": loader_sizes(before)}}, "x.pt")
