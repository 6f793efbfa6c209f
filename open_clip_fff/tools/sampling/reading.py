"""Reads a draw: its images, the captions that training would have, and the features that extractors make of both."""

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.decoded import DecodedSample, decoded_samples
from open_clip_fff.data.shards import SkippedSample
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.tokens import draw_captions
from open_clip_fff.mining.reference import MiningFeatures
from open_clip_fff.numerics import half_on_cuda
from open_clip_fff.tools.sampling.draw import Draw, Progress
from open_clip_fff.tools.sampling.extractors import FeatureExtractor, mining_features, together

CHUNK = 64  # images that are embedded at a time
THUMBNAIL, QUALITY = 176, 80  # pixels of the longer side, and of JPEG


class Part(NamedTuple):
    """Images of a sample that follow each other.

    Attributes:
        pictures: their keys, shards and captions, and as `image` what was kept of them.
        features: by extractor.
    """

    pictures: list[DecodedSample[Any]]
    features: list[MiningFeatures]


class Reading:
    """A draw, read once, without augmentation: those of its samples that have captions and a whole image.

    Args:
        draw: the samples.
        captions: where captions are, and which of them reach a batch.
        extractors: where one asks for stored features, samples without any are left out, too.
        device: of the features.
        progress: is handed the samples as they are decoded, a bar, say.
        keep: what else is made of a picture.
        seed: of the captions that are drawn under the policy `sample`.
        workers: threads that decode.

    Attributes:
        left_out: samples, so far, and why.
    """

    def __init__(
        self,
        draw: Draw,
        captions: CaptionSettings,
        extractors: Sequence[FeatureExtractor],
        device: torch.device,
        progress: Progress,
        keep: Callable[[Image.Image], Any] = lambda _: None,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self.captions, self.extractors, self.device = captions, list(extractors), device
        self.left_out: list[SkippedSample] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._drawing = torch.get_rng_state()

        def view(picture: Image.Image) -> tuple[Any, list[Tensor]]:
            return keep(picture), [each.view(picture) for each in self.extractors]

        stored = next((each.stored for each in self.extractors if each.stored is not None), None)
        found = decoded_samples(draw, CaptionReader(captions), view, stored, workers)
        self._found = progress(found, total=len(draw), desc="features", unit=" images")

    def parts(self, size: int = CHUNK) -> Iterator[Part]:
        """Parts of `size` images; the last one is shorter.

        Raises:
            OneRankError: for stored features that are another model's, or of other captions.
        """
        pictures = self._whole()
        while True:
            found: list[Part] = []
            while some := list(islice(pictures, min(CHUNK, size - sum(len(part.pictures) for part in found)))):
                found.append(self._embedded(some))
            if not found:
                return
            yield joined(found)

    def _whole(self) -> Iterator[DecodedSample[tuple[Any, list[Tensor]]]]:
        for picture in self._found:
            if isinstance(picture, SkippedSample):
                self.left_out.append(picture)
            else:
                yield picture

    def _embedded(self, some: Sequence[DecodedSample[tuple[Any, list[Tensor]]]]) -> Part:
        with torch.random.fork_rng(devices=[]):  # what others draw in between changes nothing
            torch.set_rng_state(self._drawing)
            rows = [draw_captions(picture.row, self.captions) for picture in some]
            self._drawing = torch.get_rng_state()
        with half_on_cuda(self.device):
            features = [
                mining_features(extractor, [picture.image[1][place] for picture in some], rows)
                for place, extractor in enumerate(self.extractors)
            ]
        kept = zip(some, rows, strict=True)
        return Part([picture._replace(row=row, image=picture.image[0]) for picture, row in kept], features)


def joined(parts: Sequence[Part]) -> Part:
    """Some parts, one or more, as one."""
    features = [together(each) for each in zip(*(part.features for part in parts), strict=True)]
    return Part([picture for part in parts for picture in part.pictures], features)


def thumbnail(picture: Image.Image) -> bytes:
    """A small JPEG."""
    small, buffer = picture.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(buffer, "jpeg", quality=QUALITY)
    return buffer.getvalue()
