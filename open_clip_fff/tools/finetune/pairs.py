"""Image-caption pairs of shards, for training a discriminator and for measuring it on those held out."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.data.decoded import decoded
from open_clip_fff.data.shards import as_usage_errors, id_of, read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError, reason

BUFFER = 1_000  # undecoded samples among which the next is drawn
_PARTS = 10_000

Picture = Callable[[Image.Image], Tensor]


class Pair(NamedTuple):
    """An image [3, H, W], one of its captions, and the image's id."""

    pixels: Tensor
    caption: str
    id: int


def held_out(image_id: int, share: float) -> bool:
    """Whether an image is kept from training: by its id alone, so the same ones in every run."""
    return image_id % _PARTS < share * _PARTS


def decode(sample: dict, row: CaptionRow, picture: Picture, draw: random.Random) -> Pair | None:
    """The pair of a sample and one of its captions; None for no caption, or no image that can be read."""
    pixels = decoded(sample, picture) if row.captions else None
    return Pair(pixels, draw.choice(row.captions), row.id) if isinstance(pixels, Tensor) else None


def held_out_pairs(
    urls: Sequence[str], reader: CaptionReader, picture: Picture, share: float, limit: int
) -> tuple[list[Pair], int]:
    """The first `limit` pairs that are held out, and how many others with captions were passed over.

    Raises:
        UsageError: for a shard that cannot be read.
    """
    found, others = [], 0
    for url in urls:
        for sample in as_usage_errors(read_samples([url]), f"--train-data: {url}"):
            row = reader.row(sample)
            if not held_out(row.id, share):
                others += bool(row.captions)
            elif pair := decode(sample, row, picture, random.Random(row.id)):
                found.append(pair)
                if len(found) == limit:
                    return found, others
    return found, others


class TrainingPairs(IterableDataset):
    """Pairs that are not held out, over and over without an end; a caption is drawn anew at each visit.

    Args:
        urls: the shards, in another order at each pass, and shared out to the loader's workers.
        reader: finds the captions.
        picture: from a picture to what the model looks at, with augmentation.
        share: of the images that are held out.
        seed: of orders and captions.
    """

    def __init__(self, urls: Sequence[str], reader: CaptionReader, picture: Picture, share: float, seed: int) -> None:
        self.urls, self.reader, self.picture, self.share, self.seed = list(urls), reader, picture, share, seed

    def __iter__(self) -> Iterator[Pair]:
        """Raises UsageError if a whole pass finds no pair."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for epoch in count():
            draw = random.Random(f"{self.seed} {epoch} {worker}")
            some = False
            for sample in _shuffled(self._samples(epoch, worker, workers), draw):
                if pair := decode(sample, self.reader.row(sample), self.picture, draw):
                    some = True
                    yield pair
            if not some:
                raise UsageError("--train-data: a whole pass over the shards found no image with a caption to train on")

    def _samples(self, epoch: int, worker: int, workers: int) -> Iterator[dict]:
        urls = random.Random(f"{self.seed} {epoch}").sample(self.urls, len(self.urls))
        # where there are fewer shards than workers, all read all of them and each takes its share of the samples
        split = len(urls) >= workers
        for url in urls[worker::workers] if split else urls:
            try:
                for place, sample in enumerate(read_samples([url])):
                    if (split or place % workers == worker) and not held_out(id_of(sample), self.share):
                        yield sample
            except Exception as error:  # a shard that is damaged in its midst costs its rest, and not the training
                logging.warning(f"--train-data: {url} cannot be read to its end ({reason(error)})")


def _shuffled(samples: Iterator[dict], draw: random.Random) -> Iterator[dict]:
    """The same samples, each drawn from a buffer."""
    buffer: list[dict] = []
    for sample in samples:
        buffer.append(sample)
        if len(buffer) > BUFFER:
            place = draw.randrange(len(buffer))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            yield buffer.pop()
    draw.shuffle(buffer)
    yield from buffer
