"""Programs that die by SIGKILL at a point that does not depend on speed, and what they leave behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# imported by Python at its start: the nth file that would get its name is the last thing this process does
DIE = """
import os, signal
calls, replace = 0, os.replace
def counted(*names, **more):
    global calls
    calls += 1
    if calls == int(os.environ["DIE_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(*names, **more)
if "DIE_AT" in os.environ:
    os.replace = counted
"""


def run(command: list[str], folder: Path, die_at: int | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python program; with `die_at`, it is killed as its nth file is about to get its name.

    Args:
        command: what stands behind `python`.
        folder: a test's own, for what this needs.
        die_at: n, from 1.
        env: more variables.
    """
    (folder / "die").mkdir(exist_ok=True)
    (folder / "die" / "sitecustomize.py").write_text(DIE)
    path = f"{folder / 'die'}{os.pathsep}{ROOT}"
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **env}
    if die_at is not None:
        env["DIE_AT"] = str(die_at)
    done = subprocess.run([sys.executable, *command], env=env, text=True, capture_output=True, timeout=600)
    if die_at is not None:
        assert done.returncode == -signal.SIGKILL, (done.stdout, done.stderr)
    return done


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
