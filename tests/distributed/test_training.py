"""The trainer under torchrun: two gloo ranks train FFF with mining, accumulate, validate and save."""

import json
import re

import pytest

from open_clip_fff.grouping.bank_file import published
from tests.distributed.test_parity import torchrun
from tests.eval_sets import webdataset
from tests.test_self_mining import equal, extra
from tests.test_towers import TIMM_RESNET
from tests.test_training import assert_equal_checkpoints

pytestmark = pytest.mark.slow


def test_two_ranks_train_with_mining(trainer, teacher, shards, tmp_path):
    webdataset(tmp_path / "sets" / "cifar10")
    argv = [
        *("--method", "fff", "--captions-per-image", "4", "--json-text-key", "captions", "--batch-size", "8"),
        *("--mining-model", "tiny-clip", "--mining-pretrained", str(teacher), "--p1", "0.2", "--p2", "0.97"),
        *("--model-config", str(trainer.config), "--accum-freq", "2", "--name", "two", "--epochs", "2"),
        *("--val-data", str(shards / "00.tar"), "--val-num-samples", "16"),
        *("--zeroshot-data", str(tmp_path / "sets"), "--zeroshot-frequency", "1"),
    ]
    printed = torchrun(2, "-m", "open_clip_fff.train", "--", *trainer.common, *trainer.tars, *argv)
    log = trainer.log("two")
    # one rank speaks, and says each thing once
    assert printed.count("open_clip_fff 0") == 1 and printed.count("FFF Epoch") == log.count("FFF Epoch")
    assert log.count("FFF Epoch") == 2 * 2  # 64 images, 2 ranks of 8, 2 accumulated: 2 steps an epoch
    assert min(float(rate) for rate in re.findall(r"Mined/image: ([\d.]+)", log)) > 0
    assert "gathers with gradient" in log and "image_to_text_R@1" in log
    assert printed.count("FFF Eval Epoch") == log.count("FFF Eval Epoch") == 2
    assert printed.count("FFF Zero-shot Epoch") == log.count("FFF Zero-shot Epoch") == 2
    # the share of positives is counted over the global batch of 32 images
    counted = [float(share) for share in re.findall(r"Positives: ([\d.]+)%", log)]
    assert min(counted) > 100 / 32
    assert trainer.checkpoint("two", 2)["epoch"] == 2
    # and the same with texts and mining features going round
    ring = [*argv, "--loss-dist-impl", "ring", "--name", "ring"]
    torchrun(2, "-m", "open_clip_fff.train", "--", *trainer.common, *trainer.tars, *ring)
    assert "go round the ranks" in trainer.log("ring")
    gathered, passed_on = (
        [[float(x) for x in found] for found in re.findall(r"loss: ([\d.]+) .*?Mined/image: ([\d.]+)", text, re.S)]
        for text in (log, trainer.log("ring"))
    )
    assert len(gathered) == 4 and passed_on == [pytest.approx(pair, rel=1e-3) for pair in gathered]


@pytest.mark.parametrize("config", [None, TIMM_RESNET], ids=["vit", "batch norm"])
def test_two_ranks_resume_their_average_and_their_thresholds(trainer, tmp_path, config):
    """Equal to a run that was never stopped; both ranks find the same thresholds, or their gathers would not fit.

    And both mine with the same average: a batch norm's statistics are each rank's own, and rank 0's are saved.
    """
    if config is not None:
        trainer.config = tmp_path / "tiny-clip.json"
        trainer.config.write_text(json.dumps(config))
    argv = [
        *("--method", "fff-softmax", "--captions-per-image", "4", "--json-text-key", "captions", "--batch-size", "8"),
        *("--mining-features", "ema", "--ema-decay", "0.9", "--mining-warmup", "3", "--mined-per-image", "2"),
        *("--model-config", str(trainer.config), "--epochs", "2", "--aug-cfg", "scale=(1.0,1.0)"),
    ]
    run = [*("-m", "open_clip_fff.train", "--"), *trainer.common, *trainer.tars, *argv]
    torchrun(2, *run, "--name", "straight")
    torchrun(2, *run, "--name", "resumed", "--resume", str(trainer.run("straight") / "checkpoints" / "epoch_1.pt"))
    assert_equal_checkpoints(trainer.checkpoint("straight", 2), trainer.checkpoint("resumed", 2))
    straight, resumed = (extra(trainer, name, 2) for name in ("straight", "resumed"))
    assert equal(straight, resumed) and straight["miner"]["step"] == 8 and straight["miner"]["reference"] > 0


def test_stock_clip_trains_on_two_ranks(trainer):
    argv = ["--model-config", str(trainer.config), "--method", "clip", "--name", "clip"]
    torchrun(2, "-m", "open_clip_fff.train", "--", *trainer.common, *trainer.tars, *argv)
    assert trainer.checkpoint("clip")["epoch"] == 1


def test_two_ranks_group_their_own_streams(trainer):
    """What one rank's steps made is found by whichever rank gets the image next."""
    argv = [
        *(
            "--method",
            "grit",
            "--batch-size",
            "4",
            "--group-search-space",
            "12",
            "--group-queue",
            "16",
            "--epochs",
            "3",
        ),
        *("--loss", "s-itc", "--smoothing-over", "group", "--captions-per-image", "2", "--caption-policy", "all"),
        *("--json-text-key", "captions", "--model-config", str(trainer.config), "--workers", "1"),
        *("--aug-cfg", "scale=(1.0,1.0)"),
    ]
    common = [*trainer.common, *trainer.tars]
    torchrun(2, "-m", "open_clip_fff.train", "--", *common, *argv, "--name", "two")
    log = trainer.log("two")
    assert log.count("FFF Epoch") == 3 * 8 and trainer.checkpoint("two", 3)["epoch"] == 3
    bank = trainer.run("two") / "checkpoints" / "bank"
    assert sorted(path.name.split(".")[0] for path in bank.iterdir()) == [
        f"epoch_{epoch}_rank_{rank}" for epoch in (1, 2) for rank in (0, 1)
    ]
    checkpoint = trainer.run("two") / "checkpoints" / "epoch_2.pt"
    torchrun(2, "-m", "open_clip_fff.train", "--", *common, *argv, "--name", "resumed", "--resume", str(checkpoint))
    assert_equal_checkpoints(trainer.checkpoint("two", 3), trainer.checkpoint("resumed", 3))
    # a run that died before its last checkpoint leaves that epoch's bank, and goes on with fewer ranks
    checkpoint.with_name("epoch_3.pt").unlink()
    torchrun(1, "-m", "open_clip_fff.train", "--", *common, *argv, "--name", "two", "--resume", "latest")
    assert [path.name for path in published(bank, 2)] == ["epoch_2_rank_0.safetensors"]


def test_each_rank_groups_the_images_that_it_has_anyway(trainer, tmp_path, monkeypatch):
    argv = [
        *("--loss", "softmax", "--batch-size", "4", "--epochs", "2", "--plugin", "tests.id_writer"),
        *("--model-config", str(trainer.config), "--group-search-space", "12", "--group-queue", "16"),
    ]
    seen = {}
    for name, hooks in (("plain", "id-writer"), ("grouped", "grit;id-writer")):
        monkeypatch.setenv("ID_WRITER", str(tmp_path / name))
        flags = argv if name == "grouped" else argv[:-4]
        run = [*trainer.common, *trainer.tars, *flags, "--batch-hooks", hooks, "--name", name]
        torchrun(2, "-m", "open_clip_fff.train", "--", *run)
        for rank in (0, 1):
            seen[name, rank] = [json.loads(line) for line in (tmp_path / f"{name}.{rank}").read_text().splitlines()]
    for rank in (0, 1):
        plain, grouped = seen["plain", rank], seen["grouped", rank]
        assert len(plain) == len(grouped) == 16 and plain[:8] == grouped[:8] and plain[8:] != grouped[8:]
        assert sorted(i for batch in plain[8:] for i in batch) == sorted(i for batch in grouped[8:] for i in batch)


def test_two_ranks_resume_what_one_process_trained(trainer):
    """OpenCLIP saves the names that DDP gives, and under DDP takes no others."""
    argv = ["--method", "clip", "--model-config", str(trainer.config), "--batch-size", "8"]
    assert trainer(*argv, "--batch-size", "16", "--name", "one") == 0
    run = [*("-m", "open_clip_fff.train", "--"), *trainer.common, *trainer.tars, *argv, "--epochs", "2"]
    torchrun(2, *run, "--name", "two", "--resume", str(trainer.run("one") / "checkpoints" / "epoch_1.pt"))
    assert "resuming checkpoint" in trainer.log("two")
    assert all(name.startswith("module.") for name in trainer.checkpoint("two", 2)["state_dict"])
    two = trainer.run("two") / "checkpoints" / "epoch_2.pt"
    assert trainer(*argv, "--batch-size", "16", "--epochs", "3", "--name", "back", "--resume", str(two)) == 0
    assert trainer.checkpoint("back", 3)["epoch"] == 3
