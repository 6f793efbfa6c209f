"""A folder to do harm in, and training as people start it: `python -m open_clip_fff.train`, alone or under torchrun."""

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
from .rows import Wrong

SCRIPTS = Path(__file__).parent.parent
ROOT = SCRIPTS.parent
MANY = ("--method", "fff", "--mining-features", "off", "--captions-per-image", "2", "--json-text-key", "captions")
CLIP = ("--method", "clip")
LIMIT = 120.0  # seconds of a command: a fault that holds a run for longer is a fault of ours


@dataclass(frozen=True)
class Ended:
    """A command that has ended by itself.

    Attributes:
        code: its exit code.
        seconds: how long it took.
        text: all that it printed.
    """

    code: int
    seconds: float
    text: str

    def line(self, pattern: str) -> str:
        """The part of what was printed that matches.

        Raises:
            Wrong: if nothing does.
        """
        if not (found := re.search(pattern, self.text)):
            raise Wrong(f"exit code {self.code}, and nothing like {pattern!r} was printed: …{self.text[-300:]}")
        return found[0]

    def refusal(self) -> str:
        """The one line of an error, without the program's name.

        Raises:
            Wrong: if the exit code is not 2, there is not exactly one line, or a traceback.
        """
        lines = re.findall(r"^[\w./]+: error: (.+)", self.text, re.M)
        if self.code != 2 or len(lines) != 1 or "Traceback" in self.text:
            raise Wrong(f"exit code {self.code}, {len(lines)} lines of errors: …{self.text[-300:]}")
        return lines[0]

    def went_on(self) -> "Ended":
        """Itself, if all went well.

        Raises:
            Wrong: if not.
        """
        if self.code:
            raise Wrong(f"exit code {self.code}: …{self.text[-300:]}")
        return self


class Running:
    """A command at work, in a process group of its own."""

    def __init__(
        self, command: Sequence[str], out: Path, environment: dict[str, str], limit: float, largest_file: int | None
    ) -> None:
        self.out, self.limit, self.began = out, limit, time.monotonic()
        how = {"env": environment, "start_new_session": True, "cwd": ROOT, "stderr": subprocess.STDOUT}
        if largest_file is not None:
            command = ["bash", "-c", f'ulimit -f {largest_file // 1024}; exec "$@"', "bash", *command]
        with out.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, **how)

    def told(self, pattern: str) -> str:
        """The first group of a line, once it is printed.

        Raises:
            Wrong: if it is not within the limit.
        """
        while time.monotonic() < self.began + self.limit and self.process.poll() is None:
            if found := re.search(pattern, self.out.read_text()):
                return found[1]
            time.sleep(0.1)
        raise Wrong(f"nothing like {pattern!r} was printed: …{self.out.read_text()[-300:]}")

    def signal(self, number: signal.Signals, all_of_it: bool = False) -> None:
        """To the command's own process, or to its whole group, as a terminal and torchrun do."""
        (os.killpg if all_of_it else os.kill)(self.process.pid, number)

    def ended(self) -> Ended:
        """Waits for it.

        Raises:
            Wrong: if it is still there after the limit; it is killed.
        """
        try:
            code = self.process.wait(max(self.began + self.limit - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            raise Wrong(f"had not ended after {self.limit:.0f} s: …{self.out.read_text()[-300:]}") from None
        finally:
            self.kill()
        return Ended(code, time.monotonic() - self.began, self.out.read_text())

    def kill(self) -> None:
        """All of its group that is still there."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()


class Lab:
    """A folder of one row's own.

    Args:
        folder: must not exist.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.logs = folder, folder / "logs"
        self.config = folder / "tiny-clip.json"
        self.config.write_text(json.dumps(TINY))
        self._commands = 0

    def shards(self, *sizes: int, name: str = "data") -> list[str]:
        """Shards of so many rows in a folder of that name; training's flags."""
        return colour_shards(self.folder / name, sizes)

    def tar(self, number: int, name: str = "data") -> Path:
        """The path of a shard."""
        return self.folder / name / f"{number:02d}.tar"

    def start(
        self, command: Sequence[object], limit: float = LIMIT, largest_file: int | None = None, **environment: str
    ) -> Running:
        """A command of Python's, from the checkout's folder.

        Args:
            command: what follows the interpreter.
            limit: the seconds that it may take.
            largest_file: bytes to which its files may grow: the kernel's EFBIG, where a full disk has ENOSPC.
            environment: variables on top of this process's.
        """
        self._commands += 1
        paths = [str(ROOT), str(SCRIPTS), str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        here = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment = {**os.environ, **here, "PYTHONPATH": os.pathsep.join(paths), **environment}
        out = self.folder / f"printed-{self._commands}.txt"
        return Running([sys.executable, *map(str, command)], out, environment, limit, largest_file)

    def starts(self, *flags: object, data: Sequence[str], ranks: int = 1, **more: object) -> Running:
        """A training, under torchrun where there are several ranks."""
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks] if ranks > 1 else []
        end = ["--"] if ranks > 1 else []
        small = ["--model", "tiny-clip", "--device", "cpu", "--precision", "fp32", "--workers", "0", "--epochs", "1"]
        small += ["--batch-size", str(16 // ranks), "--warmup", "2", "--log-every-n-steps", "1", "--logs", self.logs]
        ours = ["--model-config", self.config]
        command = [*launch, "-m", "open_clip_fff.train", *end, *small, *ours, "--name", "x", *data, *flags]
        return self.start(command, **more)  # type: ignore[arg-type]

    def train(self, *flags: object, data: Sequence[str], ranks: int = 1, **more: object) -> Ended:
        """A training, and its end."""
        return self.starts(*flags, data=data, ranks=ranks, **more).ended()

    def runs(self, command: Sequence[object], **more: object) -> Ended:
        """Another of the programs, and its end."""
        return self.start(command, **more).ended()  # type: ignore[arg-type]

    def checkpoint(self, epoch: int, name: str = "x") -> Path:
        """The path of a run's checkpoint."""
        return self.logs / name / "checkpoints" / f"epoch_{epoch}.pt"

    def state(self, epoch: int, name: str = "x") -> dict:
        """What a run's checkpoint holds."""
        return torch.load(self.checkpoint(epoch, name), weights_only=True)


def same_weights(one: dict, other: dict) -> str:
    """Says that two checkpoints are equal to the last bit.

    Raises:
        Wrong: if they are not.
    """
    one, other = one["state_dict"], other["state_dict"]
    different = [name for name in one if not torch.equal(one[name], other[name])]
    if different or one.keys() != other.keys():
        raise Wrong(f"{len(different)} of {len(one)} tensors differ")
    return f"all {len(one)} tensors equal the uninterrupted run's"


def finite(checkpoint: dict) -> None:
    """Raises Wrong if a weight is not."""
    if bad := [name for name, value in checkpoint["state_dict"].items() if not value.isfinite().all()]:
        raise Wrong(f"{len(bad)} tensors are not finite")
