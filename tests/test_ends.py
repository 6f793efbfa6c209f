"""How commands end that are stopped, or whose output cannot be written."""

import os
import signal
import subprocess
import sys
import time

import pytest

from open_clip_fff.commands import program
from open_clip_fff.commands.program import as_program
from tests.programs import ROOT


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_sigterm_that_python_swallows_is_not_the_last(monkeypatch):
    """Python ignores what is raised in a `__del__`, or in a hook of fork; launchers send SIGTERM twice."""
    monkeypatch.setattr(program, "REPEATS", 0.2)
    handled = []

    class Stopped:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    def body() -> int:
        stopped = Stopped()
        del stopped
        os.kill(os.getpid(), signal.SIGTERM)
        handled.append("a repeat")
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    assert as_program("open-clip-fff score", body) == 143 and handled == ["a repeat"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", [1, 10_000])
def test_output_that_cannot_be_written(unbuffered, lines):
    """Nor do handlers of files' errors take it for theirs; a pipe that is closed, as by `| head`, needs no word."""
    body = f"""def body():
        with as_mistake("--out cannot be written", OSError):
            for _ in range({lines}): print("a line")
        return 0"""
    source = f"""import sys
from open_clip_fff.commands.program import as_program
from open_clip_fff.errors import as_mistake
{body}
sys.exit(as_program("open-clip-fff pack", body))"""
    read, write = os.pipe()
    os.close(read)
    variables = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", source]
    with open(write, "w") as closed, open("/dev/full", "w") as full:
        for out, code, says in (
            (closed, 141, ""),
            (full, 2, "open-clip-fff pack: error: stdout cannot be written ([Errno 28] No space left on device)\n"),
        ):
            done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, env=variables)
            assert (done.returncode, done.stderr) == (code, says)
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, env=variables)
    assert (done.returncode, done.stderr) == (0, "")  # without a stdout nothing is printed, as Python has it
