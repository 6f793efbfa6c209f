"""The captions of one shard: the same bytes whichever process makes them, and whenever."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import torch
from PIL import Image

from open_clip_fff.data.decoded import decoded
from open_clip_fff.data.ids import name_hash
from open_clip_fff.data.prefetch import prefetch_map
from open_clip_fff.data.shards import SkippedSample, as_usage_errors, read_samples
from open_clip_fff.tools.caption.captioner import Captioner
from open_clip_fff.tools.caption.cleaning import add_clean
from open_clip_fff.tools.caption.decoding import Decoding
from open_clip_fff.tools.shards.folder import ShardRecord


class Waiting(NamedTuple):
    """A sample whose image waits for its batch."""

    key: str
    image: Any


@dataclass(frozen=True)
class ShardCaptioner:
    """Goes through a shard in batches of its own, with random numbers that begin anew.

    Attributes:
        captioner: on its device.
        decoding: how many captions, and how they are drawn.
        batch_size: images at a time.
        workers: threads that decode images.
        seed: of the random numbers, with the shard's base name.
        passes: why a sample is passed over, in a few words, None where it is not; may raise UsageError.
    """

    captioner: Captioner
    decoding: Decoding
    batch_size: int
    workers: int
    seed: int
    passes: Callable[[dict], str | None] = lambda sample: None

    def captions(self, url: str, record: ShardRecord, tick: Callable[[int], None]) -> Iterator[tuple[str, list[str]]]:
        """Key and captions of the samples that get any; `record` counts, and lists the others.

        Raises:
            UsageError: if the shard cannot be read.
        """
        torch.manual_seed(name_hash(f"{PurePosixPath(url).name}/seed {self.seed}"))
        keys: set[str] = set()
        samples = as_usage_errors(prefetch_map(self._waiting, read_samples([url]), self.workers), url)
        while some := list(islice(samples, self.batch_size)):
            waiting: list[Waiting] = []
            for sample in some:
                if isinstance(sample, SkippedSample):
                    record.leave_out(*sample)
                elif sample.key in keys:
                    record.leave_out(sample.key, "its key was there before")
                else:
                    keys.add(sample.key)
                    waiting.append(sample)
            record.counts.update(images=len(waiting), captions=0)
            captioned = self._captioned([image for _, image in waiting], record)
            for (key, _), captions in zip(waiting, captioned, strict=True):
                if captions:
                    yield key, captions
                else:
                    record.leave_out(key, "no usable caption")
            tick(len(some))

    def _waiting(self, sample: dict) -> Waiting | SkippedSample:
        key = str(sample["__key__"])
        if why := self.passes(sample):
            return SkippedSample(key, why)
        image: Any = decoded(sample, self._prepared)
        return image if isinstance(image, SkippedSample) else Waiting(key, image)

    def _prepared(self, image: Image.Image) -> Any:
        return self.captioner.prepare(image)

    def _captioned(self, images: list[Any], record: ShardRecord) -> list[list[str]]:
        """Up to K captions of each image; those that have fewer are captioned again, a bounded number of times."""
        most = self.decoding.captions
        captions: list[list[str]] = [[] for _ in images]
        short = list(range(len(images)))
        for _ in range(self.decoding.rounds):
            said = self.captioner.say([images[place] for place in short], self.decoding)
            for place, (texts, unfinished) in zip(short, said, strict=True):
                captions[place], dropped = add_clean(captions[place], texts, most)
                record.counts.update(dropped)
                if unfinished:
                    record.counts[f"captions stopped at {self.decoding.max_new_tokens} tokens"] += unfinished
            short = [place for place in short if len(captions[place]) < most]
        record.counts.update(captions=sum(map(len, captions)))
        if short:
            record.counts[f"images with fewer than {most}"] += len(short)
        return captions
