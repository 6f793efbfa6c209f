"""clip-benchmark's data sets and evaluators, patched during a call where they break with current libraries.

The patches do not change the metrics: they make them computable, and record each image's outcome.
"""

import gc
import tarfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import clip_benchmark.metrics.zeroshot_classification as classification
import clip_benchmark.metrics.zeroshot_retrieval as retrieval
import numpy as np
import torch
import webdataset
from clip_benchmark.datasets.builder import build_dataset, get_dataset_collate_fn
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import Compose
from webdataset.compat import FluidInterface

from open_clip_fff.data.class_texts import check_texts
from open_clip_fff.data.images import SafeMembers, UnreadableMember, open_as_open_clip, resizable
from open_clip_fff.data.row_counts import tar_entries
from open_clip_fff.data.tars import tar_samples
from open_clip_fff.errors import UsageError, as_mistake, reason
from open_clip_fff.evaluation.layouts import SPLIT, LocalSet
from open_clip_fff.evaluation.protocol import IMAGE_TO_TEXT, RECALL_AT, RETRIEVAL, TEXT_TO_IMAGE
from open_clip_fff.patching import replaced
from open_clip_fff.plural import plural
from open_clip_fff.progress import progress


@dataclass(frozen=True)
class EvalSettings:
    """How a set is read and scored."""

    device: str = "cpu"  # `cpu` or `cuda`
    amp: bool = False  # as in clip-benchmark, autocast to bfloat16 on CPU and float16 on CUDA; else float32
    batch_size: int = 64  # images per batch
    workers: int = 4  # of the loader, at most one per shard
    progress_bars: bool = True  # whether tqdm bars are shown

    @property
    def precision(self) -> str:
        """`amp` or `fp32`."""
        return "amp" if self.amp else "fp32"


class EvalOutcome(NamedTuple):
    """The result of one evaluation."""

    metrics: dict[str, float]  # clip-benchmark's, by its names
    samples: dict[str, np.ndarray]  # outcomes per image or caption, as in `store.Score`
    sizes: dict[str, int]  # numbers of images, and of captions or of classes and templates


def evaluate(
    model: Any, preprocess: Callable, tokenizer: Callable, local: LocalSet, settings: EvalSettings
) -> EvalOutcome:
    """Scores a model on a set by clip-benchmark's own evaluator.

    The model is OpenCLIP's, in eval mode and on the device; `preprocess` goes from a PIL image to [3, H, W],
    `tokenizer` from strings to int64 [n, L].

    Raises any Exception of clip-benchmark, webdataset or PIL, for data that cannot be read.
    """
    torch.manual_seed(0)  # as clip-benchmark's command line does
    if local.shards and local.spec.task != RETRIEVAL:
        check_texts(local.root)
    loader = make_loader(local, preprocess, settings)
    if local.spec.task == RETRIEVAL:
        return _retrieval(model, tokenizer, loader, local, settings)
    return _classification(model, tokenizer, loader, local, settings)


def _classification(
    model: Any, tokenizer: Callable, loader: Any, local: LocalSet, settings: EvalSettings
) -> EvalOutcome:
    classes, templates = loader.dataset.classes, loader.dataset.templates
    kept: dict[str, Tensor] = {}

    def run(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        logits, target = original(*arguments, **options)
        kept.update(logits=logits, target=target)
        return logits, target

    original = classification.run_classification
    bars = progress_bars(local.spec.name, settings)
    ours = {"run_classification": run, "accuracy": accuracy, "balanced_accuracy_score": mean_per_class_recall}
    with replaced(classification, **ours, tqdm=bars):
        metrics = classification.evaluate(
            model, loader, tokenizer, classes, templates, settings.device, amp=settings.amp
        )
    target, logits = kept["target"], kept["logits"]
    if target.ndim == 2:  # several labels per image
        samples = {"target": target.numpy(), "predicted": (logits > 0).numpy()}
    else:  # of equal logits acc1's topk may take another class than mean_per_class_recall's argmax
        check_classes(local, target.numpy(), len(classes))
        first = logits.topk(5 if len(classes) >= 5 else 1, dim=1).indices[:, 0]
        samples = {"target": target.numpy(), "predicted": logits.argmax(dim=1).numpy(), "first": first.numpy()}
    return EvalOutcome(metrics, samples, {"images": len(target), "classes": len(classes), "templates": len(templates)})


def check_classes(local: LocalSet, labels: np.ndarray, names: int) -> None:
    """Raises UsageError if one of the labels, int64 [M], is not among the `names` named classes, counted from 0."""
    negative = (labels < 0) & bool(local.shards)  # torchvision defines its own labels
    if len(wrong := labels[negative | (labels >= names)]):
        raise UsageError(
            f"{local.root}: an image has the class {int(wrong[0])}, counted from 0, of {plural(names, 'classes')} with "
            f"a name; classnames.txt has one a line, in their order"
        )


def _retrieval(model: Any, tokenizer: Callable, loader: Any, local: LocalSet, settings: EvalSettings) -> EvalOutcome:
    samples: dict[str, np.ndarray] = {}
    empty = 0

    def batchify(func: Callable, scores: Tensor, positives: Tensor, *arguments: Any, k: int, **options: Any) -> Tensor:
        # a set may have fewer images than k
        shares = original(func, scores, positives, *arguments, k=min(k, scores.shape[1]), **options)
        # for each k, clip-benchmark calls this for text to image first
        direction = IMAGE_TO_TEXT if f"{TEXT_TO_IMAGE}@{k}" in samples else TEXT_TO_IMAGE
        samples[f"{direction}@{k}"] = (shares > 0).numpy()
        if "image_of_text" not in samples:
            samples["image_of_text"] = positives.view(torch.uint8).argmax(dim=1).numpy()  # argmax of bool is missing
        return shares

    def tokenized(texts: Sequence[str]) -> Tensor:
        nonlocal empty
        empty += sum(not text.strip() for text in texts)
        return tokenizer(texts)

    original = retrieval.batchify
    with replaced(retrieval, batchify=batchify, tqdm=progress_bars(local.spec.name, settings)):
        metrics = retrieval.evaluate(
            model, loader, tokenized, settings.device, amp=settings.amp, recall_k_list=list(RECALL_AT)
        )
    images, captions = len(samples[f"{IMAGE_TO_TEXT}@1"]), len(samples["image_of_text"])
    bare = images - len(np.unique(samples["image_of_text"]))
    odd = {"empty_captions": empty, "images_without_captions": bare}
    sizes = {"images": images, "captions": captions, **{name: count for name, count in odd.items() if count}}
    return EvalOutcome(metrics, samples, sizes)


def mean_per_class_recall(target: Tensor | np.ndarray, predicted: Tensor | np.ndarray) -> float:
    """scikit-learn's balanced_accuracy_score of classes int64 [M], bit for bit, without its C x C count matrix."""
    target, predicted = np.asarray(target), np.asarray(predicted)
    _, group, images = np.unique(target, return_inverse=True, return_counts=True)
    return float(np.mean(np.bincount(group, target == predicted) / images))


def accuracy(output: Tensor, target: Tensor, topk: Sequence[int] = (1,)) -> list[float]:
    """Top-k accuracy of logits [M, C] and targets int64 [M]; clip-benchmark's own fails with numpy >= 2.4."""
    hits = output.topk(max(topk), 1, True, True)[1] == target[:, None]  # [M, k]
    return [float(hits[:, :k].float().sum()) / len(target) for k in topk]


class _SizedLoader(DataLoader):
    """A loader over tars that knows its length, so that the progress bar can show the time left."""

    batches = 0

    def __len__(self) -> int:
        return self.batches


class SafeWebDataset(webdataset.DataPipeline, FluidInterface):
    """webdataset's `WebDataset`, without its decoding of pickles: only images, captions and classes are decoded.

    Errors name the sample. The pattern is clip-benchmark's `FOLDER/{0..N}.tar`; braces in the folder's own name are
    literal.
    """

    def __init__(self, pattern: str, **_: Any) -> None:
        folder, last = pattern.rsplit("{0..", 1)
        urls = [f"{folder}{shard}.tar" for shard in range(int(last.removesuffix("}.tar")) + 1)]
        super().__init__(webdataset.SimpleShardList(urls), webdataset.split_by_worker, tar_samples())

    def decode(self, *_: Any, **__: Any) -> Any:
        return self.map(partial(_decoded, SafeMembers(Compose([open_as_open_clip, resizable]))))

    def to_tuple(self, *members: Any) -> Any:
        return self.map(partial(_picked, members))


def _picked(members: Sequence[Any], sample: dict) -> tuple:
    """For each list of names the sample's first such member. Raises ValueError if there is none."""
    for names in members:
        if not sample.keys() & set(wanted := [names] if isinstance(names, str) else names):
            raise ValueError(f"{sample['__key__']} in {Path(sample['__url__']).name} has no {' or '.join(wanted)}")
    return tuple(webdataset.filters.getfirst(sample, names) for names in members)


def _decoded(decoder: SafeMembers, sample: dict) -> dict:
    """A decoded sample. Raises ValueError for a member that cannot be decoded, with its name and the cause."""
    try:
        return decoder(sample)
    except UnreadableMember as error:
        why = reason(error.__cause__ or error)
        raise ValueError(f"{error.member} in {Path(error.tar).name} cannot be read: {why}") from error


def build(local: LocalSet, preprocess: Callable, split: str = SPLIT) -> Any:
    """clip-benchmark's data set, without its download."""
    with warnings.catch_warnings(), replaced(webdataset, WebDataset=SafeWebDataset):
        warnings.simplefilter("ignore")  # about splits, on which the sets have notes
        root = local.root.resolve() if local.shards else local.root  # webdataset takes a relative a::b for a scheme
        return build_dataset(local.dataset, str(root), preprocess, split, download=False, task=local.spec.task)


def make_loader(local: LocalSet, preprocess: Callable, settings: EvalSettings, split: str = SPLIT) -> Any:
    """Batches of (images [B, 3, H, W], labels [B] or lists of captions) of a split, in a fixed order."""
    gc.collect()  # a failed set's loader lives on in its error's frames; this loader's forked workers would end it
    dataset = build(local, preprocess, split)
    if not local.shards:
        collate = get_dataset_collate_fn(local.dataset)
        return DataLoader(dataset, settings.batch_size, num_workers=settings.workers, collate_fn=collate)
    workers = min(settings.workers, local.shards)  # a worker without a shard raises
    loader = _SizedLoader(dataset.batched(settings.batch_size), batch_size=None, num_workers=workers)
    loader.batches = -(-count_images(local.root / split, local.shards) // settings.batch_size)
    return loader


def count_images(split: Path, shards: int) -> int:
    """The number of samples in a webdataset split, from the tars' headers alone.

    Raises UsageError for a tar that is cut short, damaged or none, and if there is no sample.
    """
    keys = set[tuple[str, str]]()
    for path in (split / f"{shard}.tar" for shard in range(shards)):
        with as_mistake(f"{path}: cannot be read as a tar", OSError, tarfile.TarError, fix="download it again"):
            keys |= {(path.name, key) for key, _, _ in tar_entries(str(path), "r")}
    if not keys:
        raise UsageError(f"{split}: no sample in {plural(shards, 'tars')}")
    return len(keys)


def progress_bars(name: str, settings: EvalSettings) -> Callable:
    """tqdm with a title, if the settings ask for bars."""
    return partial(progress, desc=name, disable=not settings.progress_bars)
