"""A run that is stopped in the middle of an epoch goes on as if it had not been: every number, every sample."""

import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import open_clip
import PIL.Image
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from open_clip_fff.host.stopping import SIGNALS
from open_clip_fff.hub.checkpoints import find_checkpoint, newest_first, read_extra, read_weights
from open_clip_fff.train import main as train
from tests import recorder
from tests.conftest import colour_sample, write_tar
from tests.failing_plugin import FAILS
from tests.programs import Program, torchrun
from tests.test_resuming import FFF, RANDOM, RUNS
from tests.test_training import assert_equal_checkpoints

pytestmark = pytest.mark.slow  # trainings, each from its start to its end

EIGHT = ["--batch-size", "8"]  # 8 steps an epoch of the tars, 4 of the table: workers are in the middle of their turns


@contextmanager
def in_step(number: int, act):
    """Does something in the middle of this process's nth step."""
    steps = 0

    def count(*_) -> None:
        nonlocal steps
        steps += 1
        if steps == number:
            act()

    handle = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def at_line(text: str, act):
    """Does something once, as a line with this text is logged."""

    class Once(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage() and not self.level:
                self.setLevel(logging.CRITICAL)
                act()

    logging.root.addHandler(handler := Once())
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


def told(signum: int = signal.SIGTERM):
    return lambda: os.kill(os.getpid(), signum)


def names(trainer, run: str) -> list[str]:
    return sorted(path.name for path in (trainer.run(run) / "checkpoints").glob("epoch*"))


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_stopped_in_an_epoch_is_the_straight_run(trainer, kind):
    argv = [*RUNS[kind], *RANDOM, *EIGHT, "--epochs", "2"]
    data, step = ([*trainer.table[:-1], "title;pseudo"], 3) if "csv" in kind else (trainer.tars, 5)
    assert trainer(*argv, "--name", "straight", data=data) == 0
    with in_step(step, told()):
        assert trainer(*argv, "--name", "x", data=data) == 143
    assert names(trainer, "x") == [f"epoch_0_step_{step}.extra", f"epoch_0_step_{step}.pt"]
    assert trainer(*argv, "--name", "x", "--resume", "latest", data=data) == 0
    assert_equal_checkpoints(trainer.checkpoint("straight", 2), trainer.checkpoint("x", 2))
    assert not [name for name in names(trainer, "x") if "step" in name]
    # the lines of all steps, as if there had been no stop: epoch, samples, rate, loss
    steps = [re.findall(r"Epoch: \d \[.*?\]|LR: \S+|Loss: \S+", trainer.log(name)) for name in ("straight", "x")]
    assert steps[0] == steps[1] and len(steps[0]) > 8


# --- all that a step depends on: bank, look-ahead, average, rate, guard, accumulation; and damaged images

MINED = ["--mining-features", "ema", "--ema-decay", "0.9", "--mining-warmup", "3", "--mined-per-image", "1"]
ALL = [*FFF[:2], *MINED, "--captions-per-image", "2", "--json-text-key", "captions", "--batch-size", "4"]
ALL += ["--accum-freq", "2", "--batch-hooks", "grit;recorder", "--plugin", "tests.recorder"]
ALL += ["--group-search-space", "12", "--group-queue", "24", *RANDOM]


@pytest.fixture
def damaged(tmp_path):
    """Four shards of 24 rows, a fifth of which hold no image that can be read."""
    for shard in range(4):
        rows = {f"{row}": colour_sample(shard * 24 + row) for row in range(24)}
        for row in (2, 3, 11, 17, 22):
            rows[f"{row}"]["png"] = rows[f"{row}"]["png"][:60]
        write_tar(tmp_path / f"{shard:02d}.tar", rows)
    return ["--train-data", str(tmp_path / "{00..03}.tar"), "--train-num-samples", "76"]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_everything_goes_on(trainer, damaged, workers):
    argv = [*ALL, "--workers", workers, "--epochs", "3"]
    assert trainer(*argv, "--name", "straight", data=damaged) == 0
    straight = recorder.ids()
    with in_step(14, told(signal.SIGINT)):  # in the second epoch, whose groups come from the first one's bank
        assert trainer(*argv, "--name", "x", data=damaged) == 130
    before = recorder.ids()
    assert trainer(*argv, "--name", "x", "--resume", "latest", data=damaged) == 0
    assert before + recorder.ids() == straight
    assert_equal_checkpoints(trainer.checkpoint("straight", 3), trainer.checkpoint("x", 3))
    (_, one), (_, other) = (read_extra(trainer.run(name) / "checkpoints" / "epoch_3.pt") for name in ("straight", "x"))
    assert one["miner"]["step"] == other["miner"]["step"] > 20 and one["ema"]["steps"] == other["ema"]["steps"]
    assert one["miner"]["trust"].equal(other["miner"]["trust"]) and one["seen"] == other["seen"]
    for epoch in (1, 2):  # the bank is whole, too
        name = f"checkpoints/bank/epoch_{epoch}_rank_0.safetensors"
        assert (trainer.run("straight") / name).read_bytes() == (trainer.run("x") / name).read_bytes()
    # each damaged image counts once in its epoch (a worker reads ahead, so that its last ones may be the next epoch's)
    counts = [re.findall(r"damaged in epoch \d: .*", trainer.log(name)) for name in ("straight", "x")]
    assert counts[0] and (counts[0] == counts[1] if workers == "0" else len(counts[0]) == len(counts[1]))


def test_what_was_trained_is_passed_over_undecoded(trainer, monkeypatch):
    opened = []
    monkeypatch.setattr(PIL.Image, "open", lambda *a, open=PIL.Image.open, **k: opened.append(1) or open(*a, **k))
    argv = [*FFF, *EIGHT, *recorder.RECORDED, "--name", "x"]

    def counted(code: int, *more: str) -> int:
        opened.clear()
        assert trainer(*argv, *more) == code
        return len(opened)

    with in_step(6, told()):
        first = counted(143)
    assert counted(0, "--resume", "latest") == first - 48 + 16  # 48 rows, then 16, and what every start looks at


def test_steps_between_checkpoints(trainer, capsys):
    """What a crash leaves is the last of every three steps, whichever epoch they are in, and nothing older."""
    argv = [*FFF, *RANDOM, *EIGHT, "--workers", "2", "--save-every-n-steps", "3", "--epochs", "2"]
    assert trainer(*argv, "--name", "straight") == 0
    assert names(trainer, "straight") == [f"epoch_{n}.{x}" for n in (1, 2) for x in ("extra", "pt")]
    assert "a checkpoint every 3 steps, and where SIGTERM or Ctrl-C ends training" in capsys.readouterr().out

    def crash():
        raise RuntimeError("a crash")

    with in_step(8, crash), pytest.raises(RuntimeError, match="a crash"):
        trainer(*argv, "--name", "x")
    assert names(trainer, "x") == ["epoch_0_step_6.extra", "epoch_0_step_6.pt"]
    killed = trainer.run("x") / "checkpoints" / ".epoch_1_step_3.pt.unfinished"
    killed.touch()  # by SIGKILL in saving
    with in_step(6, crash), pytest.raises(RuntimeError, match="a crash"):  # the fourth of the second epoch
        trainer(*argv, "--name", "x", "--resume", "latest")
    assert [path.name for path in newest_first(trainer.run("x"))] == ["epoch_1_step_1.pt", "epoch_1.pt"]
    assert not killed.exists()
    assert trainer(*argv, "--name", "x", "--resume", "latest") == 0
    assert_equal_checkpoints(trainer.checkpoint("straight", 2), trainer.checkpoint("x", 2))


@pytest.fixture
def stopped(trainer):
    """A run that was stopped behind the third step of its second epoch."""
    argv = ["--method", "clip", *EIGHT, "--epochs", "2", "--name", "x"]
    with in_step(11, told()):
        assert trainer(*argv) == 143
    return trainer.run("x") / "checkpoints" / "epoch_1_step_3.pt"


def test_it_is_a_checkpoint_like_others(trainer, stopped, tmp_path, capsys, export_here):
    stored = torch.load(stopped, weights_only=True)
    assert (stored["epoch"], stored["step"]) == (1, 3) and find_checkpoint(trainer.run("x")) == stopped
    model = open_clip.create_model("tiny-clip", pretrained=str(stopped))  # OpenCLIP's own
    weights = read_weights(stopped)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    export_here(trainer.run("x"), tmp_path / "out")
    assert trainer("--method", "clip", "--pretrained", str(stopped), "--name", "tuned") == 0
    # stock OpenCLIP begins the epoch anew, and is told to without a flag of ours
    capsys.readouterr()
    stock = [*trainer.common, *trainer.tars, *EIGHT, "--epochs", "2", "--resume", str(stopped), "--name", "stock"]
    assert train(stock) == 0
    assert "warning: " in (out := capsys.readouterr().out) and "epoch 1 is trained from its start" in out
    assert trainer.log("stock").count("Train Epoch: 1") == 8


OTHERS = {
    "with --workers 0, and now it is 1: go on with 0": ["--workers", "1"],
    "with --batch-size 8, and now it is 16: go on with 8": ["--batch-size", "16"],
    "with --train-num-samples 64, and now it is 48: go on with 64": ["--train-num-samples", "48"],
}


def test_what_the_step_does_not_fit_is_refused_and_latest_takes_the_epochs(trainer, stopped, capsys):
    argv, whole = ["--method", "clip", *EIGHT, "--epochs", "2"], stopped.parent / "epoch_1.pt"
    shards = ["--train-data", str(trainer.shards / "{00..02}.tar")]
    others = OTHERS | {"with --train-data {00..03}, and now it is {00..02}: go on with {00..03}": shards}
    for says, flags in others.items():
        assert trainer(*argv, *flags, "--resume", str(stopped), "--name", "y") == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert says in line and line.endswith(f"the newest usable one before it is {whole}"), line
        assert not trainer.run("y").exists()
    extra = torch.load(stopped.with_suffix(".extra"), weights_only=True)
    del (
        extra["midway"]["sizes"]["train_data"],
        extra["midway"]["sizes"]["train_num_samples"],
    )  # as where the data say it, or an older version has saved
    torch.save(extra, stopped.with_suffix(".extra"))
    assert trainer(*argv, "--train-num-samples", "48", "--resume", str(stopped), "--name", "y") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "an epoch of 8 steps, and this run's have 6: go on with the same data" in line
    assert line.split(" (")[0].endswith(f"or from an epoch's checkpoint, {whole}"), line
    # nothing is trained: neither the loader's numbers nor its place matter
    table = ["--val-data", str(trainer.csv), "--csv-img-key", "filepath", "--csv-caption-key", "title"]
    assert trainer(*argv, *table, "--batch-size", "4", "--resume", str(stopped), "--name", "only", data=[]) == 0
    assert "Eval Epoch: 1" in trainer.log("only") and "note" not in capsys.readouterr().out
    stopped.with_suffix(".extra").unlink()
    assert trainer(*argv, "--name", "x", "--resume", "latest") == 0
    assert f"its extra state {stopped.with_suffix('.extra')} is not there" in (out := capsys.readouterr().out)
    assert f"resumes from {whole}" in out and "step" not in "".join(names(trainer, "x"))


def test_a_signal_at_an_epochs_end_and_one_in_validation(trainer):
    val = ["--val-data", str(trainer.shards / "00.tar"), "--val-num-samples", "16"]
    argv = [*FFF, *RANDOM, *EIGHT, *val, "--workers", "2", "--epochs", "2"]
    assert trainer(*argv, "--name", "straight") == 0
    with in_step(8, told()):
        assert trainer(*argv, "--name", "x") == 143
    assert "step 8 of 8 in epoch 0" in trainer.log("x") and "Eval Epoch: 1" not in trainer.log("x")
    with at_line("Eval Epoch: 1", told()):
        assert trainer(*argv, "--name", "x", "--resume", "latest") == 143
    assert names(trainer, "x") == ["epoch_1.extra", "epoch_1.pt"] and "Train Epoch: 1" not in trainer.log("x")
    assert f"before epoch 1; saved as {trainer.run('x') / 'checkpoints' / 'epoch_1.pt'};" in trainer.log("x")
    assert trainer(*argv, "--name", "x", "--resume", "latest") == 0
    assert_equal_checkpoints(trainer.checkpoint("straight", 2), trainer.checkpoint("x", 2))


@pytest.mark.parametrize(("step", "saved"), [(5, "epoch_0_step_6.pt"), (16, "epoch_1_step_8.pt")])
def test_a_signal_as_a_resumed_run_begins_keeps_what_was_trained(trainer, step, saved):
    """Before the loader has begun, nothing tells where it was; the signal acts after a step, or the epoch's end."""
    argv = [*FFF, *RANDOM, *EIGHT, "--workers", "2", "--epochs", "2"]
    assert trainer(*argv, "--name", "straight") == 0
    with in_step(step, told()):
        assert trainer(*argv, "--name", "x") == 143
    with at_line("Going on in epoch", told()):
        assert trainer(*argv, "--name", "x", "--resume", "latest") == 143
    assert names(trainer, "x")[-1] == saved
    assert trainer(*argv, "--name", "x", "--resume", "latest") == 0
    assert_equal_checkpoints(trainer.checkpoint("straight", 2), trainer.checkpoint("x", 2))
    (_, one), (_, other) = (read_extra(trainer.run(name) / "checkpoints" / "epoch_2.pt") for name in ("straight", "x"))
    assert one["seen"] == other["seen"] != {}  # though no step may have been left to log


def test_behind_an_epochs_last_step_batches_that_are_left_over_make_no_step(trainer):
    argv = ["--method", "clip", "--accum-freq", "3", "--epochs", "2", "--name", "x"]  # a step of three of four batches
    with in_step(1, told()):
        assert trainer(*argv) == 143
    assert names(trainer, "x") == ["epoch_0_step_1.extra", "epoch_0_step_1.pt"]
    assert trainer(*argv, "--resume", "latest") == 0
    assert names(trainer, "x")[-1] == "epoch_2.pt"


def test_handlers_are_put_back_and_stock_runs_have_none(trainer):
    before = [signal.getsignal(signum) for signum in SIGNALS]
    seen = []
    look = lambda: seen.append([signal.getsignal(signum) for signum in SIGNALS])  # noqa: E731
    with in_step(2, look):
        assert trainer("--name", "ours") == 0
    with in_step(2, look):
        assert train([*trainer.common, *trainer.tars, "--name", "stock"]) == 0
    assert seen[0] != before == seen[1]
    assert [signal.getsignal(signum) for signum in SIGNALS] == before and len(before) == 4


def test_a_signal_at_the_start_frees_the_runs_name(trainer, tmp_path):
    program = [*trainer.common, *trainer.tars, "--model-config", str(trainer.config), "--name", "x", *FAILS]
    stopped = Program(["-m", "open_clip_fff.train", *program], env={"FAILING": "0:0:sigterm"}, out=tmp_path / "log")
    assert stopped.wait() == -signal.SIGTERM and not trainer.run("x").exists()
    assert "Running with a single process" in (tmp_path / "log").read_text()  # its folder was there


def test_a_process_that_was_forked_at_the_start_removes_nothing(trainer):
    """As of --remote-sync, which is ended by SIGTERM whenever the run ends."""
    context, ended = multiprocessing.get_context("fork"), []
    ready = context.Event()

    def asleep(ready) -> None:
        ready.set()
        time.sleep(60)

    def at_start() -> None:
        (child := context.Process(target=asleep, args=(ready,))).start()
        ready.wait()  # Python forgets a signal that comes as it forks
        child.terminate()
        child.join()
        ended.append(child.exitcode)

    with at_line("Running with a single process", at_start):
        assert trainer("--method", "clip", "--name", "x") == 0
    assert ended == [-signal.SIGTERM] and "Running with a single process" in trainer.log("x")


def test_a_run_without_a_folder_cannot_save(trainer, capsys):
    assert trainer("--method", "clip", "--save-every-n-steps", "2", "--logs", "none", "--name", "x") == 2
    assert "--save-every-n-steps: --logs none keeps no checkpoints" in capsys.readouterr().err
    assert trainer("--method", "clip", "--save-every-n-steps", "0", "--name", "x") == 2
    assert "--save-every-n-steps is 0: steps, 1 or more" in capsys.readouterr().err


# --- processes of their own


def started(trainer, out, *argv: str, ranks: int = 0) -> subprocess.Popen:
    """In the usual way, not by tests/programs.py: how torchrun hands signals on is a part of the test."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks else []
    command = [sys.executable, *torchrun, "-m", "open_clip_fff.train", *(["--"] if ranks else []), *trainer.common]
    command += ["--model-config", str(trainer.config), *trainer.tars, *argv]
    with out.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def wait_for(text: str, out, seconds: float = 90) -> None:
    began = time.monotonic()
    while text not in out.read_text():
        assert time.monotonic() < began + seconds, out.read_text()[-2000:]
        time.sleep(0.05)


SLOWLY = [
    *FFF,
    *EIGHT,
    "--workers",
    "2",
    "--plugin",
    "scripts.faulty.plugin",
    "--epochs",
    "40",
    "--batch-hooks",
    "report-pid",
]


def test_a_second_signal_ends_at_once(trainer, tmp_path):
    """The first is in a step that takes long; both reach the whole group, whose workers hear neither."""
    out = tmp_path / "log"
    process = started(trainer, out, *SLOWLY, "--name", "x", "--plugin", "tests.long_step")
    try:
        wait_for("a long step", out)
        os.killpg(process.pid, signal.SIGINT)
        wait_for("SIGINT: training stops with a checkpoint after this step", out, 5)
        time.sleep(1.5)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(5) == -signal.SIGINT
    finally:
        process.kill()
    assert "Traceback" not in out.read_text() and "step" not in "".join(names(trainer, "x"))


def test_two_ranks_stop_together_and_go_on(trainer, tmp_path):
    """torchrun signals each rank's whole group, workers and all; a rank that is told alone tells the other."""
    argv = [*SLOWLY, *RANDOM, "--batch-size", "4", "--epochs", "6", "--timeout", "1"]

    own = ["-m", "open_clip_fff.train", *trainer.common, "--model-config", trainer.config, *trainer.tars, *argv]

    def whole(*more: str) -> subprocess.CompletedProcess:
        return torchrun(2, *own, "--name", *more)

    assert whole("straight").returncode == 0
    for who, signum in (("torchrun", signal.SIGHUP), ("rank-1", signal.SIGTERM)):
        out = tmp_path / who
        if who == "torchrun":
            run = started(trainer, out, *argv, "--name", who, ranks=2)
        else:
            run = Program([*own, "--name", who], ranks=2, env={"PYTHONUNBUFFERED": "1"}, out=out)
        wait_for("rank 0 is pid", out)
        wait_for("rank 1 is pid", out)
        pid = int(re.search(r"rank 1 is pid (\d+)", out.read_text())[1])
        os.kill(run.pid if who == "torchrun" else pid, signum)
        code, printed = run.wait(60), out.read_text()
        assert code != 0 and printed.count(f"{signum.name}: training ended after step ") == 1, printed[-3000:]
        assert "open_clip_fff.train: error" not in printed
        assert "open_clip_fff" not in printed.partition("Traceback")[2].partition("torch.distributed.elastic")[0]
        saved = newest_first(trainer.run(who))[0].name
        assert f"saved as {trainer.run(who) / 'checkpoints' / saved}" in printed and "_step_" in saved
        assert "to go on, start it again with --resume latest added" in printed
        assert whole(who, "--resume", "latest").returncode == 0
        assert_equal_checkpoints(trainer.checkpoint("straight", 6), trainer.checkpoint(who, 6))
