"""Linear probes of models: a logistic regression on frozen image features, by scikit-learn.

open-clip-fff probe logs/my-run my-model --data-root data --datasets cifar10
"""

import argparse
from collections.abc import Sequence

from open_clip_fff.commands.program import command
from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.flags import eval_parser


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, str]:
    """Raises UsageError for an invalid flag."""
    parser = eval_parser(prog, __doc__)
    shots = "training images per class; -1 for all (default: all)"
    parser.add_argument("--shots", type=int, default=-1, metavar="N", help=shots)
    parser.add_argument("--seed", type=int, default=0, help="for drawing them, and for choosing C (default: 0)")
    arguments = parser.parse_args(argv)
    if not (arguments.shots == -1 or arguments.shots > 0):
        raise UsageError(f"--shots {arguments.shots}: must be 1 or more, or -1 for all")
    return arguments, prog


main = command("open-clip-fff probe", parse, "open_clip_fff.evaluation.probe:run", resumes=True)
