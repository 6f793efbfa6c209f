"""The data that training's flags name, for training and for other programs."""

import argparse
import dataclasses

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.name_lists import split_names
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.resolve import with_stored_model
from open_clip_fff.data.data_sets import check_tars, dataset_kind, expand_shards
from open_clip_fff.data.features import FeatureReader
from open_clip_fff.data.positives import NamedPairs, read_pairs
from open_clip_fff.data.preview import TRIED, Preview, preview_csv, preview_sets
from open_clip_fff.data.preview_text import check_previews, check_validation, damage_lines
from open_clip_fff.data.sidecar import NO_CAPTIONS
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.table_columns import read_table, table_columns
from open_clip_fff.errors import UsageError


def csv_captions(args, captions: CaptionSettings) -> CaptionSettings:
    """The settings for a CSV: the columns of --csv-caption-key, `A;B`, are text keys, so raw. UsageError for none."""
    columns = split_names(args.csv_caption_key)
    if not columns:
        raise UsageError("--csv-caption-key: names no column")
    return dataclasses.replace(captions, text_keys=columns, json_keys=(), sidecar=None)


def with_data_sets(plan: Plan, shards: str | None) -> Plan:
    """The plan with the data sets of --train-data, `A::B`, to which its sidecars belong."""
    return dataclasses.replace(plan, captions=dataclasses.replace(plan.captions, shards=shards))


def val_captions(captions: CaptionSettings, shards: str | None) -> CaptionSettings:
    """The settings for --val-data: its own sidecars, and all captions; --positives are of training's rows.

    OpenCLIP's own evaluation sees the first caption.
    """
    sidecar = captions.sidecar if captions.val_sidecar is None else captions.val_sidecar or None
    return dataclasses.replace(captions, policy="all", sidecar=sidecar, shards=shards, positives=None)


def check_all_captions(shards: str, captions: CaptionSettings) -> list[str]:
    """Checks the first rows of each data set for a command that reads all captions, however many an image has.

    Returns warnings: shards without a sidecar, captions that cannot be read, columns given without the spaces around
    their names. Raises UsageError as training does, except for fewer than K captions.
    """
    captions = dataclasses.replace(captions, per_image=1)
    previews, sidecar = preview_sets(shards, captions), CaptionReader(captions).sidecar
    check_previews(previews, captions)
    notes = [] if sidecar is None else sidecar.shard_notes(expand_shards(shards), NO_CAPTIONS)
    return notes + [f"warning: {preview.name}: {line}" for preview in previews for line in damage_lines(preview)]


def feature_reader(plan: Plan) -> FeatureReader | None:
    """The reader of stored features, if mining or grouping uses them."""
    return FeatureReader.of(plan) if plan.stored else None


def training_pairs(plan: Plan, args: argparse.Namespace) -> NamedPairs | None:
    """The pairs of --positives; None without it. Raises as `read_pairs`."""
    path = plan.captions.positives
    if path is None:
        return None
    if dataset_kind(args) != "csv":
        return read_pairs(path, args.train_data)
    columns, separator = csv_captions(args, plan.captions), args.csv_separator
    image = table_columns(args.train_data, separator, args.csv_img_key, columns).image
    images = read_table(args.train_data, separator, (image,))[image]
    return read_pairs(path, None, [str(image) for image in images.dropna()])


def training_shards(plan: Plan, args: argparse.Namespace) -> tuple[Plan, list[str]]:
    """The plan with its data sets, and the shards of --train-data; `args` are those of `parse_shard_flags`.

    Raises UsageError if the data are no tars, or do not exist.
    """
    urls = expand_shards(args.train_data)
    check_tars("--train-data", urls)
    if dataset_kind(args) != "webdataset":
        raise UsageError(f"--train-data {args.train_data}: only tars are read here; open-clip-fff pack makes them")
    return with_data_sets(plan, args.train_data), urls


def check_validation_data(args: argparse.Namespace, plan: Plan) -> None:
    """Raises UsageError if nothing can be read in the first shard of a data set of --val-data, or in its table."""
    if not args.val_data or args.dataset_type == "synthetic":
        return
    captions = val_captions(plan.captions, args.val_data)
    if dataset_kind(args, "--val-data") == "csv":
        columns = table_columns(args.val_data, args.csv_separator, args.csv_img_key, csv_captions(args, captions))
        image, captions, _ = columns
        previews = [preview_csv(args.val_data, args.csv_separator, image, captions, "--val-data")]
    else:
        previews = preview_sets(args.val_data, captions, enough=TRIED, data_flag="--val-data")
    check_validation(previews, captions)


def preview_training_data(args: argparse.Namespace, plan: Plan) -> tuple[Plan, list[Preview], CaptionSettings]:
    """Previews and checks the first rows of each data set.

    Returns:
        The plan with the model of stored features; the previews, empty for synthetic data; and the caption settings
        that the previews used (for a CSV, its columns).
    """
    captions = plan.captions
    if not args.train_data or dataset_kind(args) == "synthetic":
        for flag, value in (("--positive-key", captions.positive_key), ("--positives", captions.positives)):
            if value is not None:
                raise UsageError(f"{flag} {value}: needs rows of --train-data, tars or a CSV")
        return plan, [], captions
    features = feature_reader(plan)
    if dataset_kind(args) == "csv":
        given = csv_captions(args, captions)
        image, captions, notes = table_columns(args.train_data, args.csv_separator, args.csv_img_key, given)
        previews = [preview_csv(args.train_data, args.csv_separator, image, captions)]
        previews[0].notes += notes
    else:
        previews = preview_sets(args.train_data, captions, features)
    check_previews(previews, captions)
    made_by = None if features is None else features.made_by
    return plan if made_by is None else with_stored_model(plan, made_by), previews, captions
