"""The flags that vqa and nlvr2 share."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.atomic_io import check_new_folder, check_writable
from open_clip_fff.config.fields import as_flag
from open_clip_fff.config.parsers import CommandParser, check_least
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.finetune.flags import add_loop_flags, check_loop_flags, check_shares

LR, HEAD_FACTOR = 2e-5, 10  # ALBEF's rate for both tasks; the head is new
TRAINING = (  # flags that --score does not read
    *("out", "pooled", "freeze_towers", "steps", "lr", "head_lr", "wd", "warmup", "min_crop", "validate_every", "seed"),
    *("answers", "min_count"),
)
SPLITS = {"train": "to train on", "val": "to choose the step on", "test": "to score, after that"}


def add_task_flags(parser: CommandParser, files: Sequence[tuple[str, str]], rows: str) -> None:
    """Adds the flags. `files`: for each file of a split, the end of its flag and what it holds; a batch has `rows`."""
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--model", metavar="DIR|RUN", help="fine-tune this export or run with a fusion model")
    start.add_argument("--score", type=Path, metavar="DIR", help="score a folder that an earlier call wrote")
    add = parser.add_argument
    add("--images", type=Path, nargs="+", required=True, metavar="DIR", help="where images are, in folders below, too")
    for split, use in SPLITS.items():
        for name, what in files:
            add(f"--{split}-{name}", type=Path, metavar="FILE", help=f"{what} {use}")
    add("--out", type=Path, metavar="DIR", help="for the fine-tuned model and its figures; must not exist")
    add("--result", type=Path, metavar="FILE", help="for the figures of --score, as json")
    add("--predictions", type=Path, metavar="FILE", help="for the answers to the test file, as json")
    add("--pooled", action="store_true", help="baseline: over the towers' features, without the fusion model")
    add("--freeze-towers", action="store_true", help="train only the fusion model and the head")
    add_loop_flags(parser, rows, f"{LR:g}", 0.5)
    add("--head-lr", type=float, help=f"of the new head (default: {HEAD_FACTOR} times --lr)")
    add("--validate-every", type=int, metavar="STEPS", help="(default: a tenth of --steps)")


def check_downstream(
    parser: CommandParser, args: argparse.Namespace, files: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """Fills in rates, and raises UsageError for flags that do not go together and files that are not there.

    `parser` made `args`. `files` make a split, as the end of their flags; a test split may lack the `optional` ones.
    """
    check_least(args, batch_size=1, validate_every=1, head_lr=0)
    check_loop_flags(args)
    check_shares(args, min_crop=(1e-4, 1.0))
    named = {split: [name for name in files if getattr(args, f"{split}_{name}")] for split in SPLITS}
    if args.score:
        unused = [f"{split}_{name}" for split in ("train", "val") for name in named[split]]
        unused += [name for name in TRAINING if getattr(args, name, None) != parser.get_default(name)]
        if unused:
            raise UsageError(f"{as_flag(unused[0])}: goes with --model; --score reads test files")
    elif args.result:
        raise UsageError("--result: goes with --score; --out gets the figures, too")
    for split in ("test",) if args.score else ("train", "val", *["test"] * bool(named["test"])):
        for name in files:
            if name not in named[split] and not (split == "test" and name in optional):
                raise UsageError(f"--{split}-{name}: name the file {SPLITS[split]}")
    for name in ("result",) if args.score else ("out",):
        if getattr(args, name) is None:
            raise UsageError(f"--{name}: name where the figures go")
    folder = args.score or args.out
    for name in ("result", "predictions"):
        if (path := getattr(args, name)) and path.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"--{name} {path}: is in the model's own folder, {folder}; name a file outside of it")
    if args.result and args.result == args.predictions:
        raise UsageError(f"--predictions {args.predictions}: is the file of --result; name another one")
    if args.predictions and not named["test"]:
        raise UsageError("--predictions: needs a test file")
    if set(optional) - set(named["test"]) and named["test"] and not args.predictions:
        raise UsageError(f"--test-{optional[0]}: without it there is no score; name it, or --predictions FILE")
    for split, names in named.items():
        for name in names:
            if not (path := getattr(args, f"{split}_{name}")).is_file():
                raise UsageError(f"--{split}-{name} {path}: there is no such file")
    args.lr = LR if args.lr is None else args.lr
    args.head_lr = HEAD_FACTOR * args.lr if args.head_lr is None else args.head_lr
    if args.out:
        check_new_folder(args.out)
    for name in ("result", "predictions"):
        if path := getattr(args, name):
            if path.is_dir():
                raise UsageError(f"--{name} {path}: is a folder; name a file")
            check_writable(path.parent, f"--{name} {path}")
