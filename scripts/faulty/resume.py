"""Interrupted and resumed runs, and damaged checkpoints."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import torch

from .lab import CLIP, MANY, Lab, same_weights
from .rows import Outcome, fault, require

TOPIC = "resume is exact, checkpoints explain themselves"
RANDOM = ("--force-patch-dropout", "0.5", "--caption-policy", "sample", "--workers", "2")


def resumed(lab: Lab, *flags: str, ranks: int = 1) -> Outcome:
    """Three epochs, without interruption and resumed after the second."""
    data, flags = lab.shards(32, 32, 32, 32), (*flags, *RANDOM, "--epochs", "3")
    lab.train(*flags, data=data, ranks=ranks).succeeded()
    from_two = ("--name", "y", "--resume", lab.checkpoint(2))
    lab.train(*flags, *from_two, data=data, ranks=ranks).succeeded()
    return Outcome(same_weights(lab.state(3), lab.state(3, "y")), "nothing")


@fault(TOPIC, "ended between epochs; random crops, sampled captions, dropout; FFF")
def fff(lab: Lab) -> Outcome:
    return resumed(lab, *MANY)


@fault(TOPIC, "the same, OpenCLIP's loss")
def clip(lab: Lab) -> Outcome:
    return resumed(lab, *CLIP, "--json-text-key", "captions", "--captions-per-image", "4")


@fault(TOPIC, "the same, FFF on two ranks")
def two_ranks(lab: Lab) -> Outcome:
    return resumed(lab, *MANY, ranks=2)


def stopped(lab: Lab, number: signal.Signals, ranks: int = 1, whole_group: bool = False) -> Outcome:
    """An uninterrupted run, and one that is signalled in its first epoch and resumed."""
    hook = ("--plugin", "faulty.plugin", "--batch-hooks", "report-pid")
    data, flags = lab.shards(*(64,) * 4), (*MANY, *RANDOM, *hook, "--epochs", "2")
    lab.train(*flags, data=data, ranks=ranks).succeeded()
    running = lab.start_training(*flags, "--name", "y", data=data, ranks=ranks)
    running.wait_for(r"rank 0 is pid (\d+)")
    running.signal(number, whole_group)
    ended = running.ended()
    require(ended.code in (128 + number, 1), f"exit code {ended.code}")  # torchrun's own is 1
    line = ended.line(r"training ended after .*epoch_0_step_\d+\.pt")
    lab.train(*flags, "--name", "y", "--resume", "latest", data=data, ranks=ranks).succeeded()
    return Outcome(f"{line}; {same_weights(lab.state(2), lab.state(2, 'y'))}", "nothing")


@fault(TOPIC, "SIGTERM in the middle of an epoch; random crops, sampled captions, dropout")
def sigterm(lab: Lab) -> Outcome:
    return stopped(lab, signal.SIGTERM)


@fault(TOPIC, "the same with Ctrl-C, which loader workers get, too")
def ctrl_c(lab: Lab) -> Outcome:
    return stopped(lab, signal.SIGINT, whole_group=True)


@fault(TOPIC, "SIGTERM of torchrun with two ranks in the middle of an epoch")
def sigterm_of_two(lab: Lab) -> Outcome:
    return stopped(lab, signal.SIGTERM, ranks=2)


def broken(lab: Lab, change: Callable[[Path], object]) -> Outcome:
    """Damages the second of two checkpoints; resumes from it, and from the latest."""
    data = lab.shards(32)
    lab.train(*CLIP, "--epochs", "2", data=data).succeeded()
    path = lab.checkpoint(2)
    change(path)
    ended = lab.train(*CLIP, "--epochs", "3", "--resume", path, "--name", "y", data=data)
    message = ended.refusal()
    require(str(lab.checkpoint(1)) in message, f"the complete one is not named: {message}")
    latest = lab.train(*CLIP, "--epochs", "2", "--resume", "latest", data=data).succeeded()
    latest.line(r"warning: --resume .*; --resume latest resumes from .*epoch_1\.pt")
    return Outcome(f"{message}; --resume latest takes that one, and says so", "epoch 2")


@fault(TOPIC, "a checkpoint that is cut short")
def truncated(lab: Lab) -> Outcome:
    return broken(lab, lambda path: path.write_bytes(path.read_bytes()[:9000]))


@fault(TOPIC, "an empty checkpoint")
def empty(lab: Lab) -> Outcome:
    return broken(lab, lambda path: path.write_bytes(b""))


@fault(TOPIC, "a checkpoint that is an html page")
def html(lab: Lab) -> Outcome:
    return broken(lab, lambda path: path.write_bytes(b"<html><body>404</body></html>"))


@fault(TOPIC, "a checkpoint that is a list")
def a_list(lab: Lab) -> Outcome:
    return broken(lab, lambda path: torch.save([1, 2], path))


@fault(TOPIC, "an older epoch_latest.pt beside newer epochs, --resume latest")
def older_latest(lab: Lab) -> Outcome:
    data = lab.shards(32)
    lab.train(*CLIP, "--epochs", "2", data=data).succeeded()
    shutil.copy(lab.checkpoint(1), lab.checkpoint(1).with_name("epoch_latest.pt"))
    ended = lab.train(*CLIP, "--epochs", "3", "--resume", "latest", data=data).succeeded()
    return Outcome(ended.line(r"note: --resume latest resumes from .*epoch_2\.pt, .+"), "nothing")


@fault(TOPIC, "another method's checkpoint, --resume")
def another_method(lab: Lab) -> Outcome:
    data = lab.shards(32)
    lab.train(*CLIP, data=data).succeeded()
    ended = lab.train(*MANY, "--epochs", "2", "--resume", lab.checkpoint(1), "--name", "y", data=data)
    return Outcome(ended.refusal(), "nothing")


@fault(TOPIC, "a full disk while a checkpoint is saved")
def full_disk(lab: Lab) -> Outcome:
    data = lab.shards(32)
    lab.train(*CLIP, data=data).succeeded()
    kept = lab.checkpoint(1).read_bytes()
    flags = ("--epochs", "2", "--resume", "latest", "--delete-previous-checkpoint")
    ended = lab.train(*CLIP, *flags, data=data, largest_file=len(kept) // 2)
    require(lab.checkpoint(1).read_bytes() == kept, "the checkpoint before it has changed")
    return Outcome(ended.refusal(), "epoch 2; epoch 1 is kept")


@fault(TOPIC, "a second run in the folder, --resume latest")
def locked(lab: Lab) -> Outcome:
    data = lab.shards(64)
    first = lab.start_training(
        *MANY, "--plugin", "faulty.plugin", "--batch-hooks", "report-pid", "--epochs", "50", data=data
    )
    first.wait_for(r"rank 0 is (pid \d+)")
    try:
        return Outcome(lab.train(*MANY, "--epochs", "2", "--resume", "latest", data=data).refusal(), "nothing")
    finally:
        first.kill()
