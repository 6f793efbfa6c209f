"""Stores a frozen model's features of images and captions, so that mining needs no second tower.

    open-clip-fff embed --out features --device cuda --train-data 'data/{00000..00099}.tar' \\
        --json-text-key captions --mining-model ViT-L-14-quickgelu --mining-pretrained openai

Takes training's flags, too, and reads the same captions. `--mining-features text` stores a sentence model's features of
captions. Writes a parquet per shard, for `--mining-features precomputed --feature-sidecar features`, or with
`--into tars` the shards again, each sample with its `feat.npz`. Files are written atomically; a second start makes
the missing ones. `torchrun --nproc-per-node 8 -m open_clip_fff embed ...` shares the shards out.
"""

import argparse

from open_clip_fff.commands.program import command
from open_clip_fff.config.command_line import parse_shard_flags
from open_clip_fff.config.flags import flag_parser
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.config.plan import Plan
from open_clip_fff.hub.training_flags import ALL_CAPTIONS, parse_with_training, training_plan
from open_clip_fff.tools.shards.share import INTO, add_share_flags

IDLE = ("feature_sidecar", "mined_per_image", "mining_warmup", "ema_decay", "raw_weight")  # only training needs them


def parse(argv: list[str], prog: str = "open-clip-fff embed") -> tuple[argparse.Namespace, Plan]:
    """The command's own flags, with OpenCLIP's as `training`, and the plan of training.

    Raises UsageError for a training flag that cannot work, or no model.
    """
    parser = CommandParser(prog, __doc__, "--train-data, --json-text-key, --mining-model, --mining-pretrained, …")
    add_share_flags(parser, "the features")
    parser.add_argument("--into", choices=INTO, default="sidecar", help="parquets, or new tars (default: sidecar)")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="images at a time (default: 256)")
    parser.add_argument("--workers", type=int, default=4, help="threads that decode (default: 4)")
    args, training = parse_with_training(parser, argv)
    check_least(args, batch_size=1, workers=0)
    ours, _ = flag_parser().parse_known_args(training)
    features = "text" if getattr(ours, "mining_features", None) == "text" else "frozen"
    plan, others = training_plan(training, fixed={**ALL_CAPTIONS, "mining_features": features}, ignored=IDLE)
    args.training = parse_shard_flags(others)
    return args, plan


main = command("open-clip-fff embed", parse, "open_clip_fff.tools.embed:run", shared=True)
