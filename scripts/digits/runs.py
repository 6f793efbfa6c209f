"""Trainings as a person would start them: `python -m open_clip_fff.train`, two at a time, with a line of progress."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

AT_ONCE = 2
SHOWN = 15  # last lines of the log of a run that failed


class RunFailed(Exception):
    """A training that did not end well; the message is for the person."""


@dataclass(frozen=True)
class Run:
    """One training."""

    name: str  # of its folder in logs/
    title: str  # in the table and the plot
    flags: tuple[str, ...]  # beside those that all share
    teacher: str | None = None  # the run whose frozen model mines for it, None where nothing is mined


def words(flags: Mapping[str, object]) -> list[str]:
    """Flags and their values as they are typed."""
    return [str(word) for pair in flags.items() for word in pair]


def command(*typed: object) -> None:
    """Runs `open-clip-fff` with these words, and shows them; ends this program where it fails."""
    argv = list(map(str, typed))
    print("$ open-clip-fff", shlex.join(argv), flush=True)
    if code := subprocess.run([sys.executable, "-m", "open_clip_fff", *argv]).returncode:
        sys.exit(code)


def minutes() -> Callable[[], str]:
    """A clock of the minutes from now on."""
    began = time.monotonic()
    return lambda: f"{(time.monotonic() - began) / 60:.0f} min"


class Trainer:
    """Starts trainings in the order in which they come, two at a time; leaving its context ends those still running.

    All runs have the `shared` flags, which are printed once as the array SHARED, and so many `epochs`, for their
    progress. `logs` is the folder for them, and for what each prints (NAME.txt); `clock` gives the time to show.
    """

    def __init__(self, shared: Sequence[str], logs: Path, epochs: int, clock: Callable[[], str] | None = None) -> None:
        self.shared, self.logs, self.epochs, self.clock = shared, logs, epochs, clock or minutes()
        self.seconds: dict[str, float] = {}  # by name, how long a finished command took
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._futures: dict[str, Future[None]] = {}
        self._processes: dict[str, subprocess.Popen] = {}
        self._shown: dict[str, int] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Trainer":
        print(f"  export OMP_NUM_THREADS=1\n  SHARED=({shlex.join(self.shared)})", flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self._processes.values()):
            process.terminate()

    def start(self, run: Run, more: Sequence[str] = ()) -> None:
        """Puts a run in the queue, and prints its command; what an interrupted start of the same left is removed.

        Raises RunFailed if its folder is that of another run, or of a finished one.
        """
        own = ["--name", run.name, *run.flags, *more]
        self._remove_unfinished(run.name, own)
        print(f'  python -m open_clip_fff.train "${{SHARED[@]}}" {shlex.join(own)}', flush=True)
        self._futures[run.name] = self._pool.submit(self._train, run.name, own)

    def wait(self, run: Run) -> None:
        """Returns once the run has ended, and shows how far each is until then. Raises RunFailed if any run failed."""
        while True:
            for future in self._futures.values():
                if future.done():
                    future.result()
            self._show()
            if self._futures[run.name].done():
                return
            time.sleep(0.5)

    def _remove_unfinished(self, name: str, own: Sequence[str]) -> None:
        folder, command = self.logs / name, shlex.join(["python", "-m", "open_clip_fff.train", *self.shared, *own])
        params, there = folder / "params.txt", {path.name for path in folder.rglob("*") if path.is_file()}
        same = params.is_file() and f"\ncommand: {command}\n" in params.read_text()
        finished = (folder / "checkpoints" / f"epoch_{self.epochs}.pt").exists()
        if finished or (not same and there - {"out.log", ".epoch_latest.pt.lock"}):  # which come before params.txt
            raise RunFailed(f"{folder}: is another run's; delete it, or choose another folder")
        shutil.rmtree(folder, ignore_errors=True)

    def _train(self, name: str, own: Sequence[str]) -> None:
        log, began = self.logs / f"{name}.txt", time.monotonic()
        command = [sys.executable, "-m", "open_clip_fff.train", *self.shared, *own]
        with log.open("w") as file:
            self._processes[name] = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            code = self._processes[name].wait()
        self.seconds[name] = time.monotonic() - began
        if code:
            last = "\n".join(log.read_text().splitlines()[-SHOWN:])
            raise RunFailed(f"{name}: training ended with exit status {code}; the last lines of {log}:\n{last}")

    def _show(self) -> None:
        """One line on a terminal, rewritten; in a file, a line at every half of a run."""
        done = {name: self._percent(name) for name in self._futures}
        text = f"{sum(percent == 100 for percent in done.values())} of {len(done)} runs"
        text += "".join(f"  {name} {percent} %" for name, percent in done.items() if 0 < percent < 100)
        if sys.stdout.isatty():
            print(f"\r\033[K  [{self.clock()}] {text}", end="", flush=True)
            return
        halves = {name: percent // 50 for name, percent in done.items()}
        if halves != self._shown:
            print(f"  [{self.clock()}] {text}", flush=True)
            self._shown = halves

    def _percent(self, name: str) -> int:
        if name in self.seconds:
            return 100
        log = self.logs / f"{name}.txt"
        steps = re.findall(r"Train Epoch: (\d+) \[ *(\d+)/(\d+)", log.read_text()) if log.is_file() else []
        if not steps:
            return 0
        epoch, seen, images = (int(number) for number in steps[-1])
        return min(int(100 * (epoch + seen / images) / self.epochs), 99)
