"""What can be known to fail is refused before anything is written or trained, in one line with its mend."""

import argparse
import dataclasses
import difflib
import os
import re
from pathlib import Path

import open_clip
import torch
from open_clip_train.data import expand_urls, get_dataset_size

from open_clip_fff.data.columns import table_columns
from open_clip_fff.data.data_sets import BETWEEN, parquet_name
from open_clip_fff.data.preview import Preview, preview_csv, preview_sets
from open_clip_fff.data.preview_text import check
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError
from open_clip_fff.host.data import csv_captions, feature_reader, val_captions
from open_clip_fff.hub.description import CONFIG_NAME
from open_clip_fff.losses.sigmoid_tile import triton_obstacle
from open_clip_fff.settings.captions import CaptionSettings
from open_clip_fff.settings.flags import as_flag
from open_clip_fff.settings.objective import OURS
from open_clip_fff.settings.plan import Plan, knowing
from open_clip_fff.towers.text_design import TextDesign, design_of_config


def check_host(args: argparse.Namespace, plan: Plan) -> None:
    """Flags of OpenCLIP's and ours against each other and against the disk.

    Raises:
        UsageError: for the first thing that cannot work.
    """
    _check_folder(args)
    _check_model(args, plan)
    for flag, value in (("--train-data", args.train_data), ("--val-data", args.val_data)):
        if value:
            check_files(flag, value)
    if args.train_data:
        _check_formats(args)
    if args.train_data and dataset_kind(args) == "webdataset":
        _check_shards(args)
        _check_val_sidecar(args, plan.captions)
    if args.train_data or args.dataset_type == "synthetic":
        _check_grouping(args, plan)
    if args.resume and args.resume != "latest" and "://" not in args.resume and not Path(args.resume).is_file():
        raise UsageError(f"--resume {args.resume}: there is no such file")
    if plan.typed:
        _check_loss(args, plan)


def dataset_kind(args: argparse.Namespace) -> str:
    """`webdataset`, `csv` or `synthetic`, as OpenCLIP will decide."""
    if args.dataset_type != "auto":
        return args.dataset_type
    extension = args.train_data.split(".")[-1]
    if extension not in ("csv", "tsv", "tar"):
        raise UsageError(f"--train-data {args.train_data}: say what it is with --dataset-type webdataset or csv")
    return "webdataset" if extension == "tar" else "csv"


def preview_training_data(args: argparse.Namespace, plan: Plan) -> tuple[Plan, list[Preview], CaptionSettings]:
    """Looks at the first rows of each data set and checks them.

    Returns:
        The plan, which then knows who made stored features; the previews, none where there is nothing to look at; and
        the caption settings with the sources these were made by (a CSV's are its columns).
    """
    captions = plan.captions
    if not args.train_data or dataset_kind(args) == "synthetic":
        return plan, [], captions
    features = feature_reader(plan)
    if dataset_kind(args) == "csv":
        typed = csv_captions(args, captions)
        image, captions, notes = table_columns(args.train_data, args.csv_separator, args.csv_img_key, typed)
        previews = [preview_csv(args.train_data, args.csv_separator, image, captions)]
        previews[0].notes += notes
    else:
        previews = preview_sets(args.train_data, captions, features)
    check(previews, captions)
    made_by = None if features is None else features.made_by
    return plan if made_by is None else knowing(plan, made_by), previews, captions


def _check_folder(args: argparse.Namespace) -> None:
    if args.name is not None and args.resume != "latest":
        log = Path(args.logs) / args.name / "out.log"
        if log.exists():
            raise UsageError(f"--name {args.name}: {log} exists; choose another name, or go on with --resume latest")


def trimming_obstacle(args: argparse.Namespace) -> str | None:
    """Why --model needs its captions at full length; None where it does not, or that shows once it is made."""
    config = _model_config(args)
    return None if config is None else design_of_config(config).obstacle


def _model_config(args: argparse.Namespace) -> dict | None:
    """The architecture of --model; None for one on the hub, which is looked up when the model is made."""
    schema, name = open_clip.factory.parse_model_name(args.model)
    if schema == "hf-hub":
        return None
    if schema is None:
        config = open_clip.get_model_config(name.replace("/", "-"))
        if config is None:
            close = difflib.get_close_matches(name, open_clip.list_models(), n=3)
            hint = f"did you mean {', '.join(close)}" if close else "open_clip.list_models() names them"
            raise UsageError(f"--model {name}: no such architecture ({hint}); your own comes with --model-config")
    else:
        if not (Path(name) / CONFIG_NAME).is_file():
            raise UsageError(f"--model {args.model}: no {CONFIG_NAME} in {name}")
        config = open_clip.get_model_config(args.model)
    return config


def _check_model(args: argparse.Namespace, plan: Plan) -> None:
    config = _model_config(args)
    if config is None:
        return
    if not plan.loss.stock and "multimodal_cfg" in config:
        raise UsageError(
            f"--model {args.model}: CoCa also learns to write its caption, which needs one caption per image; "
            f"use --method clip"
        )
    check_text(args.model, plan, design_of_config(config))


def check_text(model: str, plan: Plan, design: TextDesign) -> None:
    """Raises UsageError if the user asked for what the text tower of `model` does not allow."""
    if design.obstacle is not None and plan.text.trim and "trim_tokens" in plan.typed:
        raise UsageError(f"--trim-tokens: would change the features of --model {model}: {design.obstacle}; drop it")
    if design.writes and plan.text.distinct and "distinct_captions" in plan.typed:
        raise UsageError(f"--distinct-captions: --model {model} needs each caption's tokens, to write it; drop it")


def check_files(flag: str, value: str) -> None:
    """Raises UsageError if a file among the shards (or the table) that a flag names is not there."""
    paths = [url for url in expand_urls(value)[0] if not re.match(r"^[\w+.-]+:", url)]  # pipe:, s3://, https://
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        also = f" (and {len(missing) - 1} more of {len(paths)})" if len(missing) > 1 else f" (1 of {len(paths)})"
        raise UsageError(f"{flag}: {missing[0]} does not exist{also}; check the path and the braces")


def _check_formats(args: argparse.Namespace) -> None:
    """OpenCLIP reads one format in a run, that of the last data set of `A::B`, and one table."""
    sets = args.train_data.split(BETWEEN)
    tables = [part for part in sets if part.split(".")[-1] in ("csv", "tsv")]
    if tables and len(tables) < len(sets):
        raise UsageError(f"--train-data: {tables[0]} is a table among tars; make tars of it with scripts/pack.py")
    if len(sets) > 1 and dataset_kind(args) == "csv":
        raise UsageError(f"--train-data: names {len(sets)} tables, and one is read; make one of them, or tars of both")


def _check_val_sidecar(args: argparse.Namespace, captions: CaptionSettings) -> None:
    """The sidecars of training must not reach other images of --val-data."""
    if not args.val_data or captions.sidecar is None:
        return
    if captions.val_sidecar is None:
        if BETWEEN in captions.sidecar:
            raise UsageError(
                "--caption-sidecar: is in step with --train-data; say where the captions of --val-data are with "
                "--val-caption-sidecar DIR, or '' for nowhere"
            )
        names = {parquet_name(url): url for url in expand_urls(args.train_data)[0]}
        for url in expand_urls(args.val_data)[0]:
            other = names.get(parquet_name(url), url)
            if other != url:
                raise UsageError(
                    f"--caption-sidecar: {url} of --val-data would have the captions of {other}; say where its own are "
                    f"with --val-caption-sidecar DIR, or '' for nowhere"
                )
    elif sidecar := CaptionReader(val_captions(captions, args.val_data)).sidecar:
        sidecar.check(expand_urls(args.val_data)[0][0])


def _check_shards(args: argparse.Namespace) -> None:
    size, shards = get_dataset_size(args.train_data)
    if not size and args.train_num_samples is None:
        raise UsageError("--train-num-samples: say how many images the shards hold (or put a sizes.json beside them)")
    workers = args.workers * int(os.environ.get("WORLD_SIZE", "1"))
    if shards < workers and not args.dataset_resampled:
        raise UsageError(
            f"--workers {args.workers}: {workers} loader workers over all ranks, but only {shards} shard(s); "
            f"lower it, or use --dataset-resampled"
        )


def _check_loss(args: argparse.Namespace, plan: Plan) -> None:
    name = plan.loss.name
    if args.siglip and name not in (None, "siglip"):
        raise UsageError(f"--siglip: contradicts --loss {name}; drop one of them")
    if args.train_data and dataset_kind(args) == "csv":
        for name in sorted({"text_key", "json_text_key", "caption_sidecar", "split_sentences"} & plan.typed):
            raise UsageError(f"{as_flag(name)}: is for tars; for a CSV use --csv-caption-key 'title;caption'")
    if plan.features == "precomputed" and (not args.train_data or dataset_kind(args) != "webdataset"):
        raise UsageError("--mining-features precomputed: stored features go with tars; use --mining-features frozen")
    if plan.ema_decay is not None and (args.torchscript or args.use_bnb_linear):
        raise UsageError("--ema-decay: does not go with --torchscript or --use-bnb-linear; drop one")
    if plan.ema_decay is not None and args.precision in ("fp16", "pure_fp16"):
        raise UsageError(f"--ema-decay: weights in {args.precision} are too coarse to average; use --precision amp")
    if plan.loss.stock:
        _check_stock_text(args, plan)
        return
    refused = {
        "--distill-model": args.distill_model,
        "--torchscript": args.torchscript,
        "--trace": args.trace,
        "--horovod": args.horovod,
        "--use-bnb-linear": args.use_bnb_linear,
    }
    for flag, value in refused.items():
        if value:
            raise UsageError(f"{flag}: does not go with --loss {name}, which needs many captions per image; drop it")
    _check_impl(args, plan)
    _check_dist_impl(args, plan)
    _check_rate(args, plan)


def _check_grouping(args: argparse.Namespace, plan: Plan) -> None:
    grouping, kind = plan.grouping, dataset_kind(args)
    if grouping is None:
        return
    if kind == "synthetic":
        raise UsageError("--batch-hooks grit: synthetic data has nothing alike; use a CSV or tars")
    if grouping.search_space <= args.batch_size:
        raise UsageError(
            f"--group-search-space {grouping.search_space}: has to be larger than --batch-size {args.batch_size}, or "
            f"there is nothing to choose from; the paper's is 15 times that"
        )
    if grouping.scope == "global" and kind != "csv":
        raise UsageError(
            "--group-scope global: ranks read disjoint shards; tars are grouped per rank, a CSV either way"
        )
    if grouping.source == "stored" and kind == "csv":
        raise UsageError("--group-features stored: a CSV has no features beside its images; use tars, or bank")


def _check_rate(args: argparse.Namespace, plan: Plan) -> None:
    if plan.mining is None or plan.mining.per_image is None:
        return
    images = args.batch_size * args.accum_freq * int(os.environ.get("WORLD_SIZE", "1"))
    others = (images - 1) * plan.captions.columns
    if plan.mining.per_image >= others:
        raise UsageError(
            f"--mined-per-image {plan.mining.per_image:g}: in a global batch of {images:,} an image meets at most "
            f"{others:,} captions of others; lower it"
        )


def _check_impl(args: argparse.Namespace, plan: Plan) -> None:
    if plan.loss.impl != "triton":
        return
    device = args.device.split(":")[0]
    if device == "cuda" and not torch.cuda.is_available():
        device = "cpu"  # as OpenCLIP does
    obstacle = triton_obstacle(device)
    if obstacle is not None:
        raise UsageError(f"--loss-impl triton: {obstacle}; use --loss-impl tiled")


def _check_dist_impl(args: argparse.Namespace, plan: Plan) -> None:
    if not args.loss_dist_impl:
        return
    if plan.loss.name not in OURS:
        raise UsageError(f"--loss-dist-impl: --loss {plan.loss.name} has one way only; drop it")
    try:
        dataclasses.replace(plan.loss, dist_impl=args.loss_dist_impl)
    except ValueError as error:
        raise UsageError(f"--loss-dist-impl {args.loss_dist_impl}: {error}") from None


def _check_stock_text(args: argparse.Namespace, plan: Plan) -> None:
    """What of OpenCLIP's own runs has no room for a changed text tower."""
    for flag, value in {"--torchscript": args.torchscript, "--trace": args.trace}.items():
        if value and not plan.text.whole:
            names = sorted({"trim_tokens", "distinct_captions"} & plan.typed)
            raise UsageError(f"{flag}: does not go with {' and '.join(map(as_flag, names))}; drop one of them")
