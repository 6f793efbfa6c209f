"""Fine-tunes a fusion model to answer questions about images, in VQAv2's form, and scores it.

    open-clip-fff vqa --model my-model --out my-vqa --images coco --device cuda --steps 20000 --batch-size 256 \\
        --train-questions train-questions.json --train-annotations train-annotations.json \\
        --val-questions val-questions.json --val-annotations val-annotations.json
    open-clip-fff vqa --score my-vqa --images coco --result scores.json \\
        --test-questions val-questions.json --test-annotations val-annotations.json

The classes are the training file's most frequent answers. The step is chosen on the validation files, and test files,
if any, are scored after that, by VQA's accuracy. `my-vqa` is written completely or not at all. One process, one device.
"""

import argparse

from open_clip_fff.commands.program import command
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.tools.downstream.flags import add_task_flags, check_downstream

FILES = (("questions", "questions json"), ("annotations", "annotations json"))


def parse(argv: list[str], prog: str) -> tuple[argparse.Namespace]:
    """Raises UsageError for an invalid flag."""
    parser = CommandParser(prog, __doc__)
    add_task_flags(parser, FILES, "questions")
    parser.add_argument("--answers", type=int, default=3_000, metavar="N", help="the most classes (default: 3000)")
    count = "an answer becomes a class only if at least N people gave it (default: 1)"
    parser.add_argument("--min-count", type=int, default=1, metavar="N", help=count)
    args = parser.parse_args(argv)
    check_least(args, answers=2, min_count=1)
    check_downstream(parser, args, [name for name, _ in FILES], optional=["annotations"])
    return (args,)


main = command("open-clip-fff vqa", parse, "open_clip_fff.tools.downstream.vqa:run")
