"""Writes pseudo-captions of the images in webdataset shards, with BLIP-2 or another captioner of transformers.

    open-clip-fff caption --train-data 'data/{00000..00099}.tar' --out captions --device cuda \\
        --model Salesforce/blip2-opt-2.7b --captions 5

Writes a parquet per shard, for `--caption-sidecar captions --sidecar-text-key captions`, or with `--into tars` the
shards again, with the captions in a field of each sample's json. Files are written atomically; a second start writes
those that are missing. `torchrun --nproc-per-node 8 -m open_clip_fff caption ...` divides the shards among processes.
"""

import argparse
import re

from open_clip_fff.commands.program import command
from open_clip_fff.config.fields import as_flag
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.tools.caption.decoding import DECODINGS, DTYPES, Decoding
from open_clip_fff.tools.shards.share import INTO, add_share_flags

FIELD = "generated_captions"


def parse(argv: list[str], prog: str = "open-clip-fff caption") -> tuple[argparse.Namespace, Decoding]:
    """The command line. Raises UsageError for an invalid flag."""
    parser = CommandParser(prog, __doc__)
    add = parser.add_argument
    add("--train-data", required=True, metavar="TARS", help="with braces as in training")
    add_share_flags(parser, "the captions")
    add("--model", default="Salesforce/blip2-opt-2.7b", metavar="NAME|DIR", help="(default: %(default)s)")
    add("--prompt", default="", metavar="TEXT", help="the start of each caption, or a chat model's question")
    draw = parser.add_argument_group("how captions are generated").add_argument
    draw("--captions", type=int, metavar="K", help="of an image (default: 5; 1 with greedy)")
    draw("--decoding", choices=DECODINGS, default="nucleus", help="(default: nucleus)")
    draw("--top-p", type=float, metavar="P", help="nucleus: probability mass sampled from (default: 0.9)")
    draw("--temperature", type=float, metavar="T", help="nucleus (default: 1)")
    draw("--tries", type=int, help="nucleus: more rounds for images with fewer than K (default: 1)")
    draw("--beams", type=int, help="beam: their number (default: 5, or K)")
    draw("--max-new-tokens", type=int, default=30, metavar="N", help="(default: 30)")
    draw("--min-new-tokens", type=int, default=1, metavar="N", help="(default: 1)")
    draw("--seed", type=int, default=0, help="(default: 0)")
    add("--into", choices=INTO, default="sidecar", help="parquets, or new tars (default: sidecar)")
    add("--field", default=FIELD, metavar="NAME", help="of the tars' json (default: %(default)s)")
    add("--overwrite", action="store_true", help="a field of that name that is there already")
    add("--batch-size", type=int, default=32, metavar="N", help="images at a time (default: 32)")
    add("--workers", type=int, default=4, help="threads that decode images (default: 4)")
    add("--dtype", choices=("auto", *DTYPES), default="auto", help="auto is half on cuda (default)")
    args = parser.parse_args(argv)
    check(args)
    return args, decoding_of(args)


def check(args: argparse.Namespace) -> None:
    """Raises UsageError for an invalid number or name."""
    check_least(args, batch_size=1, workers=0)
    with as_mistake("--prompt: is no UTF-8 text, as the terminal sends it", UnicodeEncodeError):
        args.prompt.encode()
    if not re.fullmatch(r"[\w.-]+", args.field):
        raise UsageError(f"--field {args.field}: letters, digits, '_', '.' and '-', so that training can name it")
    if args.into == "sidecar" and (args.overwrite or args.field != FIELD):
        raise UsageError("--field, --overwrite: go with --into tars; a sidecar's column is called captions")


def decoding_of(args: argparse.Namespace) -> Decoding:
    """Raises UsageError for a flag of another decoding method, or an invalid value."""
    k = args.captions if args.captions is not None else 1 if args.decoding == "greedy" else 5
    given = {"beams": max(k, Decoding.beams)} if args.decoding == "beam" else {}
    for how, names in DECODINGS.items():
        own = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        if own and how != args.decoding:
            raise UsageError(f"{as_flag(next(iter(own)))}: goes with --decoding {how}, not {args.decoding}")
        given |= own
    bounds = {"max_new_tokens": args.max_new_tokens, "min_new_tokens": args.min_new_tokens}
    return Decoding(args.decoding, k, **given, **bounds)


main = command("open-clip-fff caption", parse, "open_clip_fff.tools.caption.run:run", shared=True)
