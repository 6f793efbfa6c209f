"""What the captions of a data set are like, raw ones against generated ones: one HTML page with figures, and CSVs.

    open-clip-fff analyze --out analysis --device cuda --train-data 'data/{00000..00099}.tar' \\
        --text-key txt --json-text-key captions --mining-model ViT-L-14-quickgelu --mining-pretrained openai

Draws the analysis figures of FFF's paper (arXiv 2405.10286, Figures 2, 3 and 5) of one's own data. Training's flags say
where captions are: those from `--text-key` are raw, those from json and sidecars are generated. Features are those of a
frozen model, stored ones (`--mining-features precomputed`), or a sentence model's (`--mining-features text`), and then
what takes images is left out. The page holds its images and needs no server.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.commands.program import as_program, command_line, typed
from open_clip_fff.config.command_line import parse_shard_flags
from open_clip_fff.config.mining import SELF
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.config.plan import Plan
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.training_flags import parse_with_training, training_plan
from open_clip_fff.tools.analyze.constants import ALL, PAGE
from open_clip_fff.tools.sampling.sizes import SHARDS

IDLE = ("mined_per_image", "ema_decay", "raw_weight")  # only training needs them


def main(argv: Sequence[str] | None = None, prog: str = "open-clip-fff analyze") -> int:
    """Shards in, a folder with a page out.

    Returns:
        0; 1 if a shard could not be read to its end; 2 for a mistake that the user can mend, printed in one line.
    """

    def body() -> int:
        args, plan = parse(typed(argv), prog)
        from open_clip_fff.tools.analyze.command import run

        return run(args, plan, command_line(prog, typed(argv)))

    return as_program(prog, body)


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, Plan]:
    """The command line: the program's own flags, with OpenCLIP's as `training`, and the plan of training's.

    Raises:
        UsageError: for a flag that cannot work.
    """
    parser = CommandParser(prog, __doc__, "--train-data, --text-key, --json-text-key, --mining-model, …")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"folder for {PAGE} and the CSVs")
    parser.add_argument(
        "--images",
        type=int,
        default=5_000,
        metavar="N",
        help=f"to draw, evenly from up to {SHARDS} shards (default: 5000)",
    )
    parser.add_argument(
        "--batch", type=int, default=1_000, metavar="B", help="images whose captions compete for one (default: 1000)"
    )
    parser.add_argument("--show", type=int, default=4, metavar="N", help="images of each part of examples (default: 4)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument("--workers", type=int, default=4, help="threads that decode (default: 4)")
    args, training = parse_with_training(parser, argv)
    check_least(args, images=2, batch=2, show=0, workers=0)
    defaults = {"captions_per_image": ALL, "mining_features": "frozen"}
    # with a warm-up, so that the trained model's own features are refused below, in words that help
    fixed = {"loss": "fff", "caption_policy": "all", "method": None, "mining_warmup": 1}
    plan, others = training_plan(training, defaults, fixed, ignored=IDLE)
    if plan.features in (*SELF, "off"):
        raise UsageError(
            f"--mining-features {plan.features}: there is no model to look with; choose frozen, precomputed or text"
        )
    args.training = parse_shard_flags(others)
    return args, plan
