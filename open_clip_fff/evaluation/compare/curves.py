"""Training curves from a run folder: steps and time from its log, scores from its results.

OpenCLIP's runs and ours alike:

    out.log                        2026-11-23,03:01:46 | INFO | Start epoch 3          (maybe "|  HOST | INFO |")
                                   … Train Epoch: 3 [6144/6144 (100%)] … Logit Scale: 14.065 …
                                   … FFF Epoch: 3 Step: 255 Mined/image: 0.62 (…) Right: 84.8% … Bias: -4.9 …
    checkpoints/results.jsonl      OpenCLIP's evaluation, a line per epoch
    checkpoints/fff_results.jsonl  ours

If a resumed run repeats an epoch, the last one counts, in log and results. Where it goes on in the middle of an epoch,
the log says so behind `Start epoch`, and the lines up to there count, too:

    out.log                        … Going on in epoch 3 after step 150 of 256: its first 3,600 samples were trained, …
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pandas as pd

from open_clip_fff.errors import UsageError, as_mistake

KINDS = "Start epoch|Going on in epoch|Train Epoch:|FFF Epoch:"
STAMP = re.compile(rf"(\d{{4}}-\d\d-\d\d,\d\d:\d\d:\d\d) \|.*\| ({KINDS}) (\d+)(.*)")
TRAINED = re.compile(r" after step ([\d,]+) of [\d,]+: its first ([\d,]+) samples")
RESULTS = ("results.jsonl", "fff_results.jsonl")
SEEN = re.compile(r" \[\s*(\d+)/\d+ \((\d+)%\)\]")
NUMBERS = {
    "scale": re.compile(r"(?:Logit )?Scale: (\d[\d.]*)"),
    "bias": re.compile(r"(?:Logit )?Bias: (-?\d[\d.]*)"),
    "mined": re.compile(r"Mined/image: (\d[\d.]*)"),
    "right": re.compile(r"Right: (\d[\d.]*)%"),
}
STOCK_NAMES = {"imagenet-zeroshot-val-top1": "zeroshot/imagenet1k/acc1"}  # OpenCLIP's --imagenet-val


@dataclass(frozen=True)
class RunCurves:
    """The curves of one run."""

    # a row per log line: `step`, `minutes`, and if logged `scale`, `bias`, `mined` (captions per image) and `right` (%
    # of them)
    steps: pd.DataFrame
    # a row per evaluation: `epoch`, `step`, `minutes`, and scores from 0 to 1, named as in the results
    epochs: pd.DataFrame
    finished: int  # the number of the last epoch whose end is in the log
    unread: int = 0  # lines of the results that tell no epoch, or cannot be read


def read_curves(run: Path, epochs: int | None = None) -> RunCurves:
    """Reads a run's curves, in optimizer steps and in minutes of training, without evaluation; all epochs or some.

    Raises UsageError if there is no log with at least one line of training, or it cannot be read.
    """
    log = next((path for name in ("out.log", "out-0") if (path := run / name).is_file()), None)
    if log is None:
        raise UsageError(f"{run}: no out.log in this folder")
    with as_mistake(f"{log}: cannot be read as the log of a training", ValueError, ArithmeticError):
        trained = [each for each in _read_log(log) if each.lines and (epochs is None or each.number < epochs)]
        if not trained:
            raise UsageError(f"{log}: no line of training in it")
        steps, ends = _clock(trained)
    finished = int(ends["epoch"].max()) if len(ends) else 0
    scores, unread = _results(run / "checkpoints", ends, epochs)
    return RunCurves(steps, scores, finished, unread)


# --- the log


@dataclass
class _EpochLog:
    """The log of one epoch; its lines are dicts with `minutes`, images `seen`, `percent` and NUMBERS."""

    number: int
    start: datetime
    before: float = 0.0  # minutes of it before this start; NaN where the log lacks them
    batch: int | None = None  # images per step, where it goes on in its middle
    lines: list[dict] = field(default_factory=list)


def _read_log(path: Path) -> list[_EpochLog]:
    epochs: dict[int, _EpochLog] = {}
    dropped: dict[int, list[dict]] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for match in filter(None, map(STAMP.match, file)):
            time, kind, number = datetime.strptime(match[1], "%Y-%m-%d,%H:%M:%S"), match[2], int(match[3])
            if kind == "Start epoch":
                # a resumed run repeats this epoch, or its rest: drop it and later ones
                dropped |= {each: epoch.lines for each, epoch in epochs.items() if epoch.lines}
                epochs = {each: epoch for each, epoch in epochs.items() if each < number}
                epochs[number] = _EpochLog(number, time)
                continue
            lines = (epoch := epochs.setdefault(number, _EpochLog(number, time))).lines
            if trained := TRAINED.match(match[4]):
                step, count = (int(each.replace(",", "")) for each in trained.groups())
                lines += [line for line in dropped.get(number, []) if line["seen"] <= count]
                epoch.before, epoch.batch = lines[-1]["minutes"] if lines else float("nan"), count // step
            found = {name: float(hit[1]) for name, each in NUMBERS.items() if (hit := each.search(match[4]))}
            if seen := SEEN.match(match[4]):
                minutes = epoch.before + max((time - epoch.start).total_seconds() / 60, 0.0)
                lines.append({"minutes": minutes, "seen": int(seen[1]), "percent": int(seen[2]), **found})
            elif lines:  # our log line follows OpenCLIP's
                lines[-1] |= found
    return [epochs[number] for number in sorted(epochs)]


def _clock(epochs: list[_EpochLog]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Log lines, and the ends of epochs, with steps and minutes."""
    rows, ends, minutes = [], [], 0.0
    # the first line of an epoch comes after one step
    batch = min(epoch.batch or epoch.lines[0]["seen"] for epoch in epochs)
    length = max(line["seen"] for epoch in epochs for line in epoch.lines) // batch
    if epochs[0].number > 0:
        minutes = float("nan")  # the log begins after the start of the run
    else:
        ends.append({"epoch": 0, "step": 0, "minutes": 0.0})
    for epoch in epochs:
        for line in epoch.lines:
            numbers = {name: line[name] for name in NUMBERS if name in line}
            step = epoch.number * length + line["seen"] // batch
            rows.append({"step": step, "minutes": minutes + line["minutes"], **numbers})
        minutes = rows[-1]["minutes"]
        if epoch.lines[-1]["percent"] == 100:
            ends.append({"epoch": epoch.number + 1, "step": rows[-1]["step"], "minutes": minutes})
    columns = ["step", "minutes", *NUMBERS]
    return pd.DataFrame(rows).reindex(columns=columns), pd.DataFrame(ends, columns=["epoch", "step", "minutes"])


# --- the results


def _results(folder: Path, ends: pd.DataFrame, epochs: int | None) -> tuple[pd.DataFrame, int]:
    """Evaluations, with step and time of the epoch before them; and how many lines tell no epoch."""
    found: dict[int, dict] = {}
    unread = 0
    for name in RESULTS:
        for line in (folder / name).read_text(errors="replace").splitlines() if (folder / name).is_file() else []:
            try:
                row = json.loads(line)
                epoch, scores = row["epoch"], _scores(row, ends.columns)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                epoch = None  # an incomplete line
            if type(epoch) is not int or epoch < 0:
                unread += 1
            elif epochs is None or epoch <= epochs:
                found.setdefault(epoch, {}).update(scores)
    table = pd.DataFrame([{"epoch": epoch, **found[epoch]} for epoch in sorted(found)])
    return ends.merge(table, on="epoch") if len(table) else ends.iloc[:0], unread


def _scores(row: dict, others: Collection[str]) -> dict[str, float]:
    numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name not in others}
    return {STOCK_NAMES.get(name, name): float(value) for name, value in numbers.items()}
