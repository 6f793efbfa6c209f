"""Fine-tunes an image-text matching model on your own pairs, for `--discriminator`.

    open-clip-fff train-discriminator --model Salesforce/blip-itm-base-coco --out con-d --device cuda \\
        --train-data 'data/{00000..00099}.tar' --json-text-key captions --steps 5000

Training's flags say where captions are. `--from-config` starts from random weights, for small domains. A share of the
images is held out by their ids, and the model is measured on them before and after; `con-d` is written completely or
not at all, and loads as `--discriminator blip:con-d`. One process, one device.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from open_clip_fff.commands.program import command
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.config.fields import as_flag
from open_clip_fff.config.parsers import CommandParser
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.training_flags import (
    ALL_CAPTIONS,
    CAPTION_FLAGS,
    CAPTIONS_HELP,
    parse_with_training,
    training_plan,
)
from open_clip_fff.tools.finetune.flags import (
    HARD_SHARE,
    LEAST_PAIRS,
    add_finetuning_flags,
    check_finetuning,
    check_shares,
)

LABELLING = ("discriminator", "match_positive", "match_negative", "plugin")


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, CaptionSettings, ConnectionSettings | None]:
    """The command's own flags, and training's about captions and the discriminator that labels hardest pairs.

    Raises UsageError for an invalid flag.
    """
    labelling = f"those of the model that labels hardest pairs ({', '.join(map(as_flag, LABELLING))})"
    parser = CommandParser(prog, __doc__, f"{CAPTIONS_HELP}, and {labelling}", every=False)
    add_finetuning_flags(parser, "BLIP or BLIP-2 with a matching head", 0.5)
    add = parser.add_argument
    add("--train-data", required=True, metavar="TARS", help="with braces as in training")
    add("--tokenizer", metavar="NAME|DIR", help="for --from-config (default: learned from captions)")
    hard = (
        "of negatives sampled by the model's cosine, the others at random; less where many captions match many images "
        f"(default: {HARD_SHARE})"
    )
    add("--hard-negatives", type=float, metavar="SHARE", help=hard)
    negatives = (
        "sampled: by --hard-negatives; hardest: each image's and each caption's hardest, as GRIT-VLP, and with "
        "training's --discriminator KIND:NAME and --match-positive and -negative by MAFA's rules (default: sampled)"
    )
    add("--itm-negatives", choices=("sampled", "hardest"), default="sampled", help=negatives)
    add("--freeze-vision", action=argparse.BooleanOptionalAction, default=False, help="(default: no)")
    args, training = parse_with_training(parser, argv, only={*CAPTION_FLAGS, *LABELLING})
    check_finetuning(args, batch_size=2, held_out_images=LEAST_PAIRS)
    if args.hard_negatives is None:
        args.hard_negatives = HARD_SHARE
    elif args.itm_negatives != "sampled":
        raise UsageError("--hard-negatives: is of sampled ones; leave it out with --itm-negatives hardest")
    check_shares(args, hard_negatives=(0.0, 1.0))
    if args.tokenizer and not args.from_config:
        raise UsageError("--tokenizer: goes with --from-config; --model has its own")
    plan = training_plan(training, fixed=ALL_CAPTIONS)[0]
    if plan.connection is not None and args.itm_negatives != "hardest":
        raise UsageError("--discriminator: labels the hardest pairs; add --itm-negatives hardest")
    return args, replace(plan.captions, shards=args.train_data), plan.connection


main = command("open-clip-fff train-discriminator", parse, "open_clip_fff.tools.finetune.discriminator:run")
