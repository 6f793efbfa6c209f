"""Errors before the first step: each becomes one line, and leaves no run folder behind."""

import argparse
import logging
import os
import re
import shutil
import signal
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import open_clip
import open_clip_train
import open_clip_train.main as oc_main
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_post_hook

import open_clip_fff
from open_clip_fff.errors import OneRankError, ReportedError, UsageError, error_message
from open_clip_fff.host.checkpoints.run_files import RunFiles
from open_clip_fff.host.checkpoints.run_lock import lock_run
from open_clip_fff.host.peers import Peers
from open_clip_fff.host.stopping import EARLY, Stopped
from open_clip_fff.patching import View, replaced

KEPT = (".pt", ".jsonl")  # checkpoints and results: a folder that holds one is not removed
LONGEST = 300  # characters of a library's message; some list all models
_PACKAGES = {
    f"{Path(package.__path__[0])}{os.sep}": name
    for package, name in ((open_clip, "OpenCLIP"), (open_clip_train, "OpenCLIP"), (open_clip_fff, "open_clip_fff"))
}
_LIBRARIES = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class LastLoggedError(logging.Handler):
    """Remembers the last error that was logged: `text` is its message, empty where there was none."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


@contextmanager
def startup(args: argparse.Namespace, peers: Peers) -> Iterator[LastLoggedError]:
    """Wraps OpenCLIP's main and all that goes before it; makes the process group and locks the run's folder.

    Before the first optimizer step, an exception becomes a UsageError with its message, and the folders that this run
    has made are removed, unless they hold a checkpoint or a result. Later exceptions pass, except a UsageError. One
    failed rank reports the error; the others raise a `ReportedError`. Without a step, the files in the run's folder
    that describe its training stay as they were.

    Fills in rank, world size and device of `args`, and connects `peers`. Yields a handler for the root logger, which
    keeps OpenCLIP's reason for exiting.
    """
    had_group, stepped = dist.is_initialized(), threading.Event()
    folders, logged = _RunFolders(args, peers), LastLoggedError()
    default_again = _removal_at_signals(folders)

    def first_step(*_: object) -> None:
        stepped.set()
        default_again()
        folders.keep_new_files()

    hook = register_optimizer_step_post_hook(first_step)
    try:
        device = oc_main.init_distributed_device(args)
        if dist.is_initialized():
            peers.connect()
        if args.name is not None and (run := Path(args.logs) / args.name).is_dir():
            folders.lock(run)  # else as soon as it is made
        with replaced(oc_main, init_distributed_device=lambda _: device, os=View(os, makedirs=folders.make)):
            yield logged
    except (Exception, SystemExit) as error:
        if stepped.is_set() and (isinstance(error, OneRankError) or not isinstance(error, UsageError)):
            raise
        reports = peers.chosen_to_report()
        if not stepped.is_set():
            folders.remove(of_rank_0=reports)
        line = error_message(error) if isinstance(error, UsageError) else in_one_line(error, logged.text)
        if not reports:
            raise ReportedError(line) from error
        raise (OneRankError(f"rank {args.rank}: {line}") if args.rank else UsageError(line)) from error
    except (KeyboardInterrupt, Stopped):
        if not stepped.is_set():
            folders.remove()
        raise
    finally:
        hook.remove()
        default_again()
        folders.unlock()
        if dist.is_initialized() and not had_group:
            dist.destroy_process_group()


def _removal_at_signals(folders: "_RunFolders") -> Callable[[], None]:
    """Makes SIGTERM and the like remove the folders before they end the process; returns a function that undoes this.

    Changes nothing where the caller has a handler, or outside the main thread. Forked processes, such as that of
    --remote-sync, inherit the handler but remove nothing.
    """
    run = os.getpid()

    def remove_and_end(signum: int, _: object) -> None:
        if os.getpid() == run:
            folders.remove()
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    def undo() -> None:
        for signum in signals:
            if signal.getsignal(signum) is remove_and_end:
                signal.signal(signum, signal.SIG_DFL)

    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGTERM, *EARLY) if main else ()
    for signum in signals:
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, remove_and_end)
    return undo


class _RunFolders:
    """The folders that a run has made, the lock on its own, and what it said before."""

    def __init__(self, args: argparse.Namespace, peers: Peers) -> None:
        self._args, self._peers = args, peers
        self._made: list[str] = []
        self._unlock: Callable[[], None] | None = None
        self._files: RunFiles | None = None

    def make(self, path: str, exist_ok: bool = False) -> None:
        """`os.makedirs` that remembers what this run has made: another of the same name may start at the same time."""
        made = [path]
        try:
            os.makedirs(path)
        except FileExistsError:
            os.makedirs(path, exist_ok=exist_ok)
            made = []
        # OpenCLIP makes the run's folder before its subfolders; another run may lock it before this one does
        self.lock(Path(path))
        self._made += made
        self._peers.publish_folders(self._made)

    def lock(self, run: Path) -> None:
        """Locks the run's folder, on rank 0 for all. Raises UsageError if another process holds it."""
        if self._unlock is None and not self._args.rank:
            self._unlock = lock_run(run)
            self._files = RunFiles(run)

    def keep_new_files(self) -> None:
        """What the run's folder says of its training is this run's from now on."""
        if self._files is not None:
            self._files.drop()
            self._files = None

    def put_files_back(self) -> None:
        """And else an earlier run's, as it was."""
        if self._files is not None:
            self._files.put_back()

    def unlock(self) -> None:
        self.put_files_back()
        if self._unlock is not None:
            self._unlock()

    def remove(self, of_rank_0: bool = False) -> None:
        """Removes folders that hold no checkpoint or result, so that the run's name is free again; puts files back.

        With `of_rank_0` also the folders that rank 0 has made: it may hang in a collective until it is killed.
        """
        self.put_files_back()
        for folder in map(Path, {*self._made, *(self._peers.published_folders() if of_rank_0 else ())}):
            with suppress(FileNotFoundError):  # two ranks at once
                if not any(path.suffix in KEPT for path in folder.rglob("*")):
                    shutil.rmtree(folder, ignore_errors=True)


def in_one_line(error: BaseException, logged: str = "") -> str:
    """One line for an error before the first step: whose code failed, the message, and where.

    A SystemExit has no message of its own: `logged`, the last logged error, replaces it. A loader worker's error has
    its traceback in the message.
    """
    frames = [(frame.filename, frame.lineno, frame.line) for frame in traceback.extract_tb(error.__traceback__)]
    in_worker = re.findall(r'File "(.+?)", line (\d+)', str(error))
    who, file, number, code = _origin([*frames, *((*place, None) for place in in_worker)])
    text = (
        logged or "it gives no reason" if isinstance(error, SystemExit) else error_message(error) or code or "no reason"
    )
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return (
        f"{who} stopped before the first step: {text} "
        f"({type(error).__name__} in {file}, line {number}; --debug shows the traceback)"
    )


def _origin(frames: list[tuple]) -> tuple:
    """The innermost frame in OpenCLIP, open_clip_fff or a plugin, which called the library that raised."""
    for file, number, code in reversed(frames):
        for folder, name in _PACKAGES.items():
            if file.startswith(folder):
                return name, file.removeprefix(str(Path(folder).parent) + os.sep), number, code
        if os.path.isabs(file) and not file.startswith(_LIBRARIES):
            return Path(file).name, file, number, code
    return "Python", *frames[-1]
