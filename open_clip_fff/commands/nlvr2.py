"""Fine-tunes a fusion model to tell whether a sentence is true of two images, in NLVR2's form, and scores it.

    open-clip-fff nlvr2 --model my-model --out my-nlvr2 --images nlvr2/images --device cuda --steps 10000 \\
        --train-data nlvr2/data/train.json --val-data nlvr2/data/dev.json --test-data nlvr2/data/test1.json
    open-clip-fff nlvr2 --score my-nlvr2 --images nlvr2/images --test-data nlvr2/data/test1.json --result scores.json

The sentence is fused with each image; a head reads both states. The step is chosen on the validation file, and the test
file, if any, is scored after that. `my-nlvr2` is written completely or not at all. One process, one device.
"""

import argparse

from open_clip_fff.commands.program import command
from open_clip_fff.config.parsers import CommandParser
from open_clip_fff.tools.downstream.flags import add_task_flags, check_downstream

FILES = (("data", "json lines"),)


def parse(argv: list[str], prog: str) -> tuple[argparse.Namespace]:
    """Raises UsageError for an invalid flag."""
    parser = CommandParser(prog, __doc__)
    add_task_flags(parser, FILES, "sentences")
    args = parser.parse_args(argv)
    check_downstream(parser, args, [name for name, _ in FILES])
    return (args,)


main = command("open-clip-fff nlvr2", parse, "open_clip_fff.tools.downstream.nlvr2:run")
