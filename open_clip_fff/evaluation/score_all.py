"""What the programs that score models have in common: models x sets, with progress; their flags are in flags.py."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.benchmark import EvalSettings
from open_clip_fff.evaluation.layouts import LocalSet, download, find_sets, repository, where_to_get
from open_clip_fff.evaluation.scoring import Evaluate, score_set
from open_clip_fff.evaluation.store import Score
from open_clip_fff.hub.loading import add_architectures, check_model_name, load_model
from open_clip_fff.plural import plural


def eval_settings(arguments: argparse.Namespace) -> EvalSettings:
    """The flags as settings."""
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    precision = arguments.precision or ("amp" if torch.cuda.is_available() else "fp32")
    return EvalSettings(device, precision == "amp", arguments.batch_size, arguments.workers)


def prepare(arguments: argparse.Namespace) -> list[LocalSet]:
    """The sets to score. Those that are missing are fetched where that was asked for, and named.

    Raises:
        UsageError: for a model or set that was named and is not there, and if there is no set at all.
    """
    for name, least in (("batch_size", 1), ("workers", 0)):
        if (value := getattr(arguments, name)) < least:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be {least} or more")
    add_architectures(arguments.model_config)
    for given in arguments.models:
        check_model_name(given)
    root = arguments.data_root
    found, missing = find_sets(arguments.datasets, root)
    if missing and arguments.download:
        for name in missing:
            print(f"fetching {name}", flush=True)
            download(name, root)
        found, missing = find_sets(arguments.datasets, root)
    asked = arguments.datasets != ["all"]
    if missing and (asked or not found):
        print(where_to_get(missing, root), flush=True)
        what = f"--datasets {' '.join(missing)}: not" if asked else f"--data-root {root}: none of the sets is"
        raise UsageError(f"{what} there, see above")
    print(f"{plural(len(found), 'sets')}: {', '.join(at.spec.name for at in found)}", flush=True)
    if missing:
        where = ", ".join(f"{name} ({repository(name)})" for name in missing)
        print(f"of the paper's, not in {root}, but on the hub, from where --download fetches them: {where}", flush=True)
    return found


def score_models(
    arguments: argparse.Namespace,
    sets: Sequence[LocalSet],
    line: Callable[[Score], str],
    total: Callable[[Sequence[Score]], str] | None = None,
    evaluate: Callable[[LocalSet], Evaluate] | None = None,
    task: str | None = None,
) -> int:
    """Scores every model on every set, tells each as it comes, and goes on after a failure.

    Args:
        arguments: of `eval_parser`.
        sets: what `prepare` found.
        line: a score as text.
        total: a model's scores as one more line.
        evaluate, task: from a set to what `score_set` takes, for other scores than zero-shot ones.

    Returns:
        How many models and sets failed.
    """
    settings, began = eval_settings(arguments), time.monotonic()
    left, computed, failed = len(arguments.models) * len(sets), 0, 0
    for given in arguments.models:
        try:
            loaded = load_model(given, settings.device)
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed, left = failed + 1, left - len(sets)
            continue
        print(f"\n{loaded.name}, weights {loaded.weights[:8]}", flush=True)
        scores = []
        for at in sets:
            left -= 1
            try:
                scorer = evaluate(at) if evaluate is not None else None
                score, new = score_set(loaded, at, settings, arguments.store, arguments.again, scorer, task)
            except UsageError as error:
                print(f"  error: {error}", file=sys.stderr, flush=True)
                failed += 1
                continue
            computed += new
            scores.append(score)
            pace = (time.monotonic() - began) / computed if computed else 0.0
            print(f"  {line(score)}   {_told(score, new, pace * left)}", flush=True)
        if total is not None and (told := total(scores)):
            print(f"  {told}", flush=True)
    print(f"\nScores are in {arguments.store}; open-clip-fff compare sets models side by side.", flush=True)
    return failed


def exit_code(prog: str, failed: int) -> int:
    """The exit code of a program of which so much failed, which it says."""
    if failed:
        print(f"{prog}: {plural(failed, 'scores')} failed, see above", file=sys.stderr, flush=True)
    return 1 if failed else 0


def _told(score: Score, new: bool, rest: float) -> str:
    """Where a score comes from, and how long the rest will take."""
    if not new:
        return "(from the store)"
    minutes, seconds = divmod(round(rest), 60)
    return f"({score.meta['seconds']:.0f} s{f'; the rest in about {minutes}:{seconds:02d}' if rest else ''})"
