"""Makes one shard of what a source has, and reads it back."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from webdataset.tariterators import group_by_keys

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.prefetch import prefetch_map
from open_clip_fff.data.shards import SkippedSample
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.tars import tar_files
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.image_file import finish
from open_clip_fff.tools.pack.items import SkipSample
from open_clip_fff.tools.pack.settings import ImageSettings
from open_clip_fff.tools.pack.source import SampleSource
from open_clip_fff.tools.shards.folder import ShardRecord
from open_clip_fff.tools.shards.tars import OUTSIDE, leaves_folder, members, tar_writer

T = TypeVar("T")

IMAGES, RAW, MORE, NONE = "images", "raw captions", "captions in json", "without a caption"
AGAIN = "repeated captions left away"
ANEW, JOINED, ROWS = "images written anew", "with captions joined", "rows joined"


class PackedSample(NamedTuple):
    """A sample as it is written, and the counts that it adds."""

    key: str
    members: dict[str, bytes]
    counts: dict[str, int]


def packed(found: tuple[str, T], source: SampleSource[T], pictures: ImageSettings) -> PackedSample | SkippedSample:
    """One sample, given its key and makings."""
    key, makings = found
    try:
        item = source.item(makings)
        if leaves_folder({"__key__": item.key, **item.members}):
            raise SkipSample(OUTSIDE)
        picture = finish(read_image_file(item.image), pictures)
    except SkipSample as why:
        return SkippedSample(key, str(why))
    name = picture.extension if picture.anew or not item.name else item.name
    counts = {IMAGES: 1, RAW: item.raw, MORE: item.more, AGAIN: item.again, NONE: not (item.raw or item.more)}
    counts |= {ANEW: picture.anew, JOINED: item.joined > 0, ROWS: item.joined}
    return PackedSample(item.key, {**item.members, name: picture.content}, counts)


def write_shard(
    shard: str,
    file: BinaryIO,
    source: SampleSource[T],
    pictures: ImageSettings,
    workers: int,
    tick: Callable[[int], None],
) -> ShardRecord:
    """Writes one shard, and compares what can be read of it with what went in.

    Args:
        shard: what it is made of.
        file: open for reading, too.
        source: of samples.
        pictures: what is done to images.
        workers: threads that read and decode.
        tick: called with the number of samples that are through.

    Raises:
        UsageError: if the source cannot be read, or what was written does not hold what went in.
    """
    record, went = ShardRecord(shard), ShardDigest()
    with tar_writer(file) as tar:
        for made in prefetch_map(lambda found: packed(found, source, pictures), source.samples(shard), workers):
            tick(1)
            if isinstance(made, SkippedSample):
                record.left_out.append(made)
                continue
            tar.write({"__key__": made.key, **made.members})
            went.add(made.key, made.members, made.counts[RAW] + made.counts[MORE])
            record.counts.update(made.counts)
    record.counts = Counter({name: number for name, number in record.counts.items() if number or name == IMAGES})
    check_written(file, went, source.json_keys)
    return record


class ShardDigest:
    """What a shard holds, told by numbers: samples, captions, and a hash over keys, members' names and their bytes."""

    def __init__(self) -> None:
        self.samples = self.captions = 0
        self._hash = hashlib.blake2b()

    def add(self, key: str, beside: Mapping[str, bytes], captions: int) -> None:
        """One more sample, its members by extension."""
        self.samples, self.captions = self.samples + 1, self.captions + captions
        said = [(name, hashlib.blake2b(beside[name]).hexdigest()) for name in sorted(beside)]
        self._hash.update(repr((key, said)).encode(errors="surrogatepass"))

    @property
    def told(self) -> tuple[int, int, str]:
        """Samples, captions, hash."""
        return self.samples, self.captions, self._hash.hexdigest()


def check_written(file: BinaryIO, went: ShardDigest, json_keys: tuple[str, ...]) -> None:
    """Reads a tar as training does, and compares.

    Raises:
        UsageError: if it holds anything else than what went in.
    """
    reader, came = CaptionReader(CaptionSettings(json_keys=json_keys)), ShardDigest()
    try:
        for sample in _samples_in(file):
            beside = {name: member for name, member in members(sample).items() if isinstance(member, bytes)}
            came.add(sample["__key__"], beside, sum(map(len, reader.read(sample).found.values())))
    except Exception as error:  # whatever webdataset and tarfile raise
        raise UsageError(f"what was written cannot be read ({reason(error)}); is the disk well?") from error
    if came.told != went.told:
        raise UsageError(
            f"what was written holds {plural(came.samples, 'samples')} with {plural(came.captions, 'captions')} where "
            f"{went.samples} with {went.captions} went in, or other bytes; is the disk well?"
        )


def _samples_in(file: BinaryIO) -> Iterator[dict[str, Any]]:
    file.flush()
    with os.fdopen(os.dup(file.fileno()), "rb") as again:
        again.seek(0)
        yield from group_by_keys(tar_files([{"url": "written", "stream": again}]))


def read_image_file(image: bytes | Path) -> bytes:
    """Raises SkipSample for a file that cannot be read."""
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except FileNotFoundError as error:
        raise SkipSample("image file is not there") from error
    except (OSError, ValueError) as error:
        raise SkipSample("image file cannot be read") from error
