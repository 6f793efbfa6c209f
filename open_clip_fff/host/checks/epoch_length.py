"""Compares the rows in each loader worker's shards with the steps of an epoch, before training."""

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import open_clip_train.data as oc_data

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.data_sets import dataset_kind, expand_shards
from open_clip_fff.data.preview import Preview
from open_clip_fff.data.row_counts import RowCounts, row_counts
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.training_data import feature_reader
from open_clip_fff.errors import UsageError, printable
from open_clip_fff.host.generation import TASKS
from open_clip_fff.plural import plural

TOO_FEW = "--batch-size and --accum-freq: an epoch holds fewer rows than one step takes"
VISITS = 1_000_000  # shards checked over all epochs, at most; the first epoch is always checked


def rows_of_data(args: argparse.Namespace, plan: Plan) -> RowCounts:
    """The known row counts of --train-data in tars, less the rows that lack the captions or features they need."""
    if not args.train_data or dataset_kind(args) != "webdataset":
        return RowCounts()
    features, captions = feature_reader(plan), CaptionReader(plan.captions)
    needed = [] if features is None else [features.sidecar]
    if not plan.captions.text_keys and not plan.captions.json_fields:
        needed.append(captions.sidecar)  # without it a row has no caption
    return row_counts(expand_shards(args.train_data), [sidecar for sidecar in needed if sidecar is not None])


class WorkerShards(NamedTuple):
    """One loader worker's shards in one epoch, and their rows, None if unknown."""

    epoch: int
    rank: int
    worker: int
    shards: list[str]
    rows: int | None


def forecast_epochs(args: argparse.Namespace, plan: Plan, counts: RowCounts, first_epoch: int) -> tuple[list[str], str]:
    """Compares rows with steps, in the epochs from `first_epoch` on.

    Gives warnings, and a line on the rows and how often they are trained, empty if unknown. Raises UsageError if, with
    several ranks, one has too few rows in an epoch: the others would wait for it.
    """
    if not counts.rows or args.dataset_resampled or args.seed < 0:
        return [], ""
    if plan.given and counts.total(counts.shards) == 0:
        return [], ""  # no number of workers helps; the preview says what the shards hold instead
    workers, ours = max(args.workers, 1), not plan.loss.stock
    quota = _mini_batches(args)
    streams = list(_streams(args, counts, first_epoch))
    least = 1 if ours else args.batch_size
    short = [stream for stream in streams if stream.rows is not None and stream.rows < least]
    warnings = [_short(args, short, quota, least, {stream.epoch for stream in streams})] if short else []
    known = [stream.rows for stream in streams if stream.rows]
    line, urls = "", expand_shards(args.train_data)  # may list a shard twice
    total = counts.total(urls)
    if total is not None:
        taken = quota * args.batch_size
        readers = plural(args.world_size * workers, "loader workers" if args.workers else "ranks")
        line = f"{total:,} in {plural(len(urls), 'shards')} (by {', '.join(counts.counted_from)})"
        line += f"; an epoch takes {taken * workers * args.world_size:,}, shared among {readers}"
        if ours and known:
            often = f"{taken / max(known):.2f}", f"{taken / min(known):.2f}"
            line += f", each trained {often[0] if often[0] == often[1] else ' to '.join(often)} times"
    return warnings, line


def check_tar_rows(args: argparse.Namespace, plan: Plan, counts: RowCounts, first_epoch: int) -> None:
    """Raises UsageError if no epoch has a step with OpenCLIP's losses, whose loaders drop incomplete mini-batches.

    For several ranks `forecast_epochs` refuses a rank with too few rows.
    """
    urls = expand_shards(args.train_data) if counts.rows else []
    total = counts.total(urls)
    if not total or not plan.loss.stock or args.dataset_resampled or args.seed < 0 or args.world_size > 1:
        return
    batches = Counter[int]()
    for stream in _streams(args, counts, first_epoch):
        batches[stream.epoch] += (stream.rows or 0) // args.batch_size
    if batches and max(batches.values()) < args.accum_freq:
        fewer = " or --workers" * (args.workers > 1)
        raise UsageError(
            f"{TOO_FEW}, {args.batch_size * args.accum_freq:,}: {plural(len(urls), 'shards')} with {total:,}; lower "
            f"them{fewer}"
        )


def check_table_rows(args: argparse.Namespace, previews: Sequence[Preview]) -> None:
    """Raises UsageError if a table that the preview read whole has fewer usable rows than one step takes."""
    step = args.batch_size * args.accum_freq
    for preview in previews:
        if preview.whole and math.ceil(preview.usable / args.world_size) < step:
            ranks = f" on each of {plural(args.world_size, 'ranks')}" * (args.world_size > 1)
            raise UsageError(
                f"{TOO_FEW}, {step:,}{ranks}: {preview.name} has {preview.usable:,} with an image and a caption; lower "
                f"them"
            )


def _mini_batches(args: argparse.Namespace) -> int:
    """Mini-batches of a loader worker's epoch, rounded up twice as in OpenCLIP."""
    rows = args.train_num_samples or oc_data.get_dataset_size(args.train_data)[0]
    return math.ceil(math.ceil(rows / (args.batch_size * args.world_size)) / max(args.workers, 1))


def _streams(args: argparse.Namespace, counts: RowCounts, first_epoch: int) -> Iterator[WorkerShards]:
    """Each worker's shards in the coming epochs, by OpenCLIP's own shuffle of shards."""
    urls, workers = expand_shards(args.train_data), max(args.workers, 1)
    epochs = range(first_epoch, min(args.epochs, first_epoch + max(VISITS // len(urls), 1)))
    sizes = oc_data._SHARD_SHUFFLE_SIZE, oc_data._SHARD_SHUFFLE_INITIAL
    if TASKS:  # environment variables may change them
        sizes = oc_data.wds_shuffle_sizes()[:2]
    for epoch in epochs:
        shuffle = oc_data.detshuffle2(*sizes, seed=args.seed, epoch=epoch - 1)  # it adds 1
        order = list(shuffle.run(iter(urls)))
        for rank in range(args.world_size):
            for worker in range(workers):
                own = order[rank :: args.world_size][worker::workers]
                yield WorkerShards(epoch, rank, worker, own, counts.total(own))


def _short(args: argparse.Namespace, short: Sequence[WorkerShards], quota: int, least: int, epochs: set[int]) -> str:
    """A warning on workers whose rows fill no mini-batch. Raises UsageError if other ranks would wait."""
    first, workers = short[0], max(args.workers, 1)
    more = [f"and {len(first.shards) - 3} more"] if len(first.shards) > 3 else []
    names = ", ".join([*map(printable, first.shards[:3]), *more])
    who = f"worker {first.worker} of rank {first.rank}" if args.world_size > 1 else f"loader worker {first.worker}"
    holds = f"{who} reads {plural(first.rows or 0, 'rows')} in epoch {first.epoch} ({names})"
    few = f", fewer than --batch-size {least}, of which OpenCLIP makes no mini-batch" if least > 1 else ""
    fix = "use fewer --workers" + " or ranks" * (args.world_size > 1) + (", a smaller --batch-size" * (least > 1))
    fix += ", shards of more equal sizes, or --dataset-resampled"
    if args.world_size > 1:
        raise UsageError(f"--train-data: {holds}{few}, and the other ranks would wait for it; {fix}")
    missing = sum(stream.epoch == first.epoch for stream in short) * quota
    among = len({stream.epoch for stream in short})
    return (
        f"warning: {holds}{few}: {missing:,} of {quota * workers:,} mini-batches will be missing there (such a worker "
        f"is in {among:,} of {plural(len(epochs), 'epochs')}); {fix}"
    )
