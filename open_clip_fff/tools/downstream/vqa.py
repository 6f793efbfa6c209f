"""open-clip-fff vqa: VQAv2's questions, answered with one of the training questions' frequent answers."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.downstream.examples import Example, Split
from open_clip_fff.tools.downstream.files import ImageFolders, coco_key, field, json_list
from open_clip_fff.tools.downstream.run import DownstreamTask, run_task
from open_clip_fff.tools.downstream.vqa_answers import (
    LEAST_ANSWERS,
    frequent_answers,
    normalise,
    soft_score,
    vqa_accuracy,
)

TYPE = "answer_type"  # yes/no, number or other, where the annotation has it


@dataclass(frozen=True)
class Annotation:
    """People's answers to a question, normalised."""

    given: tuple[str, ...]
    kind: str | None


def run(args: argparse.Namespace) -> int:
    """Fine-tunes and scores, or scores a saved model. Raises UsageError for files that do not go together."""
    task = DownstreamTask("vqa", 1, partial(_classes, args), partial(_split, args), coco_key, _loss)
    return run_task(args, task)


def read_annotations(path: Path) -> dict[Any, Annotation]:
    """The annotations by question id.

    Raises UsageError if the file is none of VQAv2's annotations, or a question has two, or too few answers.
    """
    found = {}
    for number, row in enumerate(json_list(path, "annotations")):
        where = f"{path}, annotation {number}"
        question = field(row, "question_id", (int, str), where)
        answers = [field(answer, "answer", str, where, empty=True) for answer in field(row, "answers", list, where)]
        if len(answers) < LEAST_ANSWERS:
            raise UsageError(
                f"{path}: question {question} has {plural(len(answers), 'answers')}; the accuracy, and the targets, "
                f"need {LEAST_ANSWERS} people (VQAv2 asked 10)"
            )
        if question in found:
            raise UsageError(f"{where}: question {question} has another one before")
        kind = row.get(TYPE)
        found[question] = Annotation(tuple(map(normalise, answers)), None if kind is None else str(kind))
    return found


def _classes(args: argparse.Namespace) -> list[str]:
    path = args.train_annotations
    answers = frequent_answers((each.given for each in read_annotations(path).values()), args.answers, args.min_count)
    if len(answers) < 2:
        raise UsageError(f"--min-count {args.min_count}: leaves {plural(len(answers), 'answers')} of {path}")
    return answers


def _split(args: argparse.Namespace, name: str, classes: Sequence[str], images: ImageFolders) -> Split:
    questions, annotations = (getattr(args, f"{name}_{file}") for file in ("questions", "annotations"))
    rows = json_list(questions, "questions")
    asked = []
    for number, row in enumerate(rows):
        where = f"{questions}, question {number}"
        image = coco_key(str(field(row, "image_id", (int, str), where)))
        asked.append((field(row, "question_id", (int, str), where), image, field(row, "question", str, where)))
    paths = images.find((image for _, image, _ in asked), questions)
    ids = [question for question, _, _ in asked]
    if twice := [question for question, count in Counter(ids).items() if count > 1]:
        raise UsageError(
            f"{questions}: {twice[0]} is the question_id of several; an annotation belongs to one question"
        )
    answered = None if annotations is None else read_annotations(annotations)
    if answered is not None and (without := [question for question in ids if question not in answered]):
        raise UsageError(
            f"{annotations}: answers {len(ids) - len(without)} of the {len(ids)} questions of {questions}; question "
            f"{without[0]} has no annotation"
        )
    index = {answer: place for place, answer in enumerate(classes)}
    examples, kept = [], []
    for question, image, text in asked:
        given = () if answered is None else answered[question].given
        target = {index[answer]: soft_score(answer, given) for answer in dict.fromkeys(given) if answer in index}
        if target or name != "train":  # a question without a right class teaches nothing
            examples.append(Example((paths[image],), text, target))
            kept.append(question)
    if not examples:
        raise UsageError(f"{questions}: no question has an answer in the list; lower --min-count, or raise --answers")
    if len(examples) < len(asked):
        print(f"{questions}: {len(asked) - len(examples)} of {len(asked)} questions have no answer in the list")
    known = None if answered is None else [answered[question] for question in kept]
    score = None if known is None else partial(_score, known, classes)
    return Split(examples, partial(_predictions, kept, classes), score)


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropies, one per answer, summed over the answers (arXiv 1708.02711)."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)


def _score(annotations: Sequence[Annotation], classes: Sequence[str], predicted: Sequence[int]) -> dict[str, Any]:
    listed = set(classes)
    right = [vqa_accuracy(classes[place], each.given) for each, place in zip(annotations, predicted, strict=True)]
    best = [
        max((vqa_accuracy(x, each.given) for x in listed.intersection(each.given)), default=0.0) for each in annotations
    ]
    kinds = sorted({each.kind for each in annotations if each.kind is not None})
    parts = {kind: [x for x, each in zip(right, annotations, strict=True) if each.kind == kind] for kind in kinds}
    return {
        "accuracy": sum(right) / len(right),
        "n": len(right),
        "ceiling": sum(best) / len(best),  # of the answer list
        "by_answer_type": {kind: {"accuracy": sum(x) / len(x), "n": len(x)} for kind, x in parts.items()},
    }


def _predictions(questions: Sequence[Any], classes: Sequence[str], predicted: Sequence[int]) -> list[dict[str, Any]]:
    """Predictions in the form of VQA's evaluation server."""
    return [
        {"question_id": question, "answer": classes[place]}
        for question, place in zip(questions, predicted, strict=True)
    ]
