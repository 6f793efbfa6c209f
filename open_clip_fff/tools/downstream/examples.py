"""Images with a text and an answer, as data sets of torch."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from open_clip_fff.data.images import NO_IMAGE, read_image
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.tools.finetune.pairs import ImageTransform


@dataclass(frozen=True)
class Example:
    """One question, or one sentence."""

    images: tuple[Path, ...]  # the images that it is about
    text: str  # the question or sentence
    target: Mapping[int, float]  # from 0 to 1 by class; missing classes have 0


@dataclass(frozen=True)
class Split:
    """The examples of a file, and how answers to them are scored."""

    examples: Sequence[Example]  # in the file's order
    # from each example's predicted class to the content of the predictions file
    answers: Callable[[Sequence[int]], list[dict[str, Any]]]
    # to metrics, among them `accuracy` (0 to 1) and `n`; None where the right answers are unknown
    score: Callable[[Sequence[int]], dict[str, Any]] | None


class ExampleSet(Dataset):
    """Each example once: its images [I, 3, H, W] and its text."""

    def __init__(self, examples: Sequence[Example], transform: ImageTransform) -> None:
        self.examples, self.transform = examples, transform

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        """Raises UsageError for an image that cannot be read."""
        example = self.examples[index]
        return torch.stack([self._pixels(path) for path in example.images]), example.text

    def _pixels(self, path: Path) -> Tensor:
        try:
            return self.transform(read_image(path))
        except NO_IMAGE as error:
            why = reason(error).replace(f" {str(path)!r}", "")  # Pillow repeats it
            raise UsageError(f"{path}: cannot be read as an image ({why})") from error


class TrainingExamples(IterableDataset):
    """Examples endlessly, in another order at each pass: images [I, 3, H, W], text, and targets [C].

    There is at least one; they are divided among the loader's workers. `transform` augments.
    """

    def __init__(self, examples: Sequence[Example], transform: ImageTransform, classes: int, seed: int) -> None:
        self.set, self.classes, self.seed = ExampleSet(examples, transform), classes, seed

    def __iter__(self) -> Iterator[tuple[Tensor, str, Tensor]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for epoch in count():
            order = random.Random(f"{self.seed} {epoch}").sample(range(len(self.set)), len(self.set))
            for index in order[worker::workers] or order:  # with fewer examples than workers, each reads all
                target = torch.zeros(self.classes)
                for name, value in self.set.examples[index].target.items():
                    target[name] = value
                yield *self.set[index], target
