"""The training curves of all rows, by measures that they have in common."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.compare.columns import DIRECTIONS
from open_clip_fff.evaluation.compare.curves import RunCurves, read_curves
from open_clip_fff.evaluation.compare.rows import ModelRow
from open_clip_fff.evaluation.protocol import IMAGE_TO_TEXT, PROTOCOL
from open_clip_fff.plural import plural

ALL, FIRST = "all_captions_{}_R@5", "{}_R@5"  # our validation's names, and OpenCLIP's
CLASSIFICATION = ("mean_per_class_recall", "acc1")


@dataclass(frozen=True)
class TrainingCurves:
    """The curves of a comparison."""

    curves: Mapping[str, Sequence[RunCurves]]  # by label, one per seed whose run folder exists
    # by title, the columns of `RunCurves.epochs` whose mean is drawn; every run has all of them or none
    measures: Mapping[str, Sequence[str]]
    notes: tuple[str, ...]  # what is not drawn, and why


def read_training(rows: Sequence[ModelRow]) -> TrainingCurves:
    """The curves of every row that has a run folder."""
    curves: dict[str, list[RunCurves]] = {}
    notes = []
    for row in rows:
        for model in row.models:
            if model.run is None:
                notes.append(f"No curves for {row.label}: {model.about['given']} has no run folder.")
                continue
            try:
                found = read_curves(model.run, model.about["epoch"])
                curves.setdefault(row.label, []).append(found)
                if found.finished < (scored := model.about["epoch"] or 0):
                    notes.append(f"The log of {model.run} ends in epoch {found.finished}, before the {scored} scored.")
                if found.unread:
                    unread = plural(found.unread, "lines")
                    notes.append(f"Of the results of {model.run}, {unread} cannot be read or have no epoch.")
            except (UsageError, OSError) as error:
                notes.append(f"No curves for {row.label}: {error}.")
    scored = [set(each.epochs) for seeds in curves.values() for each in seeds if len(each.epochs)]
    without = [label for label, seeds in curves.items() if not any(len(each.epochs) for each in seeds)]
    if scored and without:
        notes.append(f"No evaluation during training: {', '.join(without)}.")
    timeless = [label for label, seeds in curves.items() if any(each.steps["minutes"].isna().any() for each in seeds)]
    if timeless:
        notes.append(f"No time axis for {', '.join(timeless)}: the log lacks a part of the run.")
    measures, more = _measures(scored)
    return TrainingCurves(curves, measures, (*dict.fromkeys(notes), *more))


def _measures(scored: Sequence[set[str]]) -> tuple[dict[str, Sequence[str]], list[str]]:
    """For each kind of measure, the columns shared by all runs that have any of that kind; and notes."""
    found: dict[str, Sequence[str]] = {}
    notes = []

    def shared(kind: str, by_run: list[dict[str, str]]) -> list[str]:
        by_run = [each for each in by_run if each]
        names = [name for name in by_run[0] if all(name in each for each in by_run)] if by_run else []
        if names:
            found[f"{kind}, {_titles(names)}"] = [by_run[0][name] for name in names]
        return sorted({name for each in by_run for name in each} - set(names))

    if left := shared("Zero-shot accuracy", [_accuracies(names) for names in scored]):
        notes.append(f"Zero-shot accuracy during training: {', '.join(left)} not drawn, since not all runs have it.")
    for recall, text in DIRECTIONS.items():
        shared(f"Recall@5 {text}", [_recalls(names, recall) for names in scored])
    for recall, text in DIRECTIONS.items():
        way = "image_to_text" if recall == IMAGE_TO_TEXT else "text_to_image"
        if scored and all(ALL.format(way) in names for names in scored):
            found[f"Recall@5 {text}, validation, all captions"] = [ALL.format(way)]
        elif any(FIRST.format(way) in names for names in scored):
            # our runs have both, so this one compares them with stock runs
            found[f"Recall@5 {text}, validation, first captions"] = [FIRST.format(way)]
    return found, notes


def _accuracies(names: set[str]) -> dict[str, str]:
    """Columns by set: the paper's metric, else another one."""
    found: dict[str, str] = {}
    for column in sorted(name for name in names if name.startswith("zeroshot/") and name.count("/") == 2):
        _, name, metric = column.split("/")
        preferred = PROTOCOL[name].metric if name in PROTOCOL else "acc1"
        if metric in CLASSIFICATION and (name not in found or metric == preferred):
            found[name] = column
    return found


def _recalls(names: set[str], recall: str) -> dict[str, str]:
    """Columns of retrieval sets' recall@5, by set."""
    return {name.split("/")[1]: name for name in sorted(names) if re.fullmatch(rf"zeroshot/[^/]+/{recall}@5", name)}


def _titles(sets: Sequence[str]) -> str:
    titles = [PROTOCOL[name].title if name in PROTOCOL else name for name in sets]
    return titles[0] if len(titles) == 1 else f"mean of {len(titles)} sets"
