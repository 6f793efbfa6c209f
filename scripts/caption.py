"""Writes pseudo-captions of the images in webdataset shards, with BLIP-2 or another captioner of transformers.

    python scripts/caption.py --train-data 'data/{00000..00099}.tar' --out captions --device cuda \\
        --model Salesforce/blip2-opt-2.7b --captions 5

Writes a parquet per shard, for `--caption-sidecar captions --sidecar-text-key captions`, or with `--into tars` the
shards again, with the captions in a field of each sample's json. Each file is whole or not there; a second start does
those that are missing. `torchrun --nproc-per-node 8 scripts/caption.py ...` shares the shards out.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch
import webdataset as wds

from open_clip_fff.captioning.captioner import Captioner
from open_clip_fff.captioning.decoding import HOW, Decoding
from open_clip_fff.captioning.loading import DTYPES, configuration, dtype_of, load_captioner, revision
from open_clip_fff.captioning.report import report
from open_clip_fff.captioning.shard import ShardCaptioner
from open_clip_fff.captioning.writing import refuse_taken, write_sidecar, write_tar
from open_clip_fff.connection.loading import quiet
from open_clip_fff.data.shards import read_samples
from open_clip_fff.devices import usable
from open_clip_fff.errors import OneRankError, UsageError
from open_clip_fff.settings.flags import OneLineParser, as_flag
from open_clip_fff.shardwise import OutFolder, Record, Share, each_shard
from open_clip_fff.shardwise.flags import add_flags
from open_clip_fff.shardwise.folder import by_stem, refuse_place
from open_clip_fff.shardwise.run import as_program

FIELD = "generated_captions"
SUFFIX = {"sidecar": ".parquet", "tars": ".tar"}


def main(argv: list[str]) -> int:
    """Shards in, captions out."""
    return as_program("caption.py", lambda: run(*parse(argv)))


def parse(argv: list[str]) -> tuple[argparse.Namespace, Decoding]:
    """The command line.

    Raises:
        UsageError: for a flag that cannot work.
    """
    parser = OneLineParser(prog="scripts/caption.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--train-data", required=True, metavar="TARS", help="with braces as in training")
    add_flags(parser, "the captions")
    parser.add_argument(
        "--model", default="Salesforce/blip2-opt-2.7b", metavar="NAME|DIR", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--prompt", default="", metavar="TEXT", help="how captions begin, or what a chat model is asked"
    )
    draw = parser.add_argument_group("how captions are drawn")
    draw.add_argument("--captions", type=int, metavar="K", help="of an image (default: 5; 1 with greedy)")
    draw.add_argument("--decoding", choices=HOW, default="nucleus", help="(default: nucleus)")
    draw.add_argument("--top-p", type=float, metavar="P", help="nucleus: the likeliest tokens' share (default: 0.9)")
    draw.add_argument("--temperature", type=float, metavar="T", help="nucleus (default: 1)")
    draw.add_argument("--tries", type=int, help="nucleus: more rounds for images with fewer than K (default: 1)")
    draw.add_argument("--beams", type=int, help="beam: how many are followed (default: 5, or K)")
    draw.add_argument("--max-new-tokens", type=int, default=30, metavar="N", help="(default: 30)")
    draw.add_argument("--min-new-tokens", type=int, default=1, metavar="N", help="(default: 1)")
    draw.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--into", choices=SUFFIX, default="sidecar", help="parquets, or new tars (default: sidecar)")
    parser.add_argument("--field", default=FIELD, metavar="NAME", help="of the tars' json (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="a field of that name that is there already")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at a time (default: 32)")
    parser.add_argument("--workers", type=int, default=4, help="threads that decode images (default: 4)")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="auto is half on cuda (default)")
    args = parser.parse_args(argv)
    check(args)
    return args, decoding_of(args)


def check(args: argparse.Namespace) -> None:
    """Refuses numbers and names that cannot work.

    Raises:
        UsageError: for the first of them.
    """
    for name, least in (("batch_size", 1), ("workers", 0)):
        if (value := getattr(args, name)) < least:
            raise UsageError(f"{as_flag(name)} {value}: must be {least} or more")
    if not re.fullmatch(r"[\w.-]+", args.field):
        raise UsageError(f"--field {args.field}: letters, digits, '_', '.' and '-', so that training can name it")
    if args.into == "sidecar" and (args.overwrite or args.field != FIELD):
        raise UsageError("--field, --overwrite: go with --into tars; a sidecar's column is called captions")


def decoding_of(args: argparse.Namespace) -> Decoding:
    """How captions are drawn.

    Raises:
        UsageError: for a flag of another way to draw, and for what cannot work.
    """
    k = args.captions if args.captions is not None else 1 if args.decoding == "greedy" else 5
    given = {"beams": max(k, Decoding.beams)} if args.decoding == "beam" else {}
    for how, names in HOW.items():
        typed = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        if typed and how != args.decoding:
            raise UsageError(f"{as_flag(next(iter(typed)))}: goes with --decoding {how}, not {args.decoding}")
        given |= typed
    bounds = {"max_new_tokens": args.max_new_tokens, "min_new_tokens": args.min_new_tokens}
    return Decoding(args.decoding, k, **given, **bounds)


def run(args: argparse.Namespace, decoding: Decoding) -> int:
    """Captions what is missing.

    Raises:
        UsageError: if the model cannot be loaded, the folder not be used, or the memory is too small.
    """
    import transformers

    share, shards = Share.here(args.share), by_stem(shards_of(args))
    device, config = share.device(args.device), configuration(args.model)
    settings = {"model": args.model, "revision": revision(args.model, config), "prompt": args.prompt}
    settings |= {"dtype": dtype_of(args.dtype, config, device), "batch size": args.batch_size, "seed": args.seed}
    settings |= {**decoding.told(), "transformers": transformers.__version__, "into": args.into}
    settings |= {"field": args.field, "overwrite": args.overwrite} if args.into == "tars" else {}
    with quiet():
        try:
            captioner = load_captioner(args.model, config, args.prompt, settings["dtype"])
            placed(captioner, device).check(decoding, f"--model {args.model}")
            folder = OutFolder(args.out, SUFFIX[args.into], settings)  # that of a model which works
            if share.index == 0:
                print(f"captions of {args.model}, {decoding.how}, in {settings['dtype']} on {device}")
            code = each_shard(shards, folder, share, work_of(args, captioner, decoding, settings))
        except torch.OutOfMemoryError as error:
            raise OneRankError(
                f"--batch-size {args.batch_size}: {decoding.captions} captions of so many images do not fit into the "
                f"memory of {device}; lower it, and name another --out"
            ) from error
    if share.index == 0 or not share.together:
        title = f"{args.model}, {decoding.how}" + (f", {args.prompt!r}" if args.prompt else "")
        for line in report(folder, shards, title, decoding.captions, field_of(args), args.train_data):
            print(line)
    return code


def shards_of(args: argparse.Namespace) -> list[str]:
    """The shards, of which one at least is there, and none starts with a field that would be lost.

    Raises:
        UsageError: otherwise.
    """
    urls = wds.shardlists.expand_urls(args.train_data)
    local = [url for url in urls if not re.match(r"\w+:", url)]
    if not urls or (len(local) == len(urls) and not any(Path(url).exists() for url in urls)):
        raise UsageError(f"--train-data {args.train_data}: no such file; braces count, as in 'data/{{000..099}}.tar'")
    if args.into == "tars":
        refuse_place(args.out, local)
        refuse_first(local[:1], args)
    return urls


def refuse_first(urls: list[str], args: argparse.Namespace) -> None:
    """Looks at the first sample, and leaves what cannot be read for later: it costs its own shard only.

    Raises:
        UsageError: if it has the field already.
    """
    try:
        found = list(read_samples(urls, 1))
    except Exception:  # whatever webdataset raises
        return
    for sample in found:
        refuse_taken(sample, args.field, args.overwrite)


def field_of(args: argparse.Namespace) -> str | None:
    """Of the json in new tars; None for sidecars."""
    return args.field if args.into == "tars" else None


def placed(captioner: Captioner, device: str) -> Captioner:
    """The captioner, on its device.

    Raises:
        OneRankError: if there is no such device, none that is free, or one that is too small.
    """
    try:
        captioner.model.to(usable(device))
    except torch.OutOfMemoryError as error:
        raise OneRankError(f"--device {device}: too small for the model; --dtype float16 halves it") from error
    return captioner


def work_of(
    args: argparse.Namespace, captioner: Captioner, decoding: Decoding, settings: dict[str, object]
) -> Callable[[str, BinaryIO, Callable[[int], None]], Record]:
    """Makes one shard's file."""
    field = field_of(args)

    def passes(sample: dict) -> str | None:
        return None if field is None else refuse_taken(sample, field, args.overwrite)

    shard = ShardCaptioner(captioner, decoding, args.batch_size, args.workers, args.seed, passes)

    def work(url: str, file: BinaryIO, tick: Callable[[int], None]) -> Record:
        record = Record(url)
        captions = shard.captions(url, record, tick)
        if field is None:
            write_sidecar(file, captions, settings)
        else:
            write_tar(url, file, captions, field)
        return record

    return work


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
