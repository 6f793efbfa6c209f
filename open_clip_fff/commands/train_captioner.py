"""Trains a BLIP to caption your own images, for `open-clip-fff caption`: fine-tuned, or small and from random weights.

    open-clip-fff train-captioner --model Salesforce/blip-image-captioning-base --out captioner --device cuda \\
        --steps 5000 --train-data 'data/{00000..00099}.tar' --text-key '' --json-text-key captions

Training's flags say where captions are; a random one is used at each visit of an image. `--from-config` starts from
random weights, for small domains. A share of the images is held out by their ids, and the loss on them is measured
before and after. `captioner` is written completely or not at all. One process, one device.
"""

import argparse

from open_clip_fff.commands.program import command
from open_clip_fff.config.command_line import parse_shard_flags
from open_clip_fff.config.parsers import CommandParser
from open_clip_fff.config.plan import Plan
from open_clip_fff.hub.training_flags import ALL_CAPTIONS, parse_with_training, training_plan
from open_clip_fff.tools.finetune.flags import add_finetuning_flags, check_finetuning

UNUSED = ("raw_weight", "class_key", "min_coverage")  # settings that only training needs


def parse(argv: list[str], prog: str) -> tuple[argparse.Namespace, Plan]:
    """The flags, with OpenCLIP's as `training`, and the plan of training. Raises UsageError for an invalid flag."""
    parser = CommandParser(prog, __doc__, "--train-data, --text-key, --json-text-key, --caption-sidecar, …")
    add_finetuning_flags(parser, "a BLIP that captions", 0.8)
    args, training = parse_with_training(parser, argv)
    check_finetuning(args, batch_size=1, held_out_images=1)
    plan, others = training_plan(training, fixed={**ALL_CAPTIONS, "mining_features": "off"}, ignored=UNUSED)
    args.training = parse_shard_flags(others)
    return args, plan


main = command("open-clip-fff train-captioner", parse, "open_clip_fff.tools.finetune.captioner:run")
