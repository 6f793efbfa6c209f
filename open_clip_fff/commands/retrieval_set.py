"""Makes a retrieval set of one's own shards, in the layout that clip-benchmark and score read.

open-clip-fff retrieval-set 'data/test-{000..004}.tar' --out sets/my-test --json-text-key captions
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from open_clip_fff.commands.program import command
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.hub.training_flags import (
    ALL_CAPTIONS,
    CAPTION_FLAGS,
    CAPTIONS_HELP,
    parse_with_training,
    training_plan,
)


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, CaptionSettings]:
    """The command line with training's flags of captions. Raises UsageError for other flags and wrong values."""
    parser = CommandParser(prog, __doc__, CAPTIONS_HELP, every=False)
    parser.add_argument("shards", help="tars, with braces as in training")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the set's folder, which must not exist")
    parser.add_argument("--captions", type=int, default=5, metavar="K", help="of an image at most (default: 5)")
    arguments, training = parse_with_training(parser, argv, only=CAPTION_FLAGS)
    check_least(arguments, captions=1)
    fixed = {**ALL_CAPTIONS, "captions_per_image": arguments.captions}
    return arguments, replace(training_plan(training, fixed=fixed)[0].captions, shards=arguments.shards)


main = command("open-clip-fff retrieval-set", parse, "open_clip_fff.tools.evaluation_sets:retrieval_set")
