"""A command under a time limit, with its output in a file and its progress on the terminal."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROGRESS = "> "  # begins the lines that are for the terminal


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    seconds: float
    text: str  # all that it printed
    limit: float | None = None  # seconds after which it was ended; None where it ended by itself

    @property
    def fault(self) -> str | None:
        """Why it failed, in a line; None if it did not."""
        if self.limit is not None:
            return f"ended after its limit of {self.limit:g} s"
        if not self.code:
            return None
        last = next((line.strip() for line in reversed(self.text.splitlines()) if line.strip()), "nothing was printed")
        return f"exit code {self.code}: {last[:300]}"


def run(
    command: Sequence[str], limit: float, log: Path, environment: dict[str, str], say: Callable[[str], None]
) -> Ended:
    """Runs it in a session of its own, which is ended after `limit` seconds; `say` gets its progress lines."""
    began, text, said = time.monotonic(), "", 0
    with log.open("a") as out, log.open(errors="replace") as printed:
        print(f"$ {' '.join(command)}", file=out, flush=True)
        printed.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            running = True
            while running and time.monotonic() < began + limit:
                time.sleep(0.1)
                running = process.poll() is None
                text += printed.read()
                whole = text.rfind("\n") + 1
                for line in text[said:whole].splitlines():
                    if line.startswith(PROGRESS):
                        say(line.removeprefix(PROGRESS))
                said = max(said, whole)
        finally:
            end(process)
    return Ended(process.returncode, time.monotonic() - began, text, limit if running else None)


def end(process: subprocess.Popen) -> None:
    """Ends its process group: politely, for torchrun ends its ranks then, and for certain."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
