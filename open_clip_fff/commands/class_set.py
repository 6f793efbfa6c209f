"""Makes a zero-shot classification set of one's own images, in the layout that clip-benchmark and score read.

    open-clip-fff class-set images/ --out sets/birds
    open-clip-fff class-set 'data/test-{000..004}.tar' --out sets/birds --class-key label --class-names names.txt

SOURCE is a folder with a folder of images for each class, as torchvision's ImageFolder reads it, or shards whose
samples have a class. A class is named after its folder, with spaces for underscores, or by --class-names.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.commands.program import command
from open_clip_fff.config.parsers import CommandParser
from open_clip_fff.errors import UsageError


def parse(argv: Sequence[str], prog: str) -> tuple[str, Path, str, str, Path | None, Path | None]:
    """What `tools.class_set.class_set` takes. Raises UsageError for a split that is no plain name."""
    parser = CommandParser(prog, __doc__)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a folder with a folder of images per class, or shards")
    add("--out", type=Path, required=True, metavar="DIR", help="the set's folder; a split is added to one")
    add("--class-key", default="cls", metavar="NAME", help="of shards: tar member or json field (default: cls)")
    names = "names in order, or LABEL<TAB>NAME, a line each (default: labels)"
    add("--class-names", type=Path, metavar="FILE", help=names)
    templates = "one a line, with {c} for the name (default: CLIP's short list)"
    add("--templates", type=Path, metavar="FILE", help=templates)
    add("--split", default="test", metavar="NAME", help="train serves linear probes (default: test)")
    args = parser.parse_args(argv)
    if not re.fullmatch(r"[\w-]+", args.split):
        raise UsageError(f"--split {args.split}: letters and digits, such as test or train")
    return args.source, args.out, args.split, args.class_key, args.class_names, args.templates


main = command("open-clip-fff class-set", parse, "open_clip_fff.tools.class_set:class_set")
