"""The captions of one shard, deterministic for the seed and the shard's name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import torch

from open_clip_fff.data.decoded import decoded
from open_clip_fff.data.ids import text_hash
from open_clip_fff.data.prefetch import prefetch_map
from open_clip_fff.data.shards import SkippedSample, as_usage_errors, read_samples
from open_clip_fff.tools.caption.captioner import Captioner
from open_clip_fff.tools.caption.cleaning import add_clean
from open_clip_fff.tools.caption.decoding import Decoding
from open_clip_fff.tools.caption.writing import refuse_taken
from open_clip_fff.tools.shards.batches import usable_batches
from open_clip_fff.tools.shards.folder import ShardRecord
from open_clip_fff.tools.shards.tars import samples_to_copy


class PreparedSample(NamedTuple):
    """A sample's key and its image as `Captioner.prepare` returns it."""

    key: str
    image: Any


@dataclass(frozen=True)
class ShardCaptioner:
    """Captions a shard in batches, seeded per shard."""

    captioner: Captioner  # on its device
    decoding: Decoding  # how captions are generated
    batch_size: int  # images at a time
    workers: int  # threads that decode images
    seed: int  # of the random numbers, combined with the shard's base name
    field: str | None  # of the tars' json that captions go into; None for sidecars
    overwrite: bool  # whether a sample may have that field already

    def captions(self, url: str, record: ShardRecord, tick: Callable[[int], None]) -> Iterator[tuple[str, list[str]]]:
        """Key and captions of samples with any; `record` counts, and lists the others.

        Raises UsageError if the shard cannot be read, or a sample has the field and may not.
        """
        torch.manual_seed(text_hash(f"{PurePosixPath(url).name}/seed {self.seed}"))
        read = read_samples([url]) if self.field is None else samples_to_copy(url, record)
        samples = as_usage_errors(prefetch_map(self._prepared_sample, read, self.workers), url)
        for prepared in usable_batches(samples, self.batch_size, record, tick):
            record.counts.update(images=len(prepared), captions=0)
            captioned = self._captioned([image for _, image in prepared], record)
            for (key, _), captions in zip(prepared, captioned, strict=True):
                if captions:
                    yield key, captions
                else:
                    record.leave_out(key, "no usable caption")

    def _prepared_sample(self, sample: dict) -> PreparedSample | SkippedSample:
        key = str(sample["__key__"])
        if self.field is not None and (why := refuse_taken(sample, self.field, self.overwrite)):
            return SkippedSample(key, why)
        image: Any = decoded(sample, self.captioner.prepare)
        return image if isinstance(image, SkippedSample) else PreparedSample(key, image)

    def _captioned(self, images: list[Any], record: ShardRecord) -> list[list[str]]:
        """Up to K captions of each image; images with fewer are captioned again for at most `decoding.rounds`."""
        most = self.decoding.captions
        captions: list[list[str]] = [[] for _ in images]
        short = list(range(len(images)))
        for _ in range(self.decoding.rounds):
            generated = self.captioner.generate([images[index] for index in short], self.decoding)
            for index, (texts, unfinished) in zip(short, generated, strict=True):
                captions[index], dropped = add_clean(captions[index], texts, most)
                record.counts.update(dropped)
                if unfinished:
                    record.counts[f"captions stopped at {self.decoding.max_new_tokens} tokens"] += unfinished
            short = [index for index in short if len(captions[index]) < most]
        record.counts.update(captions=sum(map(len, captions)))
        if short:
            record.counts[f"images with fewer than {most}"] += len(short)
        return captions
