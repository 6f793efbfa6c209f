"""Short, empty or lost shards, and stopped processes: trained, reported, or the run ends."""

import os
import re
import signal
from pathlib import Path

from .inputs import colour_sample, write_tar
from .lab import CLIP, MANY, Ended, Lab
from .rows import Outcome, fault, require

TOPIC = "a lost or short shard, a stopped process"
SLOW = ("--plugin", "faulty.plugin", "--batch-hooks", "report-pid", "--epochs", "50", "--timeout", "0.2")


def one_line(ended: Ended, pattern: str) -> Outcome:
    """The error line of a run of several ranks that ended itself."""
    require(ended.code, "the run went on to its end")
    line = ended.line(rf"error: .*{pattern}.*").removeprefix("error: ")
    return Outcome(f"{line} ({ended.seconds:.0f} s with the start)", "the run")


@fault(TOPIC, "shards of 20, 20, 20 and 10 rows, batch 16, 4 workers, FFF")
def small_shard(lab: Lab) -> Outcome:
    ended = lab.train(*MANY, "--workers", "4", data=lab.shards(20, 20, 20, 10)).succeeded()
    steps = re.findall(r"Train Epoch: 0 \[ *(\d+)/(\d+)", ended.text)[-1]
    require(steps[0] == steps[1], f"{steps[0]} of {steps[1]} rows")
    return Outcome(f"{steps[0]} of {steps[1]} rows of the schedule; rows flow on into the next pass", "nothing")


@fault(TOPIC, "the same, OpenCLIP's own loss")
def small_shard_of_clip(lab: Lab) -> Outcome:
    ended = lab.train(*CLIP, "--workers", "4", data=lab.shards(20, 20, 20, 10)).succeeded()
    line = ended.line(r"Epoch 0 was short: .+")
    taken, counted = map(int, re.findall(r"(\d+) of (\d+) mini-batches", line)[0])
    return Outcome(line, f"{counted - taken} of {counted} steps, reported")


@fault(TOPIC, "four shards, one of them empty, 2 ranks x 2 workers")
def empty_shard(lab: Lab) -> Outcome:
    data = lab.shards(16, 16, 16, 16)
    write_tar(lab.tar(3), {})
    return one_line(lab.train(*MANY, "--workers", "2", data=data, ranks=2), "the other ranks would wait")


@fault(TOPIC, "of four shards, one is cut short and one is an html page")
def lost_shards(lab: Lab) -> Outcome:
    data = lab.shards(16, 16, 16, 16)
    lab.tar(2).write_bytes(lab.tar(2).read_bytes()[: lab.tar(2).stat().st_size // 2])
    lab.tar(3).write_text("<html>" * 999)
    ended = lab.train(*MANY, data=data).succeeded()
    return Outcome(ended.line(r"Lost of 4 shards in epoch 0: .+"), "their rows of each epoch, named and counted")


@fault(TOPIC, "a rank none of whose images can be read")
def unreadable(lab: Lab) -> Outcome:
    data = lab.shards(16, 16)
    write_tar(lab.tar(1), {str(n): {**colour_sample(n), "png": b"<html>"} for n in range(16)})
    return one_line(lab.train(*CLIP, data=data, ranks=2), "mini-batches")


@fault(TOPIC, "one shard for two ranks, --workers 0")
def one_shard(lab: Lab) -> Outcome:
    return one_line(lab.train(*MANY, data=lab.shards(32), ranks=2), "shard")


@fault(TOPIC, "SIGSTOP of a rank")
def stopped_rank(lab: Lab) -> Outcome:
    running = lab.start_training(*MANY, *SLOW, data=lab.shards(64, 64), ranks=2)
    os.kill(int(running.wait_for(r"rank 1 is pid (\d+)")), signal.SIGSTOP)
    return one_line(running.ended(), "not heard from: rank 1")


@fault(TOPIC, "SIGSTOP of a loader worker")
def stopped_worker(lab: Lab) -> Outcome:
    running = lab.start_training(*MANY, *SLOW, "--workers", "2", data=lab.shards(64, 64))
    rank = running.wait_for(r"rank 0 is pid (\d+)")
    children = Path(f"/proc/{rank}/task/{rank}/children").read_text().split()
    workers = [pid for pid in children if "pt_data_worker" in Path(f"/proc/{pid}/comm").read_text()]
    require(len(workers) == 2, f"there are workers {workers}")
    os.kill(int(workers[0]), signal.SIGSTOP)
    return one_line(running.ended(), "of its loader")
