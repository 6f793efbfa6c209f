"""Fine-tunes an image-text matching model on your own pairs, for `--discriminator`: who belongs to whom after all.

    python scripts/train_discriminator.py --model Salesforce/blip-itm-base-coco --out con-d --device cuda \\
        --train-data 'data/{00000..00099}.tar' --json-text-key captions --steps 5000

Training's flags say where captions are. `--from-config` starts from random weights, for small domains. A share of the
images is held out by their ids, on which the model is measured before and after; `con-d` is written whole or not at
all, and loads as `--discriminator blip:con-d`. One process, one device.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import webdataset as wds
from torch.utils.data import DataLoader

from open_clip_fff.connection.fitting import Fitting, Losses, fit, pictures
from open_clip_fff.connection.loading import load_matching, quiet
from open_clip_fff.connection.matching import MatchingModel
from open_clip_fff.connection.measure import Table, in_words, measure
from open_clip_fff.connection.pairs import Pair, Picture, TrainingPairs, held_out_pairs
from open_clip_fff.connection.scratch import from_config
from open_clip_fff.connection.training import HARD, losses, same_pair
from open_clip_fff.data.shards import in_one_line, read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.devices import usable
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.plural import plural
from open_clip_fff.settings import CaptionSettings, make_plan
from open_clip_fff.settings.flags import as_flag, flag_parser
from open_clip_fff.whole import check_free, whole_folder

ALL = 10_000  # captions of an image: more than training may take
CAPTIONS = ("text_key", "json_text_key", "caption_sidecar", "sidecar_text_key", "split_sentences", "caption_words")
WORDS_OF = 20_000  # samples whose captions a tokenizer is learned from
LEAST = 8  # held-out pairs, below which the figures mean nothing


def main(argv: Sequence[str] | None = None) -> int:
    """Shards in, a discriminator out.

    Returns:
        0, or 2 for a mistake that the user can mend, which is printed in one line.
    """
    try:
        args, captions = parse(argv)
        run(args, CaptionReader(captions))
    except UsageError as error:
        print(f"train_discriminator.py: error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, CaptionSettings]:
    """The command line, of which the flags about captions are training's.

    Raises:
        UsageError: for a flag that cannot work, or is none.
    """
    parser = argparse.ArgumentParser(
        prog="scripts/train_discriminator.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--model", metavar="NAME|DIR", help="BLIP or BLIP-2 with a matching head: hub name or folder")
    start.add_argument("--from-config", type=Path, metavar="FILE", help="random weights, of transformers' json")
    parser.add_argument("--tokenizer", metavar="NAME|DIR", help="for --from-config (default: learned from captions)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the model; must not exist")
    parser.add_argument("--train-data", required=True, metavar="TARS", help="with braces as in training")
    parser.add_argument("--steps", type=int, default=1_000, help="(default: 1000)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="pairs in a step (default: 32)")
    parser.add_argument("--lr", type=float, help="(default: 1e-5; 1e-3 with --from-config)")
    parser.add_argument("--wd", type=float, default=0.05, help="weight decay (default: 0.05)")
    parser.add_argument("--warmup", type=int, help="steps (default: a tenth)")
    parser.add_argument("--min-crop", type=float, default=0.5, help="least share of an image in a crop (default: 0.5)")
    parser.add_argument(
        "--hard-negatives",
        type=float,
        default=HARD,
        metavar="SHARE",
        help="how many captions and images that do not belong together are drawn among the most alike, and not at "
        "random; less where many captions fit many images (default: 0.5)",
    )
    parser.add_argument("--held-out", type=float, default=0.05, help="share of images, by id (default: 0.05)")
    parser.add_argument("--held-out-images", type=int, default=500, help="the most to measure on (default: 500)")
    parser.add_argument("--freeze-vision", action=argparse.BooleanOptionalAction, default=False, help="(default: no)")
    parser.add_argument("--workers", type=int, default=2, help="processes that read images (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.epilog = "Training's flags say where captions are: --text-key, --json-text-key, --caption-sidecar, …"
    args, rest = parser.parse_known_args(argv)
    typed, unknown = flag_parser().parse_known_args(rest)
    if foreign := unknown + [as_flag(name) for name in vars(typed) if name not in CAPTIONS]:
        raise UsageError(f"{foreign[0]}: neither a flag of this program nor one of training's about captions")
    vars(typed).update(captions_per_image=ALL, caption_policy="all", loss="fff", method=None)
    check(args)
    return args, replace(make_plan(typed).captions, shards=args.train_data)


def check(args: argparse.Namespace) -> None:
    """Refuses what cannot work before anything is read.

    Raises:
        UsageError: for a number out of range, or a folder that is there.
    """
    for name, least in (("steps", 1), ("batch_size", 2), ("held_out_images", LEAST), ("workers", 0)):
        if (value := getattr(args, name)) < least:
            raise UsageError(f"{as_flag(name)} {value}: must be {least} or more")
    for name, least_share, most in (("held_out", 1e-4, 0.5), ("min_crop", 1e-4, 1.0), ("hard_negatives", 0.0, 1.0)):
        if not least_share <= (share := getattr(args, name)) <= most:
            raise UsageError(f"{as_flag(name)} {share:g}: a share from {least_share:g} to {most:g}")
    check_free(args.out)
    if args.tokenizer and not args.from_config:
        raise UsageError("--tokenizer: goes with --from-config; --model has its own")


def run(args: argparse.Namespace, reader: CaptionReader) -> None:
    """Trains, measures, and writes the folder.

    Raises:
        UsageError: if the model cannot be loaded, or there is nothing to train or measure on.
    """
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    urls = wds.shardlists.expand_urls(args.train_data)
    if args.model:
        matching = load_matching(args.model, f"--model {args.model}")
    else:
        matching = from_config(args.from_config, _words(urls, reader), args.tokenizer)
    matching.model.to(usable(args.device)).eval()
    crop, whole = pictures(matching.size, matching.normalisation, args.min_crop)
    pairs = held_out_of(args, urls, reader, whole)
    print(f"{matching.kind}, {sum(x.numel() for x in matching.model.parameters()):,} weights, on {args.device}")
    before = report(f"before, on {plural(len(pairs), 'held-out pairs')}", matching, pairs)
    loader = DataLoader(
        TrainingPairs(urls, reader, crop, args.held_out, args.seed),
        batch_size=args.batch_size,
        num_workers=args.workers,
        drop_last=True,
        pin_memory=args.device.startswith("cuda"),
    )
    train(matching, loader, args)
    after = report(f"after {plural(args.steps, 'steps')}", matching, pairs)
    save(matching, args.out, {"arguments": vars(args), "held_out": {"before": before, "after": after}})
    print(f"{args.out} is written: --discriminator {matching.kind}:{args.out}")


def train(matching: MatchingModel, loader: DataLoader, args: argparse.Namespace) -> None:
    """Over the matching and the contrastive loss."""
    if args.freeze_vision:
        matching.model.vision_model.requires_grad_(False)
    rate = args.lr if args.lr is not None else 1e-3 if args.from_config else 1e-5

    def both(batch: Any) -> Losses:
        pixels, captions, ids = batch
        alignment, matched = losses(matching, pixels.to(args.device), captions, ids, args.hard_negatives)
        return {"matching": matched, "contrastive": alignment}

    fit(matching.model, loader, both, Fitting(args.steps, rate, args.wd, args.warmup), args.device)


def held_out_of(args: argparse.Namespace, urls: list[str], reader: CaptionReader, picture: Picture) -> list[Pair]:
    """The pairs to measure on.

    Raises:
        UsageError: where there are too few, or none to train on.
    """
    pairs, others = held_out_pairs(urls, reader, picture, args.held_out, args.held_out_images)
    if not others:
        raise UsageError(f"--train-data: no image with a caption in {', '.join(reader.captions.sources)}")
    ids = torch.tensor([pair.id for pair in pairs])
    if len(pairs) < LEAST or bool(same_pair(ids, [pair.caption for pair in pairs]).all()):
        raise UsageError(
            f"--held-out {args.held_out:g}: keeps {len(pairs)} of {plural(others + len(pairs), 'images')} with "
            f"captions, too few different ones to measure on; raise it"
        )
    return pairs


def report(title: str, matching: MatchingModel, pairs: list[Pair]) -> Table:
    """Measures and prints."""
    table = measure(matching, pairs)
    print(f"\n{title}, in %:\n{in_words(table)}\n", flush=True)
    return table


def save(matching: MatchingModel, out: Path, told: dict[str, Any]) -> None:
    """Weights, tokenizer, preprocessor and figures, whole or not at all.

    Raises:
        UsageError: if they cannot be written.
    """
    try:
        with whole_folder(out) as folder, quiet():
            matching.model.save_pretrained(folder)
            matching.tokenizer.save_pretrained(folder)
            matching.image_processor.save_pretrained(folder)
            (folder / "discriminator.json").write_text(json.dumps(told, indent=2, default=str) + "\n")
    except Exception as error:  # a full disk is another exception to each library
        raise UsageError(f"--out {out}: cannot be written ({reason(error)})") from error


def _words(urls: list[str], reader: CaptionReader) -> list[str]:
    samples = in_one_line(read_samples(urls, WORDS_OF), f"--train-data: {urls[0]}")
    return [caption for sample in samples for caption in reader.row(sample).captions]


if __name__ == "__main__":
    sys.exit(main())
