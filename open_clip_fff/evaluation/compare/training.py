"""The curves of all rows by the same measures, so that one plot can hold them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.compare.curves import RunCurves, read_curves
from open_clip_fff.evaluation.compare.rows import ModelRow
from open_clip_fff.evaluation.protocol import IMAGE_TO_TEXT, PROTOCOL, TEXT_TO_IMAGE

ALL, FIRST = "all_captions_{}_R@5", "{}_R@5"  # our validation's names, and OpenCLIP's
DIRECTIONS = {"image → text": "image_to_text", "text → image": "text_to_image"}
WAYS = {"image → text": IMAGE_TO_TEXT, "text → image": TEXT_TO_IMAGE}
CLASSIFICATION = ("mean_per_class_recall", "acc1")


@dataclass(frozen=True)
class TrainingCurves:
    """What is known of the runs behind the rows.

    Attributes:
        curves: by label, one per seed whose run folder is there.
        measures: by title, the columns of `RunCurves.epochs` whose mean is drawn; every run has all of them or none.
        notes: what is not drawn, and why.
    """

    curves: Mapping[str, Sequence[RunCurves]]
    measures: Mapping[str, Sequence[str]]
    notes: tuple[str, ...]


def read_training(rows: Sequence[ModelRow]) -> TrainingCurves:
    """RunCurves of every row that has a run folder."""
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
            except (UsageError, OSError) as error:
                notes.append(f"No curves for {row.label}: {error}.")
    scored = [set(each.epochs) for seeds in curves.values() for each in seeds if len(each.epochs)]
    without = [label for label, seeds in curves.items() if not any(len(each.epochs) for each in seeds)]
    if scored and without:
        notes.append(f"No evaluation during training: {', '.join(without)}.")
    unclocked = [label for label, seeds in curves.items() if any(each.steps["minutes"].isna().all() for each in seeds)]
    if unclocked:
        notes.append(f"No time axis for {', '.join(unclocked)}: the log begins later than the run.")
    measures, more = _measures(scored)
    return TrainingCurves(curves, measures, (*dict.fromkeys(notes), *more))


def _measures(scored: Sequence[set[str]]) -> tuple[dict[str, Sequence[str]], list[str]]:
    """What those that have any of a kind all have."""
    found: dict[str, Sequence[str]] = {}
    notes = []
    by_set = [_accuracies(names) for names in scored]
    if by_set := [each for each in by_set if each]:
        shared = [name for name in by_set[0] if all(name in each for each in by_set)]
        if shared:
            found[f"Zero-shot accuracy, {_called(shared)}"] = [by_set[0][name] for name in shared]
        if left := sorted({name for each in by_set for name in each} - set(shared)):
            notes.append(
                f"Zero-shot accuracy during training: {', '.join(left)} not drawn, since not all runs have it."
            )
    for text, recall in WAYS.items():
        by_set = [each for names in scored if (each := _recalls(names, recall))]
        if by_set and (shared := [name for name in by_set[0] if all(name in each for each in by_set)]):
            found[f"Recall@5 {text}, {_called(shared)}"] = [by_set[0][name] for name in shared]
    for text, way in DIRECTIONS.items():
        if scored and all(ALL.format(way) in names for names in scored):
            found[f"Recall@5 {text}, validation, all captions"] = [ALL.format(way)]
        elif any(FIRST.format(way) in names for names in scored):
            # our runs have both, so that this one compares them with stock ones
            found[f"Recall@5 {text}, validation, first captions"] = [FIRST.format(way)]
    return found, notes


def _accuracies(names: set[str]) -> dict[str, str]:
    """Columns by set: the paper's metric, else what there is."""
    found: dict[str, str] = {}
    for column in sorted(name for name in names if name.startswith("zeroshot/") and name.count("/") == 2):
        _, name, metric = column.split("/")
        wanted = PROTOCOL[name].metric if name in PROTOCOL else "acc1"
        if metric in CLASSIFICATION and (name not in found or metric == wanted):
            found[name] = column
    return found


def _recalls(names: set[str], recall: str) -> dict[str, str]:
    """Columns of a retrieval set's recall@5, by set."""
    return {name.split("/")[1]: name for name in sorted(names) if re.fullmatch(rf"zeroshot/[^/]+/{recall}@5", name)}


def _called(sets: Sequence[str]) -> str:
    titles = [PROTOCOL[name].title if name in PROTOCOL else name for name in sets]
    return titles[0] if len(titles) == 1 else f"mean of {len(titles)} sets"
