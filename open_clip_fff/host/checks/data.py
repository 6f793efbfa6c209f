"""Checks that the data files given by flags exist and can be read together."""

import argparse
import os

from open_clip_train.data import get_dataset_size

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.plan import Plan
from open_clip_fff.data.data_sets import BETWEEN, SCHEME, check_files, dataset_kind, expand_shards, parquet_name
from open_clip_fff.data.row_counts import row_counts
from open_clip_fff.data.sidecar import NO_CAPTIONS
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.table_columns import column_names, read_table, read_with
from open_clip_fff.data.training_data import feature_reader, val_captions
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.plural import plural


def check_data(args: argparse.Namespace, plan: Plan) -> None:
    """Raises UsageError for the first data file that is missing or cannot be read together with the others."""
    if args.dataset_type == "synthetic":
        return
    for flag, value in (("--train-data", args.train_data), ("--val-data", args.val_data)):
        if value:
            kind = dataset_kind(args, flag)
            check_files(flag, expand_shards(value, flag))
            if kind == "csv" and not plan.given:
                _check_stock_columns(args, value)
    if args.train_data:
        _check_formats(args)
    if args.train_data and dataset_kind(args) == "webdataset":
        _check_shards(args)
        if plan.given and args.train_num_samples is None:
            _check_one_folder(args.train_data)
        _check_val_sidecar(args, plan.captions)


def validation_notes(args: argparse.Namespace, plan: Plan) -> list[str]:
    """A line where files of --val-data are trained on, too; none without a flag of ours."""
    if not plan.given or not args.train_data or not args.val_data:
        return []
    trained = {_resolved(url) for url in expand_shards(args.train_data)}
    both = [url for url in expand_shards(args.val_data, "--val-data") if _resolved(url) in trained]
    if not both:
        return []
    what = f"{both[0]} is" if len(both) == 1 else f"{both[0]} and {len(both) - 1:,} more are"
    return [f"warning: --val-data: {what} in --train-data, too: its figures are of images that are trained on"]


def _resolved(url: str) -> str:
    return url if SCHEME.match(url) else os.path.realpath(url)


def sidecar_notes(args: argparse.Namespace, plan: Plan) -> list[str]:
    """Lines on folders of sidecars that lack some shards of --train-data, or were made before these changed."""
    if not args.train_data or dataset_kind(args) != "webdataset":
        return []
    features, urls, notes = feature_reader(plan), expand_shards(args.train_data), list[str]()
    for sidecar, lost in (
        (CaptionReader(plan.captions).sidecar, NO_CAPTIONS),
        (None if features is None else features.sidecar, "are not trained"),
    ):
        notes += [] if sidecar is None else sidecar.shard_notes(urls, lost)
    return notes


def _check_stock_columns(args: argparse.Namespace, path: str) -> None:
    """OpenCLIP takes column names exactly as given. With a flag of open_clip_fff, the preview checks them instead."""
    there = [str(name) for name in read_table(path, args.csv_separator, (), nrows=0).columns]
    for flag, name in (("--csv-img-key", args.csv_img_key), ("--csv-caption-key", args.csv_caption_key)):
        if name not in there:
            raise UsageError(
                f"{flag} {name}: {path} has no such column; it has {column_names(there)}"
                f"{read_with(args.csv_separator, there)}"
            )


def _check_formats(args: argparse.Namespace) -> None:
    """In one run OpenCLIP reads only one format, that of the last data set of `A::B`, and only one table."""
    sets = args.train_data.split(BETWEEN)
    tables = [part for part in sets if part.split(".")[-1] in ("csv", "tsv")]
    if tables and len(tables) < len(sets):
        raise UsageError(f"--train-data: {tables[0]} is a table among tars; make tars of it with open-clip-fff pack")
    if dataset_kind(args) == "csv" and (number := len(expand_shards(args.train_data))) > 1:
        raise UsageError(f"--train-data: names {number} tables, and one is read; make one of them, or tars of all")


def _check_val_sidecar(args: argparse.Namespace, captions: CaptionSettings) -> None:
    """Raises UsageError if --val-data would get the captions of other images from --caption-sidecar."""
    if not args.val_data or captions.sidecar is None:
        return
    if captions.val_sidecar is None:
        if BETWEEN in captions.sidecar:
            raise UsageError(
                "--caption-sidecar: is in step with --train-data; say where the captions of --val-data are with "
                "--val-caption-sidecar DIR, or '' for nowhere"
            )
        names = {parquet_name(url): url for url in expand_shards(args.train_data)}
        for url in expand_shards(args.val_data):
            other = names.get(parquet_name(url), url)
            if other != url:
                raise UsageError(
                    f"--caption-sidecar: {url} of --val-data would have the captions of {other}; say where its own are "
                    f"with --val-caption-sidecar DIR, or '' for nowhere"
                )
    elif sidecar := CaptionReader(val_captions(captions, args.val_data)).sidecar:
        sidecar.check(expand_shards(args.val_data)[0])


def _check_one_folder(train_data: str) -> None:
    """OpenCLIP looks up all shards by file name in the sizes.json beside the first one, so all have to be there."""
    shards = expand_shards(train_data)
    folders = list(dict.fromkeys(os.path.dirname(shard) for shard in shards))
    if len(folders) > 1:
        rows = row_counts(shards).total(shards)
        raise UsageError(
            f"--train-num-samples: OpenCLIP counts the rows of all shards by {folders[0]}/sizes.json, and some are in "
            f"{folders[1]}; say how many there are" + (f": {rows}" if rows is not None else "")
        )


def _rows_by_files(train_data: str) -> int | None:
    """The rows by sizes.json, else __len__, beside the first shard, as OpenCLIP reads them; None without either."""
    try:
        return get_dataset_size(train_data)[0]
    except (OSError, ValueError, TypeError, KeyError, SyntaxError) as error:
        folder = os.path.dirname(expand_shards(train_data)[0])
        name = next(name for name in ("sizes.json", "__len__") if os.path.exists(os.path.join(folder, name)))
        why = f"it has no {error}" if isinstance(error, KeyError) else reason(error)
        raise UsageError(
            f"--train-data: {os.path.join(folder, name)} does not tell the shards' rows ({why}); fix or remove it, or "
            f"say --train-num-samples N"
        ) from error


def _check_shards(args: argparse.Namespace) -> None:
    if args.train_num_samples is not None and args.train_num_samples < 1:
        raise UsageError(f"--train-num-samples {args.train_num_samples}: it is 1 or more")
    if args.train_num_samples is None and not _rows_by_files(args.train_data):
        raise UsageError("--train-num-samples: say how many images the shards hold (or put a sizes.json beside them)")
    shards = len(expand_shards(args.train_data))
    readers = max(args.workers, 1) * args.world_size  # each reads shards of its own
    if shards < readers and not args.dataset_resampled:
        what = f"{plural(readers, 'loader workers')} over all ranks" if args.workers else f"{args.world_size} ranks"
        raise UsageError(
            f"--workers {args.workers}: {what}, but only {plural(shards, 'shards')}; use fewer, or --dataset-resampled"
        )
