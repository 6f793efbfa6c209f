"""Measures the captions of a data set, raw against generated: one HTML page with figures, and CSVs.

    open-clip-fff analyze --out analysis --device cuda --train-data 'data/{00000..00099}.tar' \\
        --text-key txt --json-text-key captions --mining-model ViT-L-14-quickgelu --mining-pretrained openai

Draws the analysis figures of FFF's paper (arXiv 2405.10286, Figures 2, 3 and 5) for your data. Training's flags say
where captions are: those from `--text-key` are raw, those from json and sidecars are generated. Features are those of a
frozen model, stored ones (`--mining-features precomputed`), or a sentence model's (`--mining-features text`), which
leaves out what needs images. The page contains its images and needs no server.
"""

import argparse
from collections.abc import Sequence

from open_clip_fff.commands.program import command
from open_clip_fff.config.mining import SELF_FEATURES
from open_clip_fff.config.parsers import CommandParser
from open_clip_fff.config.plan import Plan
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.training_flags import MANY
from open_clip_fff.tools.analyze import PAGE
from open_clip_fff.tools.sampling.flags import add_sample_flags, parse_sample


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, Plan]:
    """The flags, with OpenCLIP's as `training`, and the plan of training. Raises UsageError for an invalid flag."""
    parser = CommandParser(prog, __doc__, "--train-data, --text-key, --json-text-key, --mining-model, …")
    add_sample_flags(parser, ("DIR", f"folder for {PAGE} and the CSVs"), ("--images", 5_000))
    add = parser.add_argument
    add("--batch", type=int, default=1_000, metavar="B", help="images whose captions compete for one (default: 1000)")
    add("--show", type=int, default=4, metavar="N", help="images of each part of examples (default: 4)")
    add("--workers", type=int, default=4, help="threads that decode (default: 4)")
    # with a warm-up, so that online features are refused below, by a message that helps
    fixed = {"loss": "fff", "caption_policy": "all", "method": None, "mining_warmup": 1}
    args, plan = parse_sample(
        parser,
        argv,
        {"images": 2, "batch": 2, "show": 0, "workers": 0},
        defaults={"captions_per_image": MANY, "mining_features": "frozen"},
        fixed=fixed,
        ignored=("mined_per_image", "ema_decay", "raw_weight"),
    )
    if plan.features in (*SELF_FEATURES, "off"):
        raise UsageError(
            f"--mining-features {plan.features}: there is no model to look with; choose frozen, precomputed or text"
        )
    return args, plan


main = command("open-clip-fff analyze", parse, "open_clip_fff.tools.analyze.run:run", with_line=True)
