"""Writes one shard, and reads it back."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

from webdataset.tariterators import group_by_keys

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.prefetch import prefetch_map
from open_clip_fff.data.shards import SkippedSample
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.tars import tar_files
from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.items import SkipSample, image_content, prepare_image
from open_clip_fff.tools.pack.settings import ImageSettings
from open_clip_fff.tools.pack.source import SampleSource
from open_clip_fff.tools.shards.folder import ShardRecord
from open_clip_fff.tools.shards.tars import OUTSIDE, leaves_folder, members, tar_writer

PACKED_IMAGES, PACKED_RAW, PACKED_JSON, WITHOUT_CAPTION = (
    "images",
    "raw captions",
    "captions in json",
    "without a caption",
)
REPEATED = "repeated captions left away"
REENCODED, JOINED, JOINED_ROWS = "images written anew", "with captions joined", "rows joined"


class PackedSample(NamedTuple):
    """A sample as it is written, and the counts that it adds."""

    key: str
    members: dict[str, bytes]
    counts: dict[str, int]


def pack_sample(found: tuple[str, Any], source: SampleSource, settings: ImageSettings) -> PackedSample | SkippedSample:
    """Makes one sample of its key and content in the source."""
    key, content = found
    try:
        item = source.item(content)
        if leaves_folder({"__key__": item.key, **item.members}):
            raise SkipSample(OUTSIDE)
        image = prepare_image(image_content(item.image), settings)
    except SkipSample as why:
        return SkippedSample(key, str(why))
    name = image.extension if image.reencoded or not item.name else item.name
    counts = {
        PACKED_IMAGES: 1,
        PACKED_RAW: item.raw,
        PACKED_JSON: item.more,
        REPEATED: item.repeated,
        WITHOUT_CAPTION: not (item.raw or item.more),
    }
    counts |= {REENCODED: image.reencoded, JOINED: item.joined > 0, JOINED_ROWS: item.joined}
    return PackedSample(item.key, {**item.members, name: image.content}, counts)


def write_shard(
    shard: str, file: BinaryIO, tick: Callable[[int], None], source: SampleSource, settings: ImageSettings, workers: int
) -> ShardRecord:
    """Writes one shard, reads it back and compares; calls `tick` with the number of finished samples.

    Raises UsageError if the source cannot be read, or the file does not hold what was written.
    """
    record, written = ShardRecord(shard), ShardDigest()
    with tar_writer(file) as tar:
        for made in prefetch_map(lambda found: pack_sample(found, source, settings), source.samples(shard), workers):
            tick(1)
            if isinstance(made, SkippedSample):
                record.left_out.append(made)
                continue
            tar.write({"__key__": made.key, **made.members})
            written.add(made.key, made.members, made.counts[PACKED_RAW] + made.counts[PACKED_JSON])
            record.counts.update(made.counts)
    record.counts = Counter({name: number for name, number in record.counts.items() if number or name == PACKED_IMAGES})
    check_written(file, written, source.json_keys)
    return record


class ShardDigest:
    """What a shard holds: samples, captions, and a hash of keys, members' names and their bytes."""

    def __init__(self) -> None:
        self.samples = self.captions = 0
        self._hash = hashlib.blake2b()

    def add(self, key: str, members: Mapping[str, bytes], captions: int) -> None:
        """Adds a sample."""
        self.samples, self.captions = self.samples + 1, self.captions + captions
        for name in sorted(members):
            self._hash.update(repr((key, name, len(members[name]))).encode(errors="surrogatepass"))
            self._hash.update(members[name])

    @property
    def value(self) -> tuple[int, int, str]:
        """Samples, captions, hash."""
        return self.samples, self.captions, self._hash.hexdigest()


def check_written(file: BinaryIO, written: ShardDigest, json_keys: tuple[str, ...]) -> None:
    """Reads a tar as training does. Raises UsageError if it differs from what was written."""
    reader, read = CaptionReader(CaptionSettings(json_keys=json_keys)), ShardDigest()
    fix = "is the disk damaged?"
    with as_mistake("what was written cannot be read", Exception, fix=fix):  # anything that webdataset raises
        file.flush()
        with os.fdopen(os.dup(file.fileno()), "rb") as stream:
            stream.seek(0)
            for sample in group_by_keys(tar_files([{"url": "written", "stream": stream}])):
                read.add(sample["__key__"], members(sample), sum(map(len, reader.read(sample).found.values())))
    if read.value != written.value:
        raise UsageError(
            f"what was written holds {plural(read.samples, 'samples')} with {plural(read.captions, 'captions')} where "
            f"{written.samples} with {written.captions} went in, or other bytes; {fix}"
        )
