"""Scoring models on sets with progress, for the commands score and probe; a failure does not stop the others."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from open_clip_fff.config.parsers import check_least
from open_clip_fff.devices import or_best
from open_clip_fff.errors import UsageError, print_warnings
from open_clip_fff.evaluation.benchmark import EvalSettings
from open_clip_fff.evaluation.layouts import (
    LocalSet,
    download,
    find_sets,
    memory_warnings,
    name_warnings,
    repositories,
    where_to_get,
)
from open_clip_fff.evaluation.protocol import ELEVEN, PROTOCOL, RECALLS, RERANKING, RETRIEVAL, score_text
from open_clip_fff.evaluation.scoring import BY_CLIP_BENCHMARK, Evaluation, score_set
from open_clip_fff.evaluation.store import Score
from open_clip_fff.hub.loading import add_architectures, check_model_name, load_model
from open_clip_fff.plural import plural

CAPTIONS = 5  # of an image, in papers' retrieval sets


def run(arguments: argparse.Namespace, prog: str) -> int:
    """Scores models; 1 if some models or sets failed, else 0."""
    sets = prepare(arguments)
    print_warnings(memory_warnings(sets))
    if arguments.rerank is None:
        print_warnings(name_warnings(sets))
        return score_models(arguments, prog, sets, score_line)
    from open_clip_fff.evaluation.rerank import rerank, rerank_conditions

    retrieval = [local for local in sets if local.spec.task == RETRIEVAL]
    if not retrieval:
        raise UsageError(f"--rerank: none of {', '.join(local.spec.name for local in sets)} is a retrieval set")
    way = Evaluation(partial(rerank, candidates=arguments.rerank), f"{RERANKING}{arguments.rerank}", rerank_conditions)
    return score_models(arguments, prog, retrieval, score_line, way)


def score_line(score: Score) -> str:
    """A score as a line."""
    about = score.meta["set"]
    return f"{about['name']:<24} {_sizes(about)}  {score_text(score.metrics, about['metric'])}"


def _sizes(about: Mapping[str, Any]) -> str:
    """A set's size, with papers' size where it differs, since recall depends on it."""
    images, captions = about["images"], about.get("captions")
    if captions is None:  # not a retrieval set
        return f"{images:>6,} {'image' if images == 1 else 'images'}"
    wanted = PROTOCOL[about["name"]].images if about["name"] in PROTOCOL else None
    same = wanted is None or (images == wanted and captions >= CAPTIONS * images)
    note = "" if same else f" (papers: {wanted:,} images with {CAPTIONS} captions each)"
    empty, bare = (about.get(name, 0) for name in ("empty_captions", "images_without_captions"))
    odd = f" ({empty:,} of them empty lines)" * bool(empty) + f" ({bare:,} of the images have none)" * bool(bare)
    return f"{images:>6,} images, {captions:,} captions{odd}{note}"


def average(scores: Sequence[Score]) -> str:
    """The mean over the scored sets among the paper's 11, and their number; empty if there are none."""
    metric = {each.name: each.metric for each in ELEVEN}
    values = [score.metrics[metric[name]] for score in scores if (name := score.meta["set"]["name"]) in metric]
    if not values:
        return ""
    mean = 100 * sum(values) / len(values)
    return f"average over {len(values)} of the paper's {len(ELEVEN)} zero-shot sets: {mean:.2f} %"


def prepare(arguments: argparse.Namespace) -> list[LocalSet]:
    """The sets to score; missing ones are downloaded (`--download`), or listed.

    Raises UsageError if a named model or set is missing, or there is no set at all.
    """
    check_least(arguments, batch_size=1, workers=0)
    if arguments.store.exists() and not arguments.store.is_dir():
        raise UsageError(f"--store {arguments.store}: is a file; name a folder")
    add_architectures(arguments.model_config)
    for given in arguments.models:
        check_model_name(given)
    root = arguments.data_root
    found, missing = find_sets(arguments.datasets, root)
    if missing and arguments.download:
        for name in missing:
            print(f"downloading {name}", flush=True)
            download(name, root)
        found, missing = find_sets(arguments.datasets, root)
    named = arguments.datasets != ["all"]
    if missing and (named or not found):
        print(where_to_get(missing, root), flush=True)
        what = f"--datasets {' '.join(missing)}: not" if named else f"--data-root {root}: none of the sets is"
        raise UsageError(f"{what} there, see above")
    print(f"{plural(len(found), 'sets')}: {', '.join(local.spec.name for local in found)}", flush=True)
    if missing:
        where = ", ".join(f"{name} ({repositories(name)[0]})" for name in missing)
        print(f"sets of the paper that are not in {root}, but can be downloaded with --download: {where}", flush=True)
    return found


def score_models(
    arguments: argparse.Namespace,
    prog: str,
    sets: Sequence[LocalSet],
    line: Callable[[Score], str],
    way: Evaluation = BY_CLIP_BENCHMARK,
) -> int:
    """Scores every model on every set and prints each score; goes on after a failure. Returns 1 if any failed, else 0.

    `arguments` are those of `eval_parser`; `line` makes a line of a score.
    """
    device = or_best(arguments.device)
    precision = arguments.precision or ("amp" if device == "cuda" else "fp32")
    settings = EvalSettings(device, precision == "amp", arguments.batch_size, arguments.workers)
    left, computed, failed, began = len(arguments.models) * len(sets), 0, 0, time.monotonic()
    for given in arguments.models:
        try:
            loaded = load_model(given, settings.device)
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed, left = failed + 1, left - len(sets)
            continue
        print(f"\n{loaded.name}, weights {loaded.weights[:8]}", flush=True)
        scores = []
        for local in sets:
            left -= 1
            try:
                score, new = score_set(loaded, local, settings, arguments.store, arguments.again, way)
            except UsageError as error:
                print(f"  error: {error}", file=sys.stderr, flush=True)
                failed += 1
                continue
            computed += new
            scores.append(score)
            pace = (time.monotonic() - began) / computed if computed else 0.0
            print(f"  {line(score)}   {_origin(score, new, pace * left)}", flush=True)
        if last := average(scores):
            print(f"  {last}", flush=True)
    if any(local.spec.task == RETRIEVAL for local in sets):
        print(f"\n{RECALLS}, as in CLIP's and most papers.", flush=True)
    print(f"\nScores are in {arguments.store}; open-clip-fff compare sets models side by side.", flush=True)
    if failed:
        print(f"{prog}: {plural(failed, 'scores')} failed, see above", file=sys.stderr, flush=True)
    return 1 if failed else 0


def _origin(score: Score, new: bool, remaining: float) -> str:
    """Where a score comes from, and the estimated remaining time in seconds."""
    if not new:
        return "(from the store)"
    minutes, seconds = divmod(round(remaining), 60)
    left = f"; the rest in about {minutes}:{seconds:02d}" if remaining else ""
    return f"({score.meta['seconds']:.0f} s{left})"
