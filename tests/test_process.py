"""The process that a command runs in: its streams, their encoding, and how its loaders' workers start."""

import os
import subprocess
import sys

import pytest

from tests.conftest import colour_sample
from tests.programs import ROOT


def run(*command: object, **variables: str) -> subprocess.CompletedProcess:
    """A command in a process of its own; what it writes is read as Latin-1, in which any bytes are text."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([*map(str, command)], capture_output=True, encoding="latin-1", env=env)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures № 1"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.png").write_bytes(colour_sample(number)["png"])
        (folder / f"{number}.txt").write_text("a picture №", encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_an_encoding_lacks_is_escaped(pictures, tmp_path, encoding):
    command = [sys.executable, "-m", "open_clip_fff"]
    done = run(*command, "pack", pictures, "--out", tmp_path / "out", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and "pictures \\u2116 1" in done.stdout, done
    done = run(*command, "train", "--help-fff", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and "\\u03b2" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_closed_stderr_and_a_pipe_that_is_closed(pictures, tmp_path):
    command = [sys.executable, "-m", "open_clip_fff", "pack", pictures, "--out", tmp_path / "out"]
    done = run("sh", "-c", '"$@" 2>&-', "sh", *command)
    assert done.returncode == 0 and (tmp_path / "out" / "00000.tar").exists() and "\n2 samples in " in done.stdout, done
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "open_clip_fff", "--help"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("version", [(3, 11), (3, 14)])
def test_workers_are_forked_where_a_server_would_fork_them(version):
    """Python 3.14's default on Linux; where it is another, and where one was set, that stays, and can still be set."""
    source = f"""import multiprocessing, sys
from open_clip_fff.commands.program import prepare_process
sys.version_info = {version}
prepare_process()
print(multiprocessing.get_start_method(allow_none=True))
multiprocessing.set_start_method("forkserver", force=True)
prepare_process()
print(multiprocessing.get_start_method())"""
    done = run(sys.executable, "-c", source)
    assert done.stdout.split() == [{(3, 14): "fork"}.get(version, "None"), "forkserver"], done.stderr
