"""Ranks wait for what rank 0 does alone, as an evaluation, for as long as it is there, and no longer."""

import os
import signal
import socket

import pytest

from open_clip_fff.errors import OneRankError
from open_clip_fff.host import peers
from tests.failing_plugin import FAILS
from tests.programs import Program
from tests.test_short_epochs import MANY, Launched

TIMEOUT = ["--timeout", "0.1", "--name", "x"]  # six seconds


def validation(trainer, before: str) -> list[str]:
    """A set that a shell does something before reading; not in each rank's look at it, before the run has trained."""
    # no pattern that finds itself among the flags that are logged
    tar = f"pipe:grep -qs Train[^.]Epoch {trainer.run('x') / 'out.log'} && {before}; cat {trainer.shards / '00.tar'}"
    return ["--val-data", tar, "--val-num-samples", "16"]


@pytest.mark.slow
@pytest.mark.parametrize("method", [MANY, []], ids=["fff", "stock"])
def test_an_evaluation_longer_than_the_timeout_ends_no_run(trainer, tmp_path, method):
    seconds = 4 if method else 8  # with a flag of ours the set is read twice
    argv = [*method, *TIMEOUT, *validation(trainer, f"sleep {seconds}"), "--epochs", "2", "--val-frequency", "2"]
    code, lines = Launched(trainer, tmp_path / "log", *argv, data=trainer.tars).ended(90)
    assert code == 0 and not lines, lines
    assert trainer.checkpoint("x", 2)["epoch"] == 2 and "Eval Epoch: 2" in trainer.log("x")


@pytest.mark.slow
def test_a_rank_0_that_is_stopped_while_it_evaluates_is_named(trainer, tmp_path):
    argv = [*MANY, *TIMEOUT, *validation(trainer, "kill -STOP $PPID")]
    run = Launched(trainer, tmp_path / "log", *argv, data=trainer.tars)
    pid = run.child(
        r"error: --timeout 0.1: rank 1 waited that .* for others \(.*\); not heard from: rank 0 \(.*, pid (\d+)\)"
    )
    os.kill(pid, signal.SIGKILL)  # as torchrun does half a minute after SIGTERM
    code, lines = run.ended(60)
    assert code != 0 and len(lines) == 1, lines


@pytest.mark.slow
@pytest.mark.parametrize("end", ["fails", "dies"])
def test_the_others_do_not_outlive_a_rank_0_that_fails_in_an_evaluation(trainer, tmp_path, monkeypatch, end):
    """Within --timeout, and before torchrun, which has told them to end, kills them."""
    monkeypatch.setenv("FAILING", "0:-1:evaluation" if end == "fails" else "")
    argv = [*FAILS, "--name", "x"] if end == "fails" else [*MANY, "--name", "x"]
    argv += validation(trainer, "true" if end == "fails" else "kill -KILL $PPID")
    run = Launched(trainer, tmp_path / "log", *argv, data=trainer.tars)
    run.child(r"Terminating process (\d+) via signal SIGTERM")
    code, _ = run.ended(15)
    assert code != 0 and ("KeyError: 'on purpose'" in (tmp_path / "log").read_text()) == (end == "fails")


@pytest.mark.slow
def test_a_rank_0_that_dies_while_it_evaluates_is_noticed_without_torchrun(trainer, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        at = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
    argv = [*trainer.common, "--model-config", trainer.config, *trainer.tars, *MANY, *TIMEOUT]
    command = ["-m", "open_clip_fff.train", *argv, *validation(trainer, "kill -KILL $PPID")]
    ranks = [Program(command, env={**at, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    first, second = (rank.done(60) for rank in ranks)
    assert first.returncode == -signal.SIGKILL and second.returncode == 2, (first, second)
    assert "error: rank 1: another rank has ended, whose own line says why" in second.stderr


def test_ranks_of_which_nothing_is_known_are_not_listed(monkeypatch):
    monkeypatch.setattr(peers, "BEAT", 0.0)
    says = "[/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 60000ms for recv operation"
    with pytest.raises(OneRankError) as raised, peers.bounded_waits(1) as others:
        others.world_size = 2
        raise RuntimeError(says)
    assert str(raised.value) == f"--timeout 1: rank 0 waited that many minutes for others ({says})"
