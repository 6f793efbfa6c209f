"""Packs images and captions as webdataset shards that training reads.

    open-clip-fff pack captions.csv --out shards --image-key filepath --caption-key 'title;blip2' --resize 256
    open-clip-fff pack images/ --out shards --shuffle 0
    open-clip-fff pack 'laion/{00000..00099}.tar' --out shards --captions recaptions.parquet --join url

SOURCE is a table (CSV, jsonl, json, parquet, with paths of images or the images themselves); a folder of images with
NAME.txt and NAME.json beside them, or with a table metadata.*; or shards, to which captions are joined. The raw caption
goes to `txt`, all others to the json's `captions`. Each shard is read back and written atomically; a second start makes
the missing ones. `torchrun --nproc-per-node 8 -m open_clip_fff pack ...` shares the shards out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.commands.program import command
from open_clip_fff.config.name_lists import split_names
from open_clip_fff.config.parsers import CommandParser
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.pack.settings import FORMATS, JOINS, ColumnNames, ImageSettings, PackSettings
from open_clip_fff.tools.shards.share import Share, add_flags


def parse(argv: Sequence[str], prog: str) -> tuple[PackSettings, Path, Share, int, bool]:
    """What `tools.pack.run.pack` takes. Raises UsageError for an invalid flag."""
    args = parser(prog).parse_args(argv)
    if args.workers < 0:
        raise UsageError(f"--workers {args.workers}: threads, 0 or more")
    settings = PackSettings(
        source=args.source,
        columns=ColumnNames(
            args.image_key,
            split_names(args.caption_key),
            split_names(args.keep_columns),
            args.url_key or None,
            args.class_key,
            only(args.only),
        ),
        images=ImageSettings(args.resize, args.resize_format, args.quality, args.min_size, args.verify),
        json_keys=split_names(args.json_text_key),
        separator=args.csv_separator,
        image_root=args.image_root,
        group=args.group,
        class_from_folder=args.class_from_folder,
        per_shard=args.images_per_shard,
        seed=args.shuffle,
        captions=args.captions,
        join=args.join,
    )
    return settings, args.out, Share.from_environment(args.share), args.workers, args.dry_run


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = CommandParser(prog, __doc__)
    parser.add_argument("source", metavar="SOURCE", help="a table, a folder of images, or shards with braces")
    add_flags(parser, "the shards", device=False)
    parser.add_argument("--dry-run", action="store_true", help="write nothing; print what would be written")
    parser.add_argument("--images-per-shard", type=int, default=10_000, metavar="N", help="(default: 10000)")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="a random order; class by class makes bad shards")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="threads that read and decode (default: 4)")

    table = parser.add_argument_group("a table")
    table.add_argument("--image-key", metavar="COLUMN", help="paths of images, or images (default: guessed)")
    table.add_argument("--image-root", type=Path, metavar="DIR", help="paths start there (default: the table's folder)")
    table.add_argument(
        "--caption-key", default="", metavar="'A;B'", help="columns: the raw caption; others (default: one is guessed)"
    )
    table.add_argument("--keep-columns", default="", metavar="'A;B'", help="columns that go into the json")
    table.add_argument("--url-key", metavar="COLUMN", help="goes into the json as url; what --join url goes by")
    table.add_argument("--class-key", metavar="COLUMN", help="goes into the member cls")
    table.add_argument("--only", metavar="'COLUMN=A;B'", help="rows with one of these values (default: all)")
    table.add_argument("--group", action="store_true", help="one sample of all rows of an image")
    table.add_argument("--csv-separator", metavar="C", help="(default: the first of tab, comma, | and ; in the header)")

    folder = parser.add_argument_group("a folder of images")
    folder.add_argument("--class-from-folder", action="store_true", help="the folder directly below SOURCE as cls")
    field = "captions in a json (default: captions)"
    folder.add_argument("--json-text-key", default="captions", metavar="'A;B'", help=field)

    join = parser.add_argument_group("shards")
    join.add_argument("--captions", type=Path, metavar="PATH", help="a table, or a folder with a parquet per shard")
    join.add_argument("--join", choices=JOINS, default="key", help="by the key, or the json's url (default: key)")

    images = parser.add_argument_group("images")
    images.add_argument("--resize", type=int, metavar="PX", help="short side of larger ones (default: keep all sizes)")
    images.add_argument("--resize-format", choices=FORMATS, default="jpg", help="of re-encoded ones (default: jpg)")
    images.add_argument("--quality", type=int, default=90, help="of jpg and webp (default: 90)")
    images.add_argument("--min-size", type=int, default=0, metavar="PX", help="leave out smaller short sides")
    decode = "decode kept images (default: yes)"
    images.add_argument("--verify", action=argparse.BooleanOptionalAction, default=True, help=decode)
    return parser


def only(typed: str | None) -> tuple[str, tuple[str, ...]] | None:
    """`COLUMN=A;B` as a column and values. Raises UsageError for anything else."""
    if typed is None:
        return None
    column, _, values = typed.partition("=")
    if not column.strip() or not split_names(values):
        raise UsageError(f"--only {typed}: write COLUMN=VALUE, or several values, COLUMN=A;B")
    return column, tuple(value.strip() for value in split_names(values))


main = command("open-clip-fff pack", parse, "open_clip_fff.tools.pack.run:pack")
