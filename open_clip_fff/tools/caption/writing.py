"""Writes captions to a parquet file per shard, or to a copy of the shard."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from open_clip_fff.data.shards import as_usage_errors
from open_clip_fff.data.sidecar import KEY
from open_clip_fff.data.sources import fields_or_none
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.shards.tars import members, samples_to_copy, tar_writer

COLUMN = "captions"
METADATA = b"captioning"  # of the parquet: the settings as json
NO_JSON = "json cannot be read"


def write_sidecar(file: BinaryIO, captions: Iterable[tuple[str, list[str]]], settings: Mapping[str, object]) -> None:
    """Columns `key` (string) and `captions` (list of strings), with the settings in the metadata."""
    rows = list(captions)
    columns = {
        KEY: pa.array([key for key, _ in rows], pa.string()),
        COLUMN: pa.array([texts for _, texts in rows], pa.list_(pa.string())),
    }
    metadata = {METADATA: json.dumps(settings, ensure_ascii=False).encode()}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), file)


def write_tar(url: str, file: BinaryIO, captions: Iterable[tuple[str, list[str]]], field: str) -> None:
    """All samples of the shard, with their captions in a field of their json, which is created if missing.

    A sample without new captions loses the field, one with an unreadable json is copied unchanged, and one whose name
    leaves the folder is left out.

    Raises UsageError if the shard cannot be read.
    """
    new = dict(captions)
    with tar_writer(file) as tar:
        for sample in as_usage_errors(samples_to_copy(url), url):
            key, held = str(sample["__key__"]), members(sample)
            texts = new.pop(key, None)  # a repeated key's captions are the first sample's
            fields = fields_or_none(held.get("json"))
            if fields is not None and (texts or field in fields):
                fields.pop(field, None)
                held["json"] = json.dumps(fields | ({field: texts} if texts else {}), ensure_ascii=False).encode()
            tar.write({"__key__": key, **held})


def refuse_taken(sample: Mapping[str, Any], field: str, overwrite: bool) -> str | None:
    """Why a sample cannot get the field; None if it can. Raises UsageError if it has one, and `overwrite` is off."""
    fields = fields_or_none(sample.get("json"))
    if fields is not None and field in fields and not overwrite:
        raise UsageError(
            f"--field {field}: {sample['__url__']}: the json of {sample['__key__']} has one already; name another, or "
            "add --overwrite"
        )
    return NO_JSON if fields is None else None
