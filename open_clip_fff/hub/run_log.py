"""What a run found while it trained, from the lines of its out.log (report/step_log.py)."""

import re
from pathlib import Path

_STEP = re.compile(r"FFF Epoch: (\d+) Step: \d+ ")
_THRESHOLD = re.compile(r"(?<= )(p[123]|p1') (-?\d+\.\d+)")


def found_thresholds(run: Path, epoch: int | None) -> dict[str, str]:
    """The thresholds that held a rate of mining at the end of an epoch, by symbol (p1, p2, p3, p1').

    Args:
        run: the run's folder.
        epoch: epochs trained; None takes the last line there is.

    Returns:
        As logged; empty where no line shows any.
    """
    path, found = run / "out.log", {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        step = _STEP.search(line)
        if step and (epoch is None or int(step[1]) < epoch):
            found = dict(_THRESHOLD.findall(line))
    return found
