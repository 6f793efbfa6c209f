"""A linear probe: a logistic regression on frozen image features, by scikit-learn.

clip-benchmark's own probe requires CUDA; this one also runs on the CPU.
"""

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from open_clip_fff.data.class_texts import NAMES, check_texts
from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.benchmark import (
    EvalOutcome,
    EvalSettings,
    accuracy,
    check_classes,
    make_loader,
    mean_per_class_recall,
    progress_bars,
)
from open_clip_fff.evaluation.layouts import SPLIT, LocalSet, other_split
from open_clip_fff.evaluation.protocol import LINEAR_PROBE, ZERO_SHOT
from open_clip_fff.evaluation.score_all import prepare, score_models
from open_clip_fff.evaluation.scoring import Evaluation
from open_clip_fff.evaluation.store import Score
from open_clip_fff.hub.loading import LoadedModel
from open_clip_fff.plural import plural

# torchvision's names of the training split; two sets have no split
TRAIN = {"pets": "trainval", "fgvc_aircraft": "trainval"}
NO_SPLIT = ("sun397", "caltech101")
STRENGTHS = tuple(float(c) for c in np.logspace(-2, 5, 8))  # scikit-learn's C, 1 / weight decay
HELD_OUT = 0.1  # of the training images, to choose C with


@dataclass(frozen=True)
class ProbeSettings:
    """How the regression is fitted."""

    shots: int = -1  # training images per class, drawn once; -1 for all, as in clip-benchmark
    seed: int = 0  # for this draw, and for the images held out to choose C
    max_iter: int = 1000  # iterations of L-BFGS


def run(arguments: argparse.Namespace, prog: str) -> int:
    """Fits and scores; 1 if some models or sets failed, else 0."""
    splits = with_training_images(prepare(arguments), named=arguments.datasets != ["all"])
    probing = ProbeSettings(arguments.shots, arguments.seed)

    way = Evaluation(
        lambda loaded, local, settings: probe(loaded, local, settings, splits[local], probing),
        LINEAR_PROBE,
        lambda _, local: conditions(splits[local], probing),
    )
    return score_models(arguments, prog, list(splits), score_line, way)


def score_line(score: Score) -> str:
    """A score as a line."""
    about, metrics = score.meta["set"], score.metrics
    fitted = plural(about["train_images"], "images")
    shown = f"acc1 {100 * metrics['lp_acc1']:.2f} %, {fitted} to fit, C {metrics['C']:g}"
    shown += "" if metrics.get("converged", True) else ", not converged"
    return f"{about['name']:<24} {about['images']:>6,} images  {shown}"


def conditions(train: LocalSet, probing: ProbeSettings) -> dict[str, int | str | None]:
    """What a probe's score depends on besides the set and the model."""
    return {"shots": probing.shots, "seed": probing.seed, "training images": train.contents(_split(train))}


def _split(train: LocalSet) -> str:
    return "train" if train.shards else TRAIN.get(train.spec.name, "train")


def training_split(local: LocalSet) -> LocalSet:
    """The training images of a set; raises UsageError if it has none."""
    name = local.spec.name
    if local.spec.task != ZERO_SHOT or local.spec.metric == "mean_average_precision":
        raise UsageError(f"{name}: a linear probe needs one class per image")
    if local.shards:
        train = other_split(local, "train")
        if train is None:
            raise UsageError(f"{name}: no train/nshards.txt in {local.root}, so there is nothing to fit a probe on")
        return train
    if name in NO_SPLIT:
        raise UsageError(f"{name}: torchvision's form has no split; use clip-benchmark's webdataset form")
    return local


def probe(
    loaded: LoadedModel, local: LocalSet, settings: EvalSettings, train: LocalSet, probing: ProbeSettings
) -> EvalOutcome:
    """Fits a regression on `train`, and scores it on `local`.

    Raises UsageError for classes without a name, and training images of one class or of other classes alone.
    """
    features, labels = encode(loaded, train, settings, _split(train))
    held_features, target = encode(loaded, local, settings, SPLIT)
    if local.shards:
        check_texts(local.root)
        names = len((local.root / NAMES).read_text(encoding="utf-8").splitlines())
        check_classes(local, np.concatenate([labels, target]), names)
    if len(np.unique(labels)) < 2 or not np.isin(target, labels).any():
        which = "are all of one class" if len(np.unique(labels)) < 2 else "are of none of the test images' classes"
        raise UsageError(f"{local.root}: its training images {which}")
    return fit_and_score(features, labels, held_features, target, probing)


def fit_and_score(
    features: np.ndarray, labels: np.ndarray, held_features: np.ndarray, target: np.ndarray, probing: ProbeSettings
) -> EvalOutcome:
    """The probe's metrics, given features float32 [M, D] and classes int64 [M] to fit on, and those to score."""
    if probing.shots > 0:
        chosen = draw_shots(labels, probing.shots, probing.seed)
        features, labels = features[chosen], labels[chosen]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"sklearn\.")  # `converged` tells instead
        strength = choose_strength(features, labels, probing)
        fitted = _fit(features, labels, strength, probing)
    classes = int(max(labels.max(), target.max())) + 1
    logits = np.full((len(target), classes), -np.inf, dtype=np.float32)  # a class without training images never wins
    logits[:, fitted.classes_] = fitted.predict_log_proba(held_features)
    top1, top5 = (accuracy(torch.from_numpy(logits), torch.from_numpy(target), (min(k, classes),))[0] for k in (1, 5))
    predicted = logits.argmax(axis=1)
    metrics = {
        "lp_acc1": top1,
        "lp_acc5": top5 if classes >= 5 else float("nan"),
        "lp_mean_per_class_recall": mean_per_class_recall(target, predicted),
        "C": strength,
        "converged": bool(fitted.n_iter_.max() < probing.max_iter),
        "fewshot_k": probing.shots,
        "seed": probing.seed,
    }
    sizes = {"images": len(target), "classes": classes, "train_images": len(labels)}
    return EvalOutcome(metrics, {"target": target, "predicted": predicted}, sizes)


@torch.no_grad()
def encode(loaded: LoadedModel, local: LocalSet, settings: EvalSettings, split: str) -> tuple[np.ndarray, np.ndarray]:
    """L2-normalised image features float32 [M, D] and classes int64 [M] of a split."""
    features, labels = [], []
    loader = make_loader(local, loaded.preprocess, settings, split)
    for images, target in progress_bars(f"{local.spec.name} {split}", settings)(loader):
        with torch.autocast(settings.device, enabled=settings.amp):
            encoded = F.normalize(loaded.model.encode_image(images.to(settings.device)), dim=-1)
        features.append(encoded.float().cpu())
        labels.append(torch.as_tensor(target))
    return torch.cat(features).numpy(), torch.cat(labels).long().numpy()


def draw_shots(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Indices of random images of each class, ascending; `labels` is [M]. Raises UsageError if one has too few."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rows = []
    for label in np.unique(labels):
        of_label = order[labels[order] == label]
        if len(of_label) < shots:
            raise UsageError(f"--shots {shots}: class {label} has {plural(len(of_label), 'training images')}")
        rows.append(of_label[:shots])
    return np.sort(np.concatenate(rows))


def choose_strength(features: np.ndarray, labels: np.ndarray, probing: ProbeSettings) -> float:
    """The C of `STRENGTHS` that is best on a tenth of the training images, held out with equal class shares."""
    counts = np.unique(labels, return_counts=True)[1]
    held = max(round(HELD_OUT * len(labels)), len(counts))
    if counts.min() < 2 or len(labels) - held < len(counts):
        return 1.0  # too few images to hold any out
    fit_x, test_x, fit_y, test_y = train_test_split(
        features, labels, test_size=held, stratify=labels, random_state=probing.seed
    )
    # among equally good ones the first, with the strongest decay
    return max(STRENGTHS, key=lambda strength: _fit(fit_x, fit_y, strength, probing).score(test_x, test_y))


def _fit(features: np.ndarray, labels: np.ndarray, strength: float, probing: ProbeSettings) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=probing.max_iter).fit(features, labels)


def with_training_images(sets: Sequence[LocalSet], named: bool) -> dict[LocalSet, LocalSet]:
    """The training split of each set that has one; prints the sets that have none.

    Raises UsageError if none is left, and for a set without one that the user named.
    """
    splits = {}
    for local in sets:
        try:
            splits[local] = training_split(local)
        except UsageError as error:
            if named:
                raise
            print(f"- {error}", flush=True)
    if not splits:
        raise UsageError("--data-root: no set there has training images, see above")
    return splits
