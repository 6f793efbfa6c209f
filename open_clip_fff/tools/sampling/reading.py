"""Decodes a sample draw and embeds it: images, the captions that training would use, and the features of both."""

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.decoded import DecodedSample, decoded_samples
from open_clip_fff.data.images import open_image, read_image
from open_clip_fff.data.shards import SkippedSample
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.tokens import draw_captions
from open_clip_fff.mining.reference import MiningFeatures
from open_clip_fff.numerics import half_on_cuda
from open_clip_fff.progress import progress
from open_clip_fff.tools.sampling.draw import SampleDraw
from open_clip_fff.tools.sampling.extractors import FeatureExtractor, concatenate_features, mining_features

CHUNK = 64  # images that are embedded at a time
THUMBNAIL, QUALITY = 176, 80  # pixels of the longer side, and JPEG quality


class SampleChunk(NamedTuple):
    """Consecutive images of a sample."""

    samples: list[DecodedSample[Any]]  # keys, shards and captions; `image` is what the reader's `keep` returned
    features: list[MiningFeatures]  # by extractor


class SampleReader:
    """Reads a draw once, without augmentation: its samples that have captions and a readable image.

    Args:
        captions: where captions are, and which of them reach a batch.
        extractors: if one of them reads stored features, samples without these are skipped.
        keep: what to keep of each image; None for nothing, and no decoding where all features are stored.
        seed: of the captions drawn by the policy `sample`.

    `skipped` are the samples so far that were skipped, and why.
    """

    def __init__(
        self,
        draw: SampleDraw,
        captions: CaptionSettings,
        extractors: Sequence[FeatureExtractor],
        device: torch.device,
        keep: Callable[[Image.Image], Any] | None = None,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self.captions, self.extractors, self.device = captions, list(extractors), device
        self.skipped: list[SkippedSample] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._rng_state = torch.get_rng_state()

        def preprocess(image: Image.Image) -> tuple[Any, list[Tensor]]:
            return keep and keep(image), [extractor.preprocess(image) for extractor in self.extractors]

        stored = next((each.stored for each in self.extractors if each.stored is not None), None)
        # stored features exist only for images that could be decoded
        pixels = keep is not None or any(each.stored is None for each in self.extractors)
        read = read_image if pixels else open_image
        reader, self._damage = CaptionReader(captions), draw.damage
        sidecars = (reader.sidecar, None if stored is None else stored.sidecar)
        draw.sidecars = [sidecar for sidecar in sidecars if sidecar is not None]
        samples = decoded_samples(draw, reader, preprocess, stored, workers, read)
        self._samples = progress(samples, total=len(draw), desc="features", unit=" images")

    def chunks(self, size: int = CHUNK) -> Iterator[SampleChunk]:
        """Chunks of images. Raises OneRankError for stored features of another model or of other captions."""
        samples = self._readable()
        while True:
            parts: list[SampleChunk] = []
            while some := list(islice(samples, min(CHUNK, size - sum(len(part.samples) for part in parts)))):
                parts.append(self._embed(some))
            if not parts:
                return
            yield concatenate(parts)

    def _readable(self) -> Iterator[DecodedSample[tuple[Any, list[Tensor]]]]:
        for sample in self._samples:
            if isinstance(sample, SkippedSample):
                self.skipped.append(sample)
            else:
                self._damage += [sample.damage] if sample.damage else []
                yield sample

    def _embed(self, some: Sequence[DecodedSample[tuple[Any, list[Tensor]]]]) -> SampleChunk:
        with torch.random.fork_rng(devices=[]):  # independent of the random numbers that others draw in between
            torch.set_rng_state(self._rng_state)
            rows = [draw_captions(sample.row, self.captions) for sample in some]
            self._rng_state = torch.get_rng_state()
        with half_on_cuda(self.device):
            features = [
                mining_features(extractor, [sample.image[1][number] for sample in some], rows)
                for number, extractor in enumerate(self.extractors)
            ]
        kept = zip(some, rows, strict=True)
        return SampleChunk([sample._replace(row=row, image=sample.image[0]) for sample, row in kept], features)


def concatenate(chunks: Sequence[SampleChunk]) -> SampleChunk:
    """One or more chunks as one."""
    features = [concatenate_features(each) for each in zip(*(chunk.features for chunk in chunks), strict=True)]
    return SampleChunk([sample for chunk in chunks for sample in chunk.samples], features)


def thumbnail(image: Image.Image) -> bytes:
    """A small JPEG."""
    small, buffer = image.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(buffer, "jpeg", quality=QUALITY)
    return buffer.getvalue()
