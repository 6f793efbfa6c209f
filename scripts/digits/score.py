"""Scores of a run on the held-out digits, by clip-benchmark's own functions."""

import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from clip_benchmark.metrics.zeroshot_classification import run_classification, zero_shot_classifier
from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k
from PIL import Image
from torch import Tensor

from digits.captions import NAMES, PROMPTS
from digits.runs import Run, RunFailed
from digits.shards import read_tars
from open_clip_fff.hub.loading import load_model

AT = (1, 5)


@dataclass(frozen=True)
class Result:
    """What one run came to."""

    run: Run
    seconds: float
    curve: dict[int, float]  # zero-shot top-1 after so many steps
    recall: dict[tuple[str, str, int], float]  # `class` or `exact`, `image-text` or `text-image`, at 1 or 5
    mined: float | None  # captions of others that an image mined per batch, the mean over training; None if none can be
    logits: Tensor  # 100 x the cosines with the ten classes, [N, 10]


class Scorer:
    """The held-out digits, of DATA/test/0.tar, and how a run of an architecture does on them.

    An image's one caption for the retrieval is its most telling one, with the digit and all three attributes.
    """

    def __init__(self, config: Path, data: Path) -> None:
        self.config = config
        self.rows = read_tars([data / "test" / "0.tar"])
        self.labels = torch.tensor([int(row["cls"]) for row in self.rows])  # [N]
        self.captions = [json.loads(row["json"])["captions"][-1] for row in self.rows]
        open_clip.add_model_config(config)
        self.tokenizer = open_clip.get_tokenizer(config.stem)

    def score(self, run: Run, folder: Path, steps_per_epoch: int, seconds: float) -> Result:
        """Scores every checkpoint of a run by its accuracy, the last one by everything; deletes all but the last."""
        found = {int(re.findall(r"\d+", path.stem)[0]): path for path in (folder / "checkpoints").glob("epoch_*.pt")}
        curve = {}
        for epoch in sorted(found):
            model, prepare = load(self.config, found[epoch])
            images = self.images(prepare)
            logits = self.classify(model, images)
            curve[epoch * steps_per_epoch] = self.top1(logits)
            if epoch != max(found):
                found[epoch].unlink()
        return Result(run, seconds, curve, self.recall(model, images), mined_per_image(folder / "out.log"), logits)

    def images(self, prepare: Callable[[Image.Image], Tensor]) -> Tensor:
        """All of them, [N, 3, H, W]."""
        return torch.stack([prepare(Image.open(io.BytesIO(row["png"]))) for row in self.rows])

    def top1(self, logits: Tensor) -> float:
        """The accuracy of logits [N, 10], 0 to 1."""
        return (logits.argmax(dim=1) == self.labels).double().mean().item()

    def classify(self, model: open_clip.CLIP, images: Tensor) -> Tensor:
        """100 x the cosines of images [N, 3, H, W] with the ten classes, [N, 10]."""
        classifier = zero_shot_classifier(model, self.tokenizer, NAMES, list(PROMPTS), "cpu", amp=False)
        return run_classification(model, classifier, [(images, self.labels)], "cpu", amp=False)[0]

    def recall(self, model: open_clip.CLIP, images: Tensor) -> dict[tuple[str, str, int], float]:
        """Recall both ways, for captions of the same digit and for the image's own; images are [N, 3, H, W]."""
        with torch.no_grad():
            texts = model.encode_text(self.tokenizer(self.captions), normalize=True)
            scores = model.encode_image(images, normalize=True) @ texts.T  # [N images, N captions]
        counts = {"class": self.labels[:, None] == self.labels, "exact": torch.eye(len(images), dtype=torch.bool)}
        return {
            (kind, direction, k): (recall_at_k(found, pairs, k) > 0).double().mean().item()
            for kind, pairs in counts.items()
            for direction, found in (("image-text", scores), ("text-image", scores.T))
            for k in AT
        }

    def notes(self, best: float) -> str:
        """What a reader must know of the figures, of which the highest accuracy is `best`, 0 to 1."""
        size, distinct = len(self.rows), len(set(self.captions))
        error = math.sqrt(best * (1 - best) / size)
        return (
            f"  teacher       steps of the frozen model that mines, on top of the run's own\n"
            f"  seconds       of the whole command, with another one beside it\n"
            f"  mined/image   captions of other images that became an image's positives, per batch\n"
            f"  top-1         zero-shot accuracy, %; chance is 10; one seed, {size} digits, "
            f"standard error {error:.1%} at {best:.0%}\n"
            f"  class, exact  recall@1/@5, %, image to text and text to image: a caption of the same digit\n"
            f"                counts, or only the image's own.\n"
            f"                {size} images have {distinct} different captions: "
            f"exact recall@1 cannot pass {distinct / size:.0%}"
        )

    def compare(self, result: Result, logits: Path) -> str:
        """A line that stock OpenCLIP's logits, [N, 10] in a file, are those of the run; RunFailed if they are not."""
        apart = (torch.from_numpy(np.load(logits)) - result.logits).abs().max().item()
        if apart > 1e-3:
            raise RunFailed(f"stock OpenCLIP's logits differ from ours by up to {apart:.2g}")
        top1 = result.curve[max(result.curve)]
        return f"Ours, before the export:  top-1 {top1:.1%}; logits differ by {apart:.1g} at most"


def load(config: Path, checkpoint: Path) -> tuple[open_clip.CLIP, Callable[[Image.Image], Tensor]]:
    """The trained model of a checkpoint, and its image preprocessing; OpenCLIP calls `config` by the file's name."""
    open_clip.add_model_config(config)
    loaded = load_model(f"{config.stem},{checkpoint}")
    return loaded.model, loaded.preprocess


def mined_per_image(log: Path) -> float | None:
    """The mean of what the training logged at the end of each epoch."""
    logged = re.findall(r"Mined/image: ([\d.]+)", log.read_text())
    return float(np.mean([float(number) for number in logged])) if logged else None
