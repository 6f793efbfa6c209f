"""Trains a BLIP to caption your own images, for `scripts/caption.py`: fine-tuned, or small and from random weights.

    python scripts/train_captioner.py --model Salesforce/blip-image-captioning-base --out captioner --device cuda \\
        --steps 5000 -- --train-data 'data/{00000..00099}.tar' --text-key '' --json-text-key captions

The flags behind `--` are those of training, and say where captions are; one of an image's is drawn at each visit.
`--from-config` starts from random weights, for small domains. A share of the images is held out by their ids, on which
the loss is measured before and after. `captioner` is written whole or not at all. One process, one device.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from open_clip_fff.captioning.captioner import Captioner
from open_clip_fff.captioning.decoding import Decoding
from open_clip_fff.captioning.training import from_config, from_name, held_out_loss, loss, save
from open_clip_fff.connection.fitting import Fitting, fit, pictures
from open_clip_fff.connection.loading import quiet
from open_clip_fff.connection.pairs import Pair, TrainingPairs, held_out_pairs
from open_clip_fff.data.shards import in_one_line, read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.devices import usable
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.host.shards import training_shards
from open_clip_fff.hub.borrowed import borrow, split_at_dashes
from open_clip_fff.plural import plural
from open_clip_fff.settings.flags import OneLineParser, as_flag
from open_clip_fff.shardwise.run import as_program
from open_clip_fff.whole import check_free, whole_folder

ALL = 10_000  # captions of an image: more than training may take
WORDS_OF = 20_000  # samples whose captions a tokenizer is learned from
SHOWN = 4
IDLE = ("raw_weight", "class_key", "min_coverage")  # only training needs them


def main(argv: list[str]) -> int:
    """Shards in, a captioner out."""
    return as_program("train_captioner.py", lambda: run(parse(argv)))


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; what stands behind `--` is read by training's own parser.

    Raises:
        UsageError: for a flag that cannot work.
    """
    parser = OneLineParser(prog="scripts/train_captioner.py", description=(__doc__ or "").splitlines()[0])
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--model", metavar="NAME|DIR", help="a BLIP that captions already: hub name or folder")
    start.add_argument("--from-config", type=Path, metavar="FILE", help="random weights, of transformers' json")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the model; must not exist")
    parser.add_argument("--steps", type=int, default=1_000, help="(default: 1000)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="pairs in a step (default: 32)")
    parser.add_argument("--lr", type=float, help="(default: 1e-5; 1e-3 with --from-config)")
    parser.add_argument("--wd", type=float, default=0.05, help="weight decay (default: 0.05)")
    parser.add_argument("--warmup", type=int, help="steps (default: a tenth)")
    parser.add_argument("--min-crop", type=float, default=0.8, help="least share of an image in a crop (default: 0.8)")
    parser.add_argument("--held-out", type=float, default=0.05, help="share of images, by id (default: 0.05)")
    parser.add_argument("--held-out-images", type=int, default=500, help="the most to measure on (default: 500)")
    parser.add_argument("--workers", type=int, default=2, help="processes that read images (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    here, there = split_at_dashes(argv)
    args = parser.parse_args(here)
    check(args)
    said = {"loss": "fff", "mining_features": "off", "captions_per_image": ALL, "caption_policy": "all", "method": None}
    plan, others = borrow(there, said=said, idle=IDLE)
    plan, args.shards, _ = training_shards(plan, others)
    args.reader = CaptionReader(plan.captions)
    return args


def check(args: argparse.Namespace) -> None:
    """Refuses what cannot work before anything is read.

    Raises:
        UsageError: for a number out of range, or a folder that is there.
    """
    for name, least in (("steps", 1), ("batch_size", 1), ("held_out_images", 1), ("workers", 0)):
        if (value := getattr(args, name)) < least:
            raise UsageError(f"{as_flag(name)} {value}: must be {least} or more")
    for name, most in (("held_out", 0.5), ("min_crop", 1.0)):
        if not 1e-4 <= (share := getattr(args, name)) <= most:
            raise UsageError(f"{as_flag(name)} {share:g}: a share from 0.0001 to {most:g}")
    check_free(args.out)


def run(args: argparse.Namespace) -> int:
    """Trains, measures, and writes the folder.

    Raises:
        UsageError: if the model cannot be loaded, or there is nothing to train or measure on.
    """
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    captioner = from_name(args.model) if args.model else from_config(args.from_config, words(args))
    model, images = captioner.model, captioner.image_processor
    model.to(usable(args.device)).eval()
    size = (images.size["height"], images.size["width"])
    crop, whole = pictures(size, (tuple(images.image_mean), tuple(images.image_std)), args.min_crop)
    pairs, others = held_out_pairs(args.shards, args.reader, whole, args.held_out, args.held_out_images)
    if not pairs or not others:
        raise UsageError(
            f"--held-out {args.held_out:g}: keeps {len(pairs)} of {plural(others + len(pairs), 'images')} with captions"
        )
    print(f"a BLIP of {sum(x.numel() for x in model.parameters()):,} weights, on {args.device}")
    before = held_out_loss(captioner, pairs)
    loader = DataLoader(
        TrainingPairs(args.shards, args.reader, crop, args.held_out, args.seed),
        args.batch_size,
        num_workers=args.workers,
    )
    rate = args.lr if args.lr is not None else 1e-3 if args.from_config else 1e-5

    def losses(batch: tuple[torch.Tensor, list[str], torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": loss(captioner, batch[0].to(args.device), batch[1])}

    fit(model, loader, losses, Fitting(args.steps, rate, args.wd, args.warmup), args.device)
    after = held_out_loss(captioner, pairs)
    print(
        f"loss on {plural(len(pairs), 'held-out pairs')}: {before:.3f} before, {after:.3f} after "
        f"{plural(args.steps, 'steps')}"
    )
    print("\n".join(examples(captioner, pairs[:SHOWN])))
    told = {
        "held_out": {"before": before, "after": after},
        "steps": args.steps,
        "start": args.model or "random weights",
    }
    try:
        with whole_folder(args.out) as folder:
            save(captioner, folder)
            (folder / "training.json").write_text(json.dumps(told, indent=1) + "\n")
    except Exception as error:  # a full disk is another exception to each library
        raise UsageError(f"--out {args.out}: cannot be written ({reason(error)})") from error
    print(f"{args.out} is written: scripts/caption.py --model {args.out}")
    return 0


def words(args: argparse.Namespace) -> list[str]:
    """Captions to learn a tokenizer from. Raises UsageError for a shard that cannot be read."""
    samples = in_one_line(read_samples(args.shards, WORDS_OF), f"--train-data: {args.shards[0]}")
    return [caption for sample in samples for caption in args.reader.row(sample).captions]


def examples(captioner: Captioner, pairs: list[Pair]) -> list[str]:
    """The likeliest captions of held-out images beside their own."""
    with quiet():
        said = captioner.say([pair.pixels for pair in pairs], Decoding("greedy", captions=1))
    return [f"  own {pair.caption!r}, said {texts[0]!r}" for pair, (texts, _) in zip(pairs, said, strict=True)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
