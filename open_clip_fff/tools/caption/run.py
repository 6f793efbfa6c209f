"""open-clip-fff caption: loads a captioner and writes the captions of each shard."""

import argparse
from contextlib import suppress
from pathlib import Path

import torch

from open_clip_fff.data.data_sets import SCHEME, check_tars, expand_shards
from open_clip_fff.data.shards import read_samples
from open_clip_fff.devices import or_best, usable
from open_clip_fff.errors import OneRankError, UsageError
from open_clip_fff.models.transformers_weights import silenced_transformers
from open_clip_fff.tools.caption.captioner import Captioner
from open_clip_fff.tools.caption.decoding import Decoding
from open_clip_fff.tools.caption.loading import configuration, dtype_of, load_captioner, revision
from open_clip_fff.tools.caption.report import PLOT, report
from open_clip_fff.tools.caption.shard import ShardCaptioner, refuse_taken
from open_clip_fff.tools.shards.folder import SETTINGS, OutFolder, by_stem, check_out, refuse_input_folder
from open_clip_fff.tools.shards.run import process_shards
from open_clip_fff.tools.shards.share import INTO, Share
from open_clip_fff.tools.shards.tars import check_torn


def run(args: argparse.Namespace, decoding: Decoding) -> int:
    """Captions the shards that are missing in the output folder. Returns the exit code.

    Raises UsageError if the model cannot be loaded, the folder cannot be used, or the memory is too small.
    """
    import transformers

    share, shards = Share.from_environment(args.share), by_stem(shards_of(args))
    device, config = share.device(or_best(args.device)), configuration(args.model)
    settings = {"model": args.model, "revision": revision(args.model, config), "prompt": args.prompt}
    settings |= {"dtype": dtype_of(args.dtype, config, device), "batch size": args.batch_size, "seed": args.seed}
    settings |= {**decoding.used_settings(), "transformers": transformers.__version__, "into": args.into}
    settings |= {"field": args.field, "overwrite": args.overwrite} if args.into == "tars" else {}
    field = args.field if args.into == "tars" else None
    with silenced_transformers():
        try:
            captioner = load_captioner(args.model, config, args.prompt, settings["dtype"])
            to_device(captioner, device).check(decoding, f"--model {args.model}")
            if (plot := args.out / PLOT).exists() and not (args.out / SETTINGS).exists():
                raise UsageError(f"--out {args.out}: {plot.name} there would be replaced; name another folder")
            folder = OutFolder(args.out, INTO[args.into], settings)  # created only once the model works
            if share.index == 0:
                print(f"captions of {args.model}, {decoding.how}, in {settings['dtype']} on {device}")
            numbers = (args.batch_size, args.workers, args.seed)
            work = ShardCaptioner(captioner, decoding, *numbers, field, args.overwrite, settings).write
            code = process_shards(shards, folder, share, work)
        except torch.OutOfMemoryError as error:
            raise OneRankError(
                f"--batch-size {args.batch_size}: {decoding.captions} captions of so many images do not fit into the "
                f"memory of {device}; lower it, and name another --out"
            ) from error
    if share.reports:
        title = f"{args.model}, {decoding.how}" + (f", {args.prompt!r}" if args.prompt else "")
        lines, unusable = report(folder, shards, title, decoding.captions, field, args.train_data, bool(code))
        for line in lines:
            print(line)
        code = code or unusable
    return code


def shards_of(args: argparse.Namespace) -> list[str]:
    """The shards. Raises UsageError if none exists, or the first is torn or has a field that would be overwritten."""
    check_out(args.out)
    urls = expand_shards(args.train_data)
    local = [url for url in urls if not SCHEME.match(url)]
    if not urls or (len(local) == len(urls) and not any(Path(url).exists() for url in urls)):
        raise UsageError(f"--train-data {args.train_data}: no such file; braces count, as in 'data/{{000..099}}.tar'")
    check_tars("--train-data", [url for url in urls if Path(url).exists()])
    check_torn("--train-data", urls[0])
    if args.into == "tars":
        refuse_input_folder(args.out, local)
        first: list[dict] = []
        with suppress(Exception):  # whatever webdataset raises; an unreadable shard is reported later
            first += read_samples(local[:1], 1)
        for sample in first:
            refuse_taken(sample, args.field, args.overwrite)
    return urls


def to_device(captioner: Captioner, device: str) -> Captioner:
    """The captioner on its device. Raises OneRankError if there is no usable device, or its memory is too small."""
    try:
        captioner.model.to(usable(device))
    except torch.OutOfMemoryError as error:
        raise OneRankError(f"--device {device}: too small for the model; --dtype float16 halves it") from error
    return captioner
