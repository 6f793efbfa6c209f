"""The shards of a training command, for programs that take one whole and do not train."""

import argparse

from open_clip_train.data import expand_urls

from open_clip_fff.errors import UsageError
from open_clip_fff.host.data import with_data_sets
from open_clip_fff.host.data_checks import check_files, dataset_kind
from open_clip_fff.settings.plan import Plan


def training_shards(plan: Plan, args: argparse.Namespace) -> tuple[Plan, list[str]]:
    """The plan with its data sets, and the shards of --train-data.

    Args:
        plan: what our flags say.
        args: OpenCLIP's flags, `parse_shard_flags` of them.

    Raises:
        UsageError: for data that is no tars or not there.
    """
    if dataset_kind(args) != "webdataset":
        raise UsageError(f"--train-data {args.train_data}: only tars are read here, with --dataset-type webdataset")
    check_files("--train-data", args.train_data)
    return with_data_sets(plan, args.train_data), expand_urls(args.train_data)[0]
