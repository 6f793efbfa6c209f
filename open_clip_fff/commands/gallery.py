"""Shows what is mined on a sample of your data, pairs nearest to the thresholds first, as one HTML page.

    open-clip-fff gallery --out gallery.html --train-data 'data/{00000..00099}.tar' \\
        --json-text-key captions --mining-model ViT-L-14-quickgelu --mining-pretrained openai

Takes training's flags, too, all or some; without a method or loss, they mean `--method fff`.
With `--discriminator` the hardest pairs of batches are scored as well. The page contains its images and needs no
server.
"""

import argparse
from collections.abc import Sequence

from open_clip_fff.commands.program import command
from open_clip_fff.config.mining import SELF_FEATURES
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.config.plan import Plan
from open_clip_fff.errors import UsageError
from open_clip_fff.hub import MODEL_FORMS
from open_clip_fff.tools.sampling.flags import GALLERY_SHARDS, add_sample_flags, parse_sample


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, Plan]:
    """The command's own flags, with OpenCLIP's as `training`, and the plan of training.

    Raises UsageError for an invalid flag, and if nothing mines or nothing finds the hardest pairs.
    """
    parser = CommandParser(prog, __doc__, "--train-data, --json-text-key, --mining-model, --p1, --discriminator, …")
    add_sample_flags(
        parser, ("FILE.html", "the page; replaced if it is there"), ("--samples", 1_000), shards=GALLERY_SHARDS
    )
    add = parser.add_argument
    add("--show", type=int, default=30, metavar="N", help="rows of each part (default: 30)")
    add(
        "--batch-size", type=int, metavar="B", help="images in a batch of training (default: what training's flags say)"
    )
    add("--hardest-by", metavar="RUN_OR_MODEL", help=f"finds the hardest pairs (default: what mines): {MODEL_FORMS}")
    args, plan = parse_sample(parser, argv, {"samples": 2, "show": 1, "batch_size": 2})
    if args.batch_size is None:
        args.batch_size = args.one_process_batch
    check_least(args, batch_size=2)
    if args.out.is_dir():
        raise UsageError(f"--out {args.out}: is a folder; name a file in it")
    if plan.features in SELF_FEATURES:
        raise UsageError(
            f"--mining-features {plan.features}: in training the model itself mines; look with a checkpoint of it: "
            f"--mining-features frozen --mining-model NAME --mining-pretrained CHECKPOINT"
        )
    if plan.mining is None and plan.connection is None:
        raise UsageError(
            "nothing mines: add --mining-features frozen --mining-model NAME, or --discriminator KIND:NAME"
        )
    if plan.connection is None and args.hardest_by is not None:
        raise UsageError("--hardest-by: hardest pairs are scored by --discriminator KIND:NAME, which is missing")
    return args, plan


main = command("open-clip-fff gallery", parse, "open_clip_fff.tools.gallery.run:run", with_line=True)
