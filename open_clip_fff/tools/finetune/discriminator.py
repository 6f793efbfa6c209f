"""open-clip-fff train-discriminator: a matching model fine-tuned, measured and written."""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from open_clip_fff.atomic_io import atomic_folder
from open_clip_fff.data.data_sets import expand_shards
from open_clip_fff.data.shards import as_usage_errors, read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.devices import usable
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.matching.loading import load_matching
from open_clip_fff.matching.model import MatchingModel
from open_clip_fff.models.transformers_weights import silenced_transformers
from open_clip_fff.plural import plural
from open_clip_fff.tools.finetune.defaults import LEAST
from open_clip_fff.tools.finetune.discriminator_losses import losses, same_pair
from open_clip_fff.tools.finetune.loop import Fitting, Losses, fit, pictures
from open_clip_fff.tools.finetune.measure import Table, in_words, measure
from open_clip_fff.tools.finetune.pairs import Pair, Picture, TrainingPairs, held_out_pairs
from open_clip_fff.tools.finetune.random_weights import from_config

WORDS_OF = 20_000  # samples whose captions a tokenizer is learned from


def run(args: argparse.Namespace, reader: CaptionReader) -> int:
    """Trains, measures, and writes the folder.

    Raises:
        UsageError: if the model cannot be loaded, or there is nothing to train or measure on.
    """
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    urls = expand_shards(args.train_data)
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
    return 0


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
        with atomic_folder(out) as folder, silenced_transformers():
            matching.model.save_pretrained(folder)
            matching.tokenizer.save_pretrained(folder)
            matching.image_processor.save_pretrained(folder)
            (folder / "discriminator.json").write_text(json.dumps(told, indent=2, default=str) + "\n")
    except Exception as error:  # a full disk is another exception to each library
        raise UsageError(f"--out {out}: cannot be written ({reason(error)})") from error


def _words(urls: list[str], reader: CaptionReader) -> list[str]:
    samples = as_usage_errors(read_samples(urls, WORDS_OF), f"--train-data: {urls[0]}")
    return [caption for sample in samples for caption in reader.row(sample).captions]
