"""Image-caption pairs of shards, for training and for measuring on held-out images."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.filters import _shuffle

from open_clip_fff.data.caption_rows import CaptionRow
from open_clip_fff.data.decoded import decoded
from open_clip_fff.data.shards import as_usage_errors, id_of, read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError, reason

BUFFER = 1_000  # undecoded samples in the shuffle buffer
_PARTS = 10_000

ImageTransform = Callable[[Image.Image], Tensor]


class ImagePair(NamedTuple):
    """An image [3, H, W], one of its captions, and the image's id."""

    pixels: Tensor
    caption: str
    id: int


def held_out(image_id: int, share: float) -> bool:
    """Whether an image is excluded from training: by its id alone, so the same in every run."""
    return image_id % _PARTS < share * _PARTS


def decode(sample: dict, row: CaptionRow, transform: ImageTransform, draw: random.Random) -> ImagePair | None:
    """A sample's image and a random caption; None without a caption or a readable image."""
    pixels = decoded(sample, transform) if row.captions else None
    return ImagePair(pixels, draw.choice(row.captions), row.id) if isinstance(pixels, Tensor) else None


def held_out_pairs(
    urls: Sequence[str], reader: CaptionReader, transform: ImageTransform, share: float, limit: int
) -> tuple[list[ImagePair], int]:
    """The first `limit` held-out pairs, and how many other images with captions were seen; reads on for at least one.

    Raises UsageError for a shard that cannot be read.
    """
    found, others = list[ImagePair](), 0
    for url in urls:
        for sample in as_usage_errors(read_samples([url]), f"--train-data: {url}"):
            row = reader.row(sample)
            if not held_out(row.id, share):
                others += bool(row.captions)
            elif len(found) < limit and (pair := decode(sample, row, transform, random.Random(row.id))):
                found.append(pair)
            if others and len(found) == limit:
                return found, others
    return found, others


class TrainingPairs(IterableDataset):
    """Pairs that are not held out, endlessly, with a random caption at each visit.

    The shards have another order at each pass, and are divided among the loader's workers; `transform` augments,
    `share` is that of held-out images.
    """

    def __init__(
        self, urls: Sequence[str], reader: CaptionReader, transform: ImageTransform, share: float, seed: int
    ) -> None:
        self.urls, self.reader, self.transform, self.share, self.seed = list(urls), reader, transform, share, seed

    def __iter__(self) -> Iterator[ImagePair]:
        """Raises UsageError if a whole pass finds no pair."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for epoch in count():
            draw = random.Random(f"{self.seed} {epoch} {worker}")
            some = False
            for part in ((worker, workers), (0, 1)):  # if a worker's own shards have no pair, it reads all
                for sample, row in _shuffle(self._samples(epoch, *part), BUFFER, BUFFER, draw):
                    if pair := decode(sample, row, self.transform, draw):
                        some = True
                        yield pair
                if some:
                    break
            else:
                raise UsageError("--train-data: a whole pass over the shards found no image with a caption to train on")

    def _samples(self, epoch: int, worker: int, workers: int) -> Iterator[tuple[dict, CaptionRow]]:
        """Undecoded samples with captions, read here shard by shard: a reader keeps one sidecar in memory."""
        urls = random.Random(f"{self.seed} {epoch}").sample(self.urls, len(self.urls))
        # with fewer shards than workers, each worker reads all and takes its share of the samples
        split = len(urls) >= workers
        for url in urls[worker::workers] if split else urls:
            told = epoch > 0  # damaged captions are reported in the first pass alone
            try:
                for place, sample in enumerate(read_samples([url])):
                    if (split or place % workers == worker) and not held_out(id_of(sample), self.share):
                        found, damage = self.reader.read(sample)
                        if damage and not told:
                            logging.warning(f"--train-data: {damage[0]}; its captions are left out")
                            told = True
                        yield sample, self.reader.named_row(sample, found)
            except Exception as error:  # a damaged shard costs its rest, not the training
                logging.warning(f"--train-data: {url} cannot be read to its end ({reason(error)})")
