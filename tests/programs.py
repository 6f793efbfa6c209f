"""Programs as processes of their own, without the five seconds in which each imports the same libraries.

They are forked from multiprocessing's fork server, which has imported them, and then run as `__main__` with an
environment, a folder, a session and output files of their own. Ranks are started by torch's elastic agent, which is
torchrun, by forking, too. What is about starting itself, or sets variables that libraries read while they are
imported, is started in the usual way elsewhere.
"""

import atexit
import fcntl
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.synchronize import Barrier
from pathlib import Path

ROOT = Path(__file__).parent.parent
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.preloaded"])
TIMEOUT = 600.0  # seconds
STREAMS = ("stdout", "stderr")
STARTS = threading.Lock()


def share_server(folder: Path) -> None:
    """From now on this process is one of several with one fork server: the first to need it starts it, the others join.

    Else each of pytest-xdist's workers would have its own, with all that it imports. It ends with the last of them.
    """
    server = forkserver._forkserver
    start, one_at_a_time = server.ensure_running, threading.Lock()

    def ensure_running() -> None:
        resource_tracker.ensure_running()
        with one_at_a_time, (folder / "fork server").open("a+") as file:
            if server._forkserver_address is not None:
                return
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            if found := file.read():
                address, alive = found.splitlines()
                with suppress(OSError):  # who started it has ended, and it with them
                    server._forkserver_alive_fd = os.open(alive, os.O_WRONLY)
                    server._forkserver_address = address
                    return
            file.truncate(0)
            own = multiprocessing.current_process()._config
            before, own["tempdir"] = own.get("tempdir"), str(folder)  # its socket outlives this process's own folder
            start()
            own["tempdir"] = before
            file.write(f"{server._forkserver_address}\n/proc/{os.getpid()}/fd/{server._forkserver_alive_fd}\n")

    server.ensure_running = ensure_running


class Program:
    """A program at work.

    Args:
        argv: what stands behind `python`: a file, `-m` and a module or `-c` and a program, and arguments.
        ranks: how many processes of a torchrun; 0 for none, and a program that runs by itself.
        cwd: its folder.
        env: variables on top of this process's.
        out: a file for all that it prints; two of its own without.
        die_at: n, from 1: it is killed by SIGKILL as its nth file is about to get its name.
    """

    def __init__(
        self,
        argv: Sequence[object],
        ranks: int = 0,
        cwd: Path = ROOT,
        env: dict[str, str] | None = None,
        out: Path | None = None,
        die_at: int = 0,
    ) -> None:
        self.args, self.dies = list(map(str, argv)), bool(die_at)
        self.folder = Path(tempfile.mkdtemp())
        self.out, self.err = (out, out) if out else (self.folder / "out", self.folder / "err")
        for path in {self.out, self.err}:
            path.touch()  # there to be read from now on
        variables = {**os.environ, "TMPDIR": str(self.folder), **(env or {})}
        how = (self.args, ranks, str(cwd), variables, str(self.out), str(self.err), die_at)
        self.process = FORKS.Process(target=_become, args=how)
        self.process.start()
        self.pid: int = self.process.pid

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Its exit code, below zero for a signal, as subprocess gives it.

        Raises:
            TimeoutExpired: after so many seconds; it is killed, with all that it has started.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.args, timeout, self.out.read_text(), self.err.read_text())
        return self.process.exitcode

    def kill(self) -> None:
        """Ends it and its whole session."""
        os.killpg(self.pid, signal.SIGKILL)
        self.process.join()

    def done(self, timeout: float = TIMEOUT) -> subprocess.CompletedProcess[str]:
        """Waits for it, and gives what it printed."""
        code, out, err = self.wait(timeout), self.out.read_text(), self.err.read_text()
        shutil.rmtree(self.folder, ignore_errors=True)  # a loader's worker may still be ending
        assert not self.dies or code == -signal.SIGKILL, (out, err)
        return subprocess.CompletedProcess(self.args, code, out, err)


class Started:
    """A program that a program starts, for its own `subprocess`: forked from the same server.

    Args:
        argv: what stands behind `python`.
        how: Popen's; stdout and stderr are files, or this program's own.
    """

    stdin = stdout = stderr = None

    def __init__(self, argv: list[str], own: tuple[str, str], how: dict) -> None:
        out = how["stdout"].name if how.get("stdout") else own[0]
        err = out if how.get("stderr") == subprocess.STDOUT else how["stderr"].name if how.get("stderr") else own[1]
        variables = dict(how.get("env") or os.environ)
        self.args = [sys.executable, *argv]
        given = (argv, 0, str(how.get("cwd") or os.getcwd()), variables, str(out), str(err), 0)
        self.process = FORKS.Process(target=_become, args=given)
        with STARTS:
            self.process.start()
            # else the next start, in another thread, would take the exit code that `wait` reads
            multiprocessing.process._children.discard(self.process)
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.process.exitcode

    def communicate(self, input: None = None, timeout: float | None = None) -> tuple[None, None]:
        self.wait(timeout)
        return None, None

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()


def run(*argv: object, timeout: float = TIMEOUT, **how) -> subprocess.CompletedProcess[str]:
    """A program from its start to its end; the arguments are Program's."""
    return Program(argv, **how).done(timeout)


def torchrun(ranks: int, *argv: object, **how) -> subprocess.CompletedProcess[str]:
    """The same on gloo ranks of this machine."""
    return run(*argv, ranks=ranks, **how)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _become(argv: list[str], ranks: int, cwd: str, variables: dict[str, str], out: str, err: str, die_at: int) -> None:
    """In the fork: takes what the new process has of its own, and runs the program."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # of its own children: not what this one was started with
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    tempfile.tempdir = None  # not what the server found
    paths = variables.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in paths if path and path not in sys.path]
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout.reconfigure(line_buffering=True)
    _fork_programs(out, err)
    if die_at:
        _die_at(die_at)
    try:
        if ranks:
            _launch(argv, ranks)
        else:
            _main(argv)
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends its children without


def _fork_programs(out: str, err: str) -> None:
    """From now on what `subprocess` starts of ours is a fork of the server, too; what is stock OpenCLIP's is not."""
    forkserver._forkserver.ensure_running = lambda: None  # it runs, though it is no child of this process
    popen = subprocess.Popen

    def start(command, *more, **how):
        ours = isinstance(command, list) and command[0] == sys.executable and not more
        module = ours and command[1] == "-m" and command[2].startswith("open_clip_fff")
        door = ours and Path(command[1]).suffix == ".py" and Path(command[1]).resolve().parent == ROOT / "scripts"
        files = all(
            how.get(name) is None or how[name] == subprocess.STDOUT or hasattr(how[name], "name") for name in STREAMS
        )
        if (module or door) and files and not set(how) - {*STREAMS, "cwd", "env", "start_new_session"}:
            return Started(command[1:], (out, err), how)
        return popen(command, *more, **how)

    subprocess.Popen = start


def _main(argv: list[str]) -> None:
    if argv[0] == "-c":
        sys.argv = argv[:1] + argv[2:]
        exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
    elif argv[0] == "-m":
        sys.argv = argv[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        sys.path[0] = str(Path(argv[0]).resolve().parent)
        runpy.run_path(argv[0], run_name="__main__")


def _launch(argv: list[str], ranks: int) -> None:
    """torchrun --standalone, whose workers are forks of it."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    at = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": str(uuid.uuid4())}
    config = LaunchConfig(1, 1, ranks, max_restarts=0, start_method="fork", monitor_interval=0.1, **at)
    elastic_launch(config, _rank)(argv, multiprocessing.get_context("fork").Barrier(ranks))


def _rank(argv: list[str], all_there: Barrier) -> None:
    # The agent's store looks up the address of a rank that connects. A rank that is forked meanwhile finds the C
    # library's lock for that taken, by a thread that it does not have, and waits for ever.
    all_there.wait()
    # The agent's handlers came with the fork; a process that torchrun starts has none but Python's, for Ctrl-C.
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _main(argv)
    except SystemExit as end:
        if end.code:  # a worker that is done returns: the agent waits for what it gives
            raise


def _die_at(number: int) -> None:
    calls, replace = 0, os.replace

    def counted(*names, **more):
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(*names, **more)

    os.replace = counted
