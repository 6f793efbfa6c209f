"""Packs images and captions as webdataset shards that training reads.

    open-clip-fff pack captions.csv --out shards --image-key filepath --caption-key 'title;blip2' --resize 256
    open-clip-fff pack images/ --out shards --shuffle 0
    open-clip-fff pack 'laion/{00000..00099}.tar' --out shards --captions recaptions.parquet --join url

SOURCE is a table (CSV, jsonl, json, parquet, with paths of images or the images themselves); a folder of images with
NAME.txt and NAME.json beside them, or with a table metadata.*; or shards, to which captions are joined. The raw caption
goes to `txt`, all others to the json's `captions`. Each shard is read back and written atomically; a second start makes
the missing ones. `torchrun --nproc-per-node 8 -m open_clip_fff pack ...` shares the shards out.
"""

from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.commands.program import command
from open_clip_fff.config.fields import fields_by_flag, filled, flag_of
from open_clip_fff.config.flags import add_flag
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.pack.settings import HELP_GROUPS, ColumnNames, ImageSettings, PackSettings
from open_clip_fff.tools.shards.share import Share, add_share_flags


def parse(argv: Sequence[str], prog: str) -> tuple[PackSettings, Path, Share, int, bool]:
    """What `tools.pack.run.pack` takes. Raises UsageError for an invalid flag."""
    args = parser(prog).parse_args(argv)
    check_least(args, workers=0)
    given = vars(args)
    try:
        parts = {"columns": filled(ColumnNames, given), "images": filled(ImageSettings, given)}
        settings = filled(PackSettings, given, source=args.source, **parts)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return settings, args.out, Share.from_environment(args.share), args.workers, args.dry_run


def parser(prog: str) -> CommandParser:
    """The command line."""
    parser = CommandParser(prog, __doc__)
    parser.add_argument("source", metavar="SOURCE", help="a table, a folder of images, or shards with braces")
    add_share_flags(parser, "the shards", device=False)
    parser.add_argument("--dry-run", action="store_true", help="write nothing; print what would be written")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="threads that read and decode (default: 4)")
    groups = {"": parser, **{title: parser.add_argument_group(title) for title in HELP_GROUPS}}
    for kind in (ColumnNames, PackSettings, ImageSettings):
        for name, field in fields_by_flag(kind).items():
            flag = flag_of(field)
            add_flag(groups[flag.group or kind.group], flag, field.type)
            parser.set_defaults(**{name: flag.default})  # not in add_flag: a switch would add it to its help again
    return parser


main = command("open-clip-fff pack", parse, "open_clip_fff.tools.pack.run:pack", shared=True)
