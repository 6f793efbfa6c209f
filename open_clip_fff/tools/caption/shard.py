"""The captions of one shard, deterministic for the seed and the shard's name, and its file."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import torch

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.decoded import decoded
from open_clip_fff.data.ids import text_hash
from open_clip_fff.data.prefetch import prefetch_map
from open_clip_fff.data.shards import SkippedSample, as_usage_errors, read_samples
from open_clip_fff.data.sources import CaptionReader, fields_or_none
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.tools.caption.captioner import Captioner, GeneratedTexts
from open_clip_fff.tools.caption.cleaning import add_clean
from open_clip_fff.tools.caption.decoding import Decoding
from open_clip_fff.tools.shards.folder import ShardRecord
from open_clip_fff.tools.shards.per_sample import usable_batches, write_copy, write_sidecar
from open_clip_fff.tools.shards.tars import as_json, check_torn, samples_to_copy

SIDECAR_COLUMN = "captions"  # of a sidecar, lists of strings
METADATA = b"captioning"  # of a sidecar: the settings as json
NO_JSON = "json cannot be read"
WITH_RAW = "images with a raw caption"  # a count of records
RAW_TEXTS = CaptionReader(CaptionSettings())


class PreparedSample(NamedTuple):
    """A sample's key, its image as `Captioner.prepare` returns it, and whether it has a raw caption."""

    key: str
    image: Any
    raw: bool


@dataclass(frozen=True)
class ShardCaptioner:
    """Captions a shard in batches, seeded per shard, and writes them into a parquet or a copy of the shard."""

    captioner: Captioner  # on its device
    decoding: Decoding  # how captions are generated
    batch_size: int  # images at a time
    workers: int  # threads that decode images
    seed: int  # of the random numbers, combined with the shard's base name
    field: str | None  # of the tars' json that captions go into; None for sidecars
    overwrite: bool  # whether a sample may have that field already
    settings: Mapping[str, object]  # kept in sidecars; the model's name is one

    def write(self, url: str, file: BinaryIO, tick: Callable[[int], None]) -> ShardRecord:
        """Captions a shard and writes its file; `tick` gets the numbers of samples that are done.

        Of tars, a sample without new captions loses the field, and one with an unreadable json is copied unchanged.
        Raises as `captions` and `check_torn`.
        """
        check_torn("--train-data", url)
        record = ShardRecord(url, most=0)
        captions = self.captions(url, record, tick)
        if self.field is None:
            metadata = {METADATA: json.dumps(self.settings, ensure_ascii=False).encode()}
            write_sidecar(file, captions, pa.field(SIDECAR_COLUMN, pa.list_(pa.string())), metadata)
        else:
            write_copy(url, file, captions, partial(with_captions, field=self.field))
        return record

    def captions(self, url: str, record: ShardRecord, tick: Callable[[int], None]) -> Iterator[tuple[str, list[str]]]:
        """Key and captions of samples that have any; `record` counts all, and lists the others.

        Raises UsageError if the shard cannot be read, a sample has the field and may not, or the model fails.
        """
        torch.manual_seed(text_hash(f"{PurePosixPath(url).name}/seed {self.seed}"))
        read = read_samples([url]) if self.field is None else samples_to_copy(url, record)
        samples = as_usage_errors(prefetch_map(self._prepared_sample, read, self.workers), url)
        for prepared in usable_batches(samples, self.batch_size, record, tick):
            yield from self._captioned(prepared, record)

    def _prepared_sample(self, sample: dict) -> PreparedSample | SkippedSample:
        key = str(sample["__key__"])
        if self.field is not None and (why := refuse_taken(sample, self.field, self.overwrite)):
            return SkippedSample(key, why)
        image: Any = decoded(sample, self.captioner.prepare)
        if isinstance(image, SkippedSample):
            return image
        return PreparedSample(key, image, any(RAW_TEXTS.read(sample).found.values()))

    def _captioned(self, prepared: list[PreparedSample], record: ShardRecord) -> Iterator[tuple[str, list[str]]]:
        """As `captions`, for one batch; images with fewer than K captions take part in further `decoding.rounds`."""
        most = self.decoding.captions
        captions: list[list[str]] = [[] for _ in prepared]
        refused: dict[int, str] = {}
        record.counts.update(images=0, captions=0)  # these are printed first
        if raw := sum(sample.raw for sample in prepared):
            record.counts[WITH_RAW] += raw
        short = list(range(len(prepared)))
        for _ in range(self.decoding.rounds):
            generated = self._generated([prepared[index].image for index in short])
            for index, found in zip(short, generated, strict=True):
                if isinstance(found, str):
                    refused[index] = found
                    continue
                captions[index], dropped = add_clean(captions[index], found.texts, most)
                record.counts.update(dropped)
                if found.unfinished:
                    stopped = f"generated texts stopped at {self.decoding.max_new_tokens} tokens"
                    record.counts[stopped] += found.unfinished
            short = [index for index in short if index not in refused and len(captions[index]) < most]
        images = sum(bool(texts) or index not in refused for index, texts in enumerate(captions))
        record.counts.update(images=images, captions=sum(map(len, captions)))
        numbers = (len(texts) + sample.raw for texts, sample in zip(captions, prepared, strict=True))
        record.most = max([record.most or 0, *numbers])
        if short:
            record.counts[f"images with fewer than {most}"] += len(short)
        for index, (key, _, _) in enumerate(prepared):
            if captions[index]:
                yield key, captions[index]
            else:
                record.leave_out(key, refused.get(index, "no usable caption"))

    def _generated(self, images: list[Any]) -> list[GeneratedTexts | str]:
        """The texts of each image, or why the model cannot take the image.

        Raises UsageError if the model cannot take a grey image, either: then the fault is not the image's.
        """
        try:
            return list(self.captioner.generate(images, self.decoding))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # processors and models raise various
            if len(images) > 1:
                half = len(images) // 2
                return self._generated(images[:half]) + self._generated(images[half:])
            self.captioner.check(self.decoding, f"--model {self.settings['model']}")
            return [f"the model cannot take it ({reason(error)})"]


def with_captions(members: Mapping[str, bytes], texts: list[str] | None, field: str) -> dict[str, bytes]:
    """The member json with captions in a field, which is created if missing; none where nothing changes."""
    fields = fields_or_none(members.get("json"))
    if fields is None or not (texts or field in fields):
        return {}
    fields.pop(field, None)
    return {"json": as_json(fields | ({field: texts} if texts else {}))}


def refuse_taken(sample: Mapping[str, Any], field: str, overwrite: bool) -> str | None:
    """Why a sample cannot get the field; None if it can. Raises UsageError if it has one, and `overwrite` is off."""
    fields = fields_or_none(sample.get("json"))
    if fields is not None and field in fields and not overwrite:
        raise UsageError(
            f"--field {field}: {sample['__url__']}: the json of {sample['__key__']} has one already; name another, or "
            "add --overwrite"
        )
    return NO_JSON if fields is None else None
