"""A folder for one fault, and training by `python -m open_clip_fff.train`, also under torchrun."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .inputs import TINY, colour_shards
from .rows import BrokenPromise

SCRIPTS = Path(__file__).parent.parent
ROOT = SCRIPTS.parent
MANY = ("--method", "fff", "--mining-features", "off", "--captions-per-image", "2", "--json-text-key", "captions")
CLIP = ("--method", "clip")
LIMIT = 120.0  # seconds of a command


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int  # its exit code
    seconds: float
    text: str  # all that it printed

    def line(self, pattern: str) -> str:
        """The printed text that matches. Raises BrokenPromise if there is none."""
        if not (found := re.search(pattern, self.text)):
            raise BrokenPromise(f"exit code {self.code}, and nothing like {pattern!r} was printed: …{self.text[-300:]}")
        return found[0]

    def refusal(self) -> str:
        """The only error line. Raises BrokenPromise for another exit code than 2, more lines, or a traceback."""
        lines = re.findall(r"^[\w./]+: error: (.+)", self.text, re.M)
        if self.code != 2 or len(lines) != 1 or "Traceback" in self.text:
            raise BrokenPromise(f"exit code {self.code}, {len(lines)} lines of errors: …{self.text[-300:]}")
        return lines[0]

    def succeeded(self) -> "Ended":
        """Itself. Raises BrokenPromise for another exit code than 0."""
        if self.code:
            raise BrokenPromise(f"exit code {self.code}: …{self.text[-300:]}")
        return self


class Running:
    """A running command in its own process group."""

    def __init__(
        self, command: Sequence[str], out: Path, environment: dict[str, str], limit: float, largest_file: int | None
    ) -> None:
        self.out, self.limit, self.began = out, limit, time.monotonic()
        if largest_file is not None:
            environment = {**environment, "PYTHONDONTWRITEBYTECODE": "1"}  # Python would keep the beginning of a .pyc
            command = ["bash", "-c", f'ulimit -f {largest_file // 1024}; exec "$@"', "bash", *command]
        how = {"env": environment, "start_new_session": True, "cwd": ROOT, "stderr": subprocess.STDOUT}
        with out.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, **how)

    def wait_for(self, pattern: str) -> str:
        """Waits for a line, and returns its first group. Raises BrokenPromise after the limit."""
        while time.monotonic() < self.began + self.limit and self.process.poll() is None:
            if found := re.search(pattern, self.out.read_text()):
                return found[1]
            time.sleep(0.1)
        raise BrokenPromise(f"nothing like {pattern!r} was printed: …{self.out.read_text()[-300:]}")

    def signal(self, number: signal.Signals, whole_group: bool = False) -> None:
        """Signals the command's process, or its group, as a terminal and torchrun do."""
        (os.killpg if whole_group else os.kill)(self.process.pid, number)

    def ended(self) -> Ended:
        """Waits for its end. Kills it and raises BrokenPromise after the limit."""
        try:
            code = self.process.wait(max(self.began + self.limit - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            raise BrokenPromise(f"had not ended after {self.limit:.0f} s: …{self.out.read_text()[-300:]}") from None
        finally:
            self.kill()
        return Ended(code, time.monotonic() - self.began, self.out.read_text())

    def kill(self) -> None:
        """Kills its group."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()


class Lab:
    """One row's folder, which must not exist."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.logs = folder, folder / "logs"
        self.config = folder / "tiny-clip.json"
        self.config.write_text(json.dumps(TINY))
        self._commands = 0

    def shards(self, *sizes: int, name: str = "data") -> list[str]:
        """Makes shards with these numbers of rows; returns training's flags."""
        return colour_shards(self.folder / name, sizes)

    def tar(self, number: int, name: str = "data") -> Path:
        """The path of a shard."""
        return self.folder / name / f"{number:02d}.tar"

    def start(
        self, command: Sequence[object], limit: float = LIMIT, largest_file: int | None = None, **environment: str
    ) -> Running:
        """Starts Python in the checkout's folder, with these arguments and additional variables.

        It may take `limit` seconds, and write files of `largest_file` bytes: EFBIG in place of a full disk's ENOSPC.
        """
        self._commands += 1
        paths = [str(ROOT), str(SCRIPTS), str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        here = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment = {**os.environ, **here, "PYTHONPATH": os.pathsep.join(paths), **environment}
        out = self.folder / f"printed-{self._commands}.txt"
        return Running([sys.executable, *map(str, command)], out, environment, limit, largest_file)

    def start_training(self, *flags: object, data: Sequence[str], ranks: int = 1, **more: object) -> Running:
        """Starts a training, under torchrun if there are several ranks."""
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks] if ranks > 1 else []
        end = ["--"] if ranks > 1 else []
        small = ["--model", "tiny-clip", "--device", "cpu", "--precision", "fp32", "--workers", "0", "--epochs", "1"]
        small += ["--batch-size", str(16 // ranks), "--warmup", "2", "--log-every-n-steps", "1", "--logs", self.logs]
        ours = ["--model-config", self.config]
        command = [*launch, "-m", "open_clip_fff.train", *end, *small, *ours, "--name", "x", *data, *flags]
        return self.start(command, **more)  # type: ignore[arg-type]

    def train(self, *flags: object, data: Sequence[str], ranks: int = 1, **more: object) -> Ended:
        """Trains, and waits for the end."""
        return self.start_training(*flags, data=data, ranks=ranks, **more).ended()

    def run(self, command: Sequence[object], **more: object) -> Ended:
        """Runs another program, and waits for its end."""
        return self.start(command, **more).ended()  # type: ignore[arg-type]

    def checkpoint(self, epoch: int, name: str = "x") -> Path:
        """The path of a run's checkpoint."""
        return self.logs / name / "checkpoints" / f"epoch_{epoch}.pt"

    def state(self, epoch: int, name: str = "x") -> dict:
        """The content of a run's checkpoint."""
        return torch.load(self.checkpoint(epoch, name), weights_only=True)


def same_weights(one: dict, other: dict) -> str:
    """A line that two checkpoints have equal weights. Raises BrokenPromise if they have not."""
    one, other = one["state_dict"], other["state_dict"]
    different = [name for name in one if not torch.equal(one[name], other[name])]
    if different or one.keys() != other.keys():
        raise BrokenPromise(f"{len(different)} of {len(one)} tensors differ")
    return f"all {len(one)} tensors equal the uninterrupted run's"


def finite(checkpoint: dict) -> None:
    """Raises BrokenPromise if a weight is not finite."""
    if bad := [name for name, value in checkpoint["state_dict"].items() if not value.isfinite().all()]:
        raise BrokenPromise(f"{len(bad)} tensors are not finite")
