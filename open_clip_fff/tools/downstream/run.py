"""What vqa and nlvr2 share: fine-tune, choose the step on the validation file, score, write."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.devices import or_best, usable
from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.models.crops import image_size
from open_clip_fff.numerics import half_on_cuda
from open_clip_fff.plural import plural
from open_clip_fff.progress import progress
from open_clip_fff.tools.downstream.examples import Example, ExampleSet, Split, TrainingExamples
from open_clip_fff.tools.downstream.files import ImageFolders
from open_clip_fff.tools.downstream.saved import TaskModel, load_task_model, new_task_model, write_task_model
from open_clip_fff.tools.finetune.loop import fine_tune, image_transforms, plain_errors, seed_everything
from open_clip_fff.tools.finetune.pairs import ImageTransform

VALIDATIONS = 10  # in a fine-tuning, unless --validate-every says otherwise


@dataclass(frozen=True)
class DownstreamTask:
    """A task of classes, over one text and some images."""

    name: str  # of the command
    images: int  # in an example
    classes: Callable[[], list[str]]  # reads their names
    # reads a split, `train`, `val` or `test`, given the classes and where images are
    split: Callable[[str, Sequence[str], ImageFolders], Split]
    image_key: Callable[[str], str]  # from a file's name without suffix to the key by which the split finds it
    loss: Callable[[Tensor, Tensor], Tensor]  # of logits and targets [B, C]


def run_task(args: argparse.Namespace, task: DownstreamTask) -> int:
    """Fine-tunes, chooses, scores and writes a folder; or scores one (--score).

    Raises UsageError for files, models and devices that do not go together.
    """
    args.device = or_best(args.device)
    device, folders = usable(args.device), ImageFolders(args.images, task.image_key)
    if args.score:
        model = load_task_model(args.score, task.name)
        model.network.to(device)
        test = task.split("test", model.classes, folders)
        record = {"task": task.name, "model": str(args.score), "test": score_split(model, test, args)}
        write_text(args.result, json.dumps(record, indent=2), "--result")
        return 0
    seed_everything(args.seed)
    classes = task.classes()
    has_test = any(getattr(args, f"test_{file}", None) is not None for file in ("questions", "data"))
    splits = {name: task.split(name, classes, folders) for name in ("train", "val", *["test"] * has_test)}
    model = new_task_model(args.model, f"--model {args.model}", args.pooled, task.images, classes)
    if args.freeze_towers:
        model.network.towers.requires_grad_(False)
    model.network.to(device)
    counts = ", ".join(f"{len(split.examples):,} {name}" for name, split in splits.items())
    kind = "the towers' pooled features" if args.pooled else "fused states"
    print(f"{task.name} over {kind}: {plural(len(classes), 'classes')}; examples: {counts}")
    record = fine_tune_and_choose(model, splits["train"], splits["val"], args, task.loss)
    try:
        if "test" in splits:
            record["test"] = score_split(model, splits["test"], args)
    finally:  # keeps the trained model even if a test image cannot be read
        write_task_model(model, task.name, record, args.out)
        print(f"{args.out} is written: open-clip-fff {task.name} --score {args.out}")
    return 0


def fine_tune_and_choose(
    model: TaskModel, train: Split, val: Split, args: argparse.Namespace, loss: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Any]:
    """Trains `model`, leaves it at the step that is best on `val`, and returns the content of `result.json`.

    Raises UsageError for an image that cannot be read, or a training that diverges before it is validated once.
    """
    network, device = model.network, torch.device(args.device)
    crop, _ = _transforms(model, args.min_crop)
    every = args.validate_every or max(args.steps // VALIDATIONS, 1)
    assert val.score is not None
    score, history = val.score, list[dict[str, Any]]()
    best: dict[str, Any] = {"accuracy": -1.0}

    def losses(batch: tuple[Tensor, list[str], Tensor]) -> dict[str, Tensor]:
        pixels, texts, targets = batch
        logits = network(pixels.to(device), model.tokenizer(list(texts)).to(device))
        return {"loss": loss(logits.float(), targets.to(device))}

    def after_step(step: int) -> None:
        if step % every and step != args.steps:
            return
        if not all(bool(weights.isfinite().all()) for weights in network.parameters()):
            return  # all answers would be the first class, which may be the most frequent one
        found = score(predict(model, val.examples, args))
        history.append({"step": step, "accuracy": found["accuracy"]})
        tqdm.write(f"step {step}: {describe_scores(found)}")
        if found["accuracy"] > best["accuracy"]:  # among equal ones the first
            weights = {name: x.detach().cpu().clone() for name, x in network.state_dict().items()}
            best.update(found, step=step, weights=weights)

    parts = [part for part in (network.towers, network.fusion) if part is not None]
    rates = {**dict.fromkeys(parts, args.lr), network.head: args.head_lr}
    data = TrainingExamples(train.examples, crop, len(model.classes), args.seed)
    last = fine_tune(network, data, losses, args, rates, after_step)
    if "weights" not in best:
        raise UsageError(f"--lr {args.lr:g}: training diverged before step {every}, and nothing is written; lower it")
    network.load_state_dict(best.pop("weights"))
    chosen = best.pop("step")
    print(f"step {chosen} is the best one on the validation file")
    if not math.isfinite(last["loss"]):
        print(f"warning: --lr {args.lr:g}: training diverged after it; lower it", file=sys.stderr)
    arguments = json.loads(json.dumps(vars(args), default=str))
    return {"arguments": arguments, "chosen_step": chosen, "validation": history, "val": best}


def score_split(model: TaskModel, split: Split, args: argparse.Namespace) -> dict[str, Any]:
    """Metrics of a test file, which it prints; writes predictions where --predictions asks for them.

    Raises UsageError for an image that cannot be read, or a file that cannot be written.
    """
    predicted = predict(model, split.examples, args, "test")
    if args.predictions:
        write_text(args.predictions, json.dumps(split.answers(predicted)), "--predictions")
    if split.score is None:
        return {"n": len(predicted)}
    found = split.score(predicted)
    print(f"test: {describe_scores(found)}")
    return found


def describe_scores(figures: Mapping[str, Any]) -> str:
    """`63.2 % of 1,200 right`, followed by the other metrics."""
    text = f"{100 * figures['accuracy']:.1f} % of {figures['n']:,} right"
    rest = [f"{name} {100 * value:.1f} %" for name, value in figures.items() if isinstance(value, float)][1:]
    for name, part in figures.get("by_answer_type", {}).items():
        rest.append(f"{name} {100 * part['accuracy']:.1f} % of {part['n']:,}")
    return ", ".join([text, *rest])


def write_text(path: Path, text: str, flag: str) -> None:
    """Writes a file atomically. Raises UsageError if that fails; `flag` names it."""
    with as_mistake(f"{flag} {path}: cannot be written", OSError):
        write_atomically(path, text + "\n")
    print(f"{path} is written")


def predict(model: TaskModel, examples: Sequence[Example], args: argparse.Namespace, bar: str = "") -> list[int]:
    """The most probable class of each example, in eval mode, in half precision on CUDA; `bar` titles a progress bar.

    Raises UsageError for an image that cannot be read.
    """
    model.network.eval()
    device, (_, resize) = torch.device(args.device), _transforms(model, 1.0)
    loader = DataLoader(ExampleSet(examples, resize), args.batch_size, num_workers=args.workers)
    found: list[int] = []
    with plain_errors(), torch.no_grad(), half_on_cuda(device):
        for pixels, texts in progress(loader, bar, disable=not bar):
            logits = model.network(pixels.to(device), model.tokenizer(list(texts)).to(device))
            found += logits.argmax(dim=1).tolist()
    return found


def _transforms(model: TaskModel, min_crop: float) -> tuple[ImageTransform, ImageTransform]:
    visual = model.network.towers.visual
    return image_transforms(image_size(visual), (visual.image_mean, visual.image_std), min_crop)
