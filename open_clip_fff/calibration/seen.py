"""What mines, shown samples that were drawn."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch

from open_clip_fff.assignment.reference import MiningFeatures
from open_clip_fff.calibration.eyes import Eyes, mining_features, together, valid_and_raw
from open_clip_fff.calibration.sample import Sample
from open_clip_fff.data.pictures import NoPicture, Picture, pictures_of
from open_clip_fff.data.rows import Row
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.tokens import as_in_a_batch
from open_clip_fff.numerics import half_on_cuda
from open_clip_fff.settings.captions import CaptionSettings

CHUNK = 64  # images that are seen at a time


class Seen(NamedTuple):
    """n images of a draw.

    Attributes:
        sample: their features, and their classes.
        rows: their ids, and the captions that a batch would have.
        left_out: samples that were passed over, by why.
    """

    sample: Sample
    rows: list[Row]
    left_out: Counter[str]


def see(
    samples: Iterable[dict],
    captions: CaptionSettings,
    eyes: Eyes,
    raw: bool,
    device: torch.device,
    seed: int,
    workers: int,
    progress: Callable[[Iterable], Iterable[Any]],
) -> Seen:
    """Embeds samples as they are, without augmentation.

    Args:
        samples: undecoded.
        captions: where captions are, and which of them reach a batch.
        eyes: what mines.
        raw: whether raw captions take part in mining.
        device: where features are.
        seed: of the captions that are drawn under `sample`.
        workers: threads that decode.
        progress: is handed the samples as they are decoded, a bar, say.

    Returns:
        Those with captions and a whole image, and stored features where these mine; n may be 0, and then there are
        no features to speak of.

    Raises:
        OneRankError: for stored features that are another model's, or of other captions.
    """
    left_out: Counter[str] = Counter()
    rows: list[Row] = []
    parts: list[MiningFeatures] = []
    found = progress(pictures_of(samples, CaptionReader(captions), eyes.view, eyes.stored, workers))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for pictures in _chunks(found, left_out):
            some = [as_in_a_batch(picture.row, captions) for picture in pictures]
            with half_on_cuda(device):
                seen = mining_features(eyes, [picture.image for picture in pictures], some, captions.columns)
            if not raw:
                _, raws = valid_and_raw(some, captions.columns, seen.text.device)
                seen = seen._replace(valid=seen.valid & ~raws)
            image = None if seen.image is None else seen.image.float()
            parts.append(seen._replace(image=image, text=seen.text.float()))
            rows += some
    features = together(parts) if parts else MiningFeatures(None, *(torch.empty(0) for _ in range(3)))
    labels = torch.tensor([row.label for row in rows], dtype=torch.int64, device=features.text.device)
    return Seen(Sample(features, labels), rows, left_out)


def _chunks(found: Iterable[Picture | NoPicture], left_out: Counter[str]) -> Iterator[list[Picture]]:
    whole: list[Picture] = []
    found = iter(found)
    while some := list(islice(found, CHUNK)):
        for each in some:
            if isinstance(each, Picture):
                whole.append(each)
            else:
                left_out[each.why] += 1
        if whole:
            yield whole
        whole = []
