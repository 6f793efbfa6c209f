"""open-clip-fff nlvr2: whether a sentence is true of two photographs (arXiv 1811.00491)."""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F

from open_clip_fff.errors import UsageError
from open_clip_fff.tools.downstream.examples import Example, Split
from open_clip_fff.tools.downstream.files import ImageFolders, field, json_lines
from open_clip_fff.tools.downstream.run import DownstreamTask, run_task

CLASSES = ["False", "True"]


def run(args: argparse.Namespace) -> int:
    """Fine-tunes and scores, or scores a saved model. Raises UsageError for files that do not go together."""
    task = DownstreamTask("nlvr2", 2, lambda: CLASSES, partial(_split, args), str, F.cross_entropy)
    return run_task(args, task)


def image_names(identifier: str) -> tuple[str, str]:
    """`dev-850-0-1` is about `dev-850-0-img0` and `dev-850-0-img1`: set, pair and sentence are numbered in that order.

    Raises ValueError for another form.
    """
    pair, *sentence = identifier.rsplit("-", 1)
    if not sentence or pair.count("-") < 2:
        raise ValueError("is not split-set-pair-sentence")
    return f"{pair}-img0", f"{pair}-img1"


def consistency(identifiers: Sequence[str], right: Sequence[bool]) -> float:
    """The share of sentences that are classified right for all of their image pairs."""
    sentences: dict[tuple[str, ...], bool] = {}
    for identifier, each in zip(identifiers, right, strict=True):
        *before, _, sentence = identifier.split("-")
        name = (*before, sentence)
        sentences[name] = sentences.get(name, True) and each
    return sum(sentences.values()) / len(sentences)


def _split(args: argparse.Namespace, name: str, classes: Sequence[str], images: ImageFolders) -> Split:
    path = getattr(args, f"{name}_data")
    rows, pairs = [], []
    for number, row in enumerate(json_lines(path), start=1):
        where = f"{path}, row {number}"
        identifier = field(row, "identifier", str, where)
        label = str(field(row, "label", (str, int, float), where)).capitalize()
        if label not in classes:
            raise UsageError(f"{where}: label {label} is neither True nor False")
        try:
            pairs.append(image_names(identifier))
        except ValueError as error:
            raise UsageError(f"{where}: identifier {identifier} {error}") from error
        rows.append((identifier, field(row, "sentence", str, where), classes.index(label)))
    paths = images.find((image for pair in pairs for image in pair), path)
    examples = [
        Example(tuple(paths[image] for image in pair), sentence, {label: 1.0})
        for pair, (_, sentence, label) in zip(pairs, rows, strict=True)
    ]

    def score(predicted: Sequence[int]) -> dict[str, Any]:
        right = [found == label for found, (_, _, label) in zip(predicted, rows, strict=True)]
        found = consistency([identifier for identifier, _, _ in rows], right)
        return {"accuracy": sum(right) / len(right), "n": len(right), "consistency": found}

    def answers(predicted: Sequence[int]) -> list[dict[str, Any]]:
        return [{"identifier": row[0], "label": classes[place]} for row, place in zip(rows, predicted, strict=True)]

    return Split(examples, answers, score)
