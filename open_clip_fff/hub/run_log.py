"""What a run found while it trained, from the lines of its out.log (report/step_log.py)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_STEP = re.compile(r"FFF Epoch: (\d+) Step: \d+ ")
_MINED = re.compile(r"(?<= Mined/image: )\d+\.\d+")
_THRESHOLD = re.compile(r"(?<= )(p[123]|p1') (-?\d+\.\d+)")


@dataclass(frozen=True)
class Found:
    """Where mining stood at the end of an epoch, as logged.

    Attributes:
        mined: captions per image, at the last logged step; None where nothing was logged.
        thresholds: those that held a rate, by symbol (p1, p2, p3, p1'); empty where none was held.
    """

    mined: str | None = None
    thresholds: Mapping[str, str] = field(default_factory=dict)


def read_found(run: Path, epoch: int | None) -> Found:
    """What a run's log says of the end of an epoch.

    Args:
        run: the run's folder.
        epoch: epochs trained; None takes the last line there is.
    """
    path, last = run / "out.log", None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        step = _STEP.search(line)
        if step and (epoch is None or int(step[1]) < epoch):
            last = line
    if last is None:
        return Found()
    mined = _MINED.search(last)
    return Found(mined[0] if mined else None, dict(_THRESHOLD.findall(last)))
