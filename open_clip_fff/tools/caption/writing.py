"""Where captions go: a parquet beside the shard, or the shard again."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from open_clip_fff.data.shards import as_usage_errors, read_samples
from open_clip_fff.data.sidecar import KEY
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.shards.tars import members, tar_writer

COLUMN = "captions"
TOLD = b"captioning"  # the parquet's metadata of this name: the settings, as json
NO_JSON = "json cannot be read"


def write_sidecar(file: BinaryIO, captions: Iterable[tuple[str, list[str]]], settings: Mapping[str, object]) -> None:
    """The columns `key` (string) and `captions` (list of strings), with the settings in the metadata."""
    rows = list(captions)
    columns = {
        KEY: pa.array([key for key, _ in rows], pa.string()),
        COLUMN: pa.array([texts for _, texts in rows], pa.list_(pa.string())),
    }
    told = {TOLD: json.dumps(settings, ensure_ascii=False).encode()}
    pq.write_table(pa.table(columns).replace_schema_metadata(told), file)


def write_tar(url: str, file: BinaryIO, captions: Iterable[tuple[str, list[str]]], field: str) -> None:
    """All samples of the shard, those that have captions with the field in their json, which is made where none is.

    A sample without new captions stays as it is, without the field if it was there, and whole where its json cannot be
    read.

    Raises:
        UsageError: if the shard cannot be read.
    """
    new = dict(captions)
    with tar_writer(file) as tar:
        for sample in as_usage_errors(read_samples([url]), url):
            kept = members(sample)
            texts = new.pop(str(sample["__key__"]), None)  # of a key that is there twice, it is the first's
            fields = fields_of(sample)
            if fields is not None and (texts or field in fields):
                fields.pop(field, None)
                kept["json"] = json.dumps(fields | ({field: texts} if texts else {}), ensure_ascii=False).encode()
            tar.write(kept)


def fields_of(sample: Mapping[str, Any]) -> dict[str, Any] | None:
    """The member json, empty where there is none; None for what is no object of named fields."""
    try:
        fields = json.loads(sample.get("json", b"{}"))
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def refuse_taken(sample: Mapping[str, Any], field: str, overwrite: bool) -> str | None:
    """Why a sample cannot get the field, None where it can.

    Raises:
        UsageError: if it has one already, which is not to be overwritten.
    """
    fields = fields_of(sample)
    if fields is not None and field in fields and not overwrite:
        raise UsageError(
            f"--field {field}: {sample['__url__']}: the json of {sample['__key__']} has one already; name another, or "
            "add --overwrite"
        )
    return NO_JSON if fields is None else None
