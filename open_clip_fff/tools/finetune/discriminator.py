"""open-clip-fff train-discriminator: fine-tunes a matching model, measures it on held-out pairs, and writes it."""

import argparse

import torch
from torch import Tensor

from open_clip_fff.data.data_sets import expand_shards
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.devices import usable
from open_clip_fff.errors import UsageError
from open_clip_fff.matching.loading import load_matching
from open_clip_fff.matching.model import MatchingModel
from open_clip_fff.plural import plural
from open_clip_fff.tools.finetune.discriminator_losses import losses, same_pair
from open_clip_fff.tools.finetune.flags import LEAST
from open_clip_fff.tools.finetune.loop import (
    Losses,
    fine_tune,
    image_transforms,
    save,
    seed_everything,
    tokenizer_captions,
)
from open_clip_fff.tools.finetune.measure import MetricTable, format_metrics, measure
from open_clip_fff.tools.finetune.pairs import ImagePair, ImageTransform, TrainingPairs, held_out_pairs
from open_clip_fff.tools.finetune.random_weights import from_config


def run(args: argparse.Namespace, reader: CaptionReader) -> int:
    """Trains, measures, and writes the folder.

    Raises:
        UsageError: if the model cannot be loaded, or there is nothing to train or measure on.
    """
    seed_everything(args.seed)
    urls = expand_shards(args.train_data)
    if args.model:
        matching = load_matching(args.model, f"--model {args.model}")
    else:
        matching = from_config(args.from_config, tokenizer_captions(urls, reader), args.tokenizer)
    model = matching.model
    model.to(usable(args.device)).eval()
    crop, resize = image_transforms(matching.size, matching.normalisation, args.min_crop)
    pairs = measured_pairs(args, urls, reader, resize)
    print(f"{matching.kind}, {sum(x.numel() for x in model.parameters()):,} weights, on {args.device}")
    before = print_metrics(f"before, on {plural(len(pairs), 'held-out pairs')}", matching, pairs)
    if args.freeze_vision:
        model.vision_model.requires_grad_(False)

    def both(batch: tuple[Tensor, list[str], Tensor]) -> Losses:
        pixels, captions, ids = batch
        contrastive, matched = losses(matching, pixels.to(args.device), captions, ids, args.hard_negatives)
        return {"matching": matched, "contrastive": contrastive}

    fine_tune(model, TrainingPairs(urls, reader, crop, args.held_out, args.seed), both, args)
    after = print_metrics(f"after {plural(args.steps, 'steps')}", matching, pairs)
    record = {"arguments": vars(args), "held_out": {"before": before, "after": after}}
    save([model, matching.tokenizer, matching.image_processor], args, "discriminator.json", record)
    print(f"{args.out} is written: --discriminator {matching.kind}:{args.out}")
    return 0


def measured_pairs(
    args: argparse.Namespace, urls: list[str], reader: CaptionReader, transform: ImageTransform
) -> list[ImagePair]:
    """The held-out pairs. Raises UsageError if there are too few, or none to train on."""
    pairs, others = held_out_pairs(urls, reader, transform, args.held_out, args.held_out_images)
    if not others:
        raise UsageError(f"--train-data: no image with a caption in {', '.join(reader.captions.sources)}")
    ids = torch.tensor([pair.id for pair in pairs])
    if len(pairs) < LEAST or bool(same_pair(ids, [pair.caption for pair in pairs]).all()):
        raise UsageError(
            f"--held-out {args.held_out:g}: keeps {len(pairs)} of {plural(others + len(pairs), 'images')} with "
            f"captions, too few different ones to measure on; raise it"
        )
    return pairs


def print_metrics(title: str, matching: MatchingModel, pairs: list[ImagePair]) -> MetricTable:
    """Measures and prints."""
    table = measure(matching, pairs)
    print(f"\n{title}, in %:\n{format_metrics(table)}\n", flush=True)
    return table
