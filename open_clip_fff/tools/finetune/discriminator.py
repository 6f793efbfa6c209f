"""open-clip-fff train-discriminator: fine-tunes a matching model, measures it on held-out pairs, and writes it."""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.connection import UNDECIDED, ConnectionSettings
from open_clip_fff.data.data_sets import check_tars, expand_shards
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.training_data import check_all_captions
from open_clip_fff.devices import or_best, usable
from open_clip_fff.errors import UsageError, print_warnings
from open_clip_fff.matching.discriminators import make_discriminator
from open_clip_fff.matching.loading import load_matching
from open_clip_fff.matching.model import MatchingModel
from open_clip_fff.plural import plural
from open_clip_fff.tools.finetune.discriminator_losses import (
    LabelPairs,
    hardest_pairs,
    losses,
    same_pair,
    sampled_pairs,
)
from open_clip_fff.tools.finetune.flags import LEAST_PAIRS, MOST_HELD_OUT
from open_clip_fff.tools.finetune.loop import (
    Losses,
    check_trained,
    fine_tune,
    image_transforms,
    save,
    seed_everything,
    tokenizer_captions,
)
from open_clip_fff.tools.finetune.measure import MetricTable, format_metrics, measure_matching
from open_clip_fff.tools.finetune.pairs import ImagePair, ImageTransform, TrainingPairs, held_out_pairs
from open_clip_fff.tools.finetune.random_weights import from_config


def run(args: argparse.Namespace, captions: CaptionSettings, connection: ConnectionSettings | None) -> int:
    """Trains, measures, and writes.

    Raises UsageError for captions that training would refuse, a model that cannot be loaded, or too few pairs.
    """
    reader = CaptionReader(captions)
    seed_everything(args.seed)
    urls = expand_shards(args.train_data)
    check_tars("--train-data", urls)
    print_warnings(check_all_captions(args.train_data, captions))
    if args.model:
        matching = load_matching(args.model, f"--model {args.model}")
    else:
        matching = from_config(args.from_config, tokenizer_captions(urls, reader), args.tokenizer)
    model = matching.model
    args.device = or_best(args.device)
    model.to(usable(args.device)).eval()
    label = None if connection is None else labeller(matching, connection, args.device)
    crop, resize = image_transforms(matching.size, matching.normalisation, args.min_crop)
    pairs = measured_pairs(args, urls, reader, resize)
    print(f"{matching.kind}, {sum(x.numel() for x in model.parameters()):,} weights, on {args.device}")
    before = print_metrics(f"before, on {plural(len(pairs), 'held-out pairs')}", matching, pairs)
    if args.freeze_vision:
        model.vision_model.requires_grad_(False)

    def both(batch: tuple[Tensor, list[str], Tensor]) -> Losses:
        pixels, captions, ids = batch
        pixels, pairs = pixels.to(args.device), sampled_pairs(args.hard_negatives)
        if args.itm_negatives == "hardest":
            pairs = hardest_pairs(None if label is None else label(pixels, captions))
        contrastive, matched = losses(matching, pixels, captions, ids, pairs)
        return {"matching": matched, "contrastive": contrastive}

    last = fine_tune(model, TrainingPairs(urls, reader, crop, args.held_out, args.seed), both, args)
    check_trained(model, last, args)
    after = print_metrics(f"after {plural(args.steps, 'steps')}", matching, pairs)
    record = {"arguments": vars(args), "held_out": {"before": before, "after": after}}
    save([model, matching.tokenizer, matching.image_processor], args, "discriminator.json", record)
    print(f"{args.out} is written: --discriminator {matching.kind}:{args.out}")
    return 0


def labeller(
    matching: MatchingModel, settings: ConnectionSettings, device: str
) -> Callable[[Tensor, list[str]], LabelPairs]:
    """A frozen discriminator's match labels of a batch's pairs; it sees the crops that `matching` sees."""
    discriminator = make_discriminator(settings, torch.device(device), *matching.normalisation)

    def of_batch(pixels: Tensor, captions: list[str]) -> LabelPairs:
        @torch.no_grad()
        def label(images: Tensor, texts: Tensor) -> Tensor:
            q = discriminator(pixels[images], [captions[text] for text in texts.tolist()])
            return settings.match_label(q, UNDECIDED)

        return label

    return of_batch


def measured_pairs(
    args: argparse.Namespace, urls: list[str], reader: CaptionReader, transform: ImageTransform
) -> list[ImagePair]:
    """The held-out pairs. Raises UsageError if there are too few."""
    pairs, others = held_out_pairs(urls, reader, transform, args.held_out, args.held_out_images)
    ids = torch.tensor([pair.id for pair in pairs])
    if len(pairs) < LEAST_PAIRS or bool(same_pair(ids, [pair.caption for pair in pairs]).all()):
        fix = "raise it" if args.held_out < MOST_HELD_OUT else "that is the most, so more of them are needed"
        raise UsageError(
            f"--held-out {args.held_out:g}: keeps {len(pairs)} of {plural(others + len(pairs), 'images')} with "
            f"captions, too few different ones to measure on; {fix}"
        )
    return pairs


def print_metrics(title: str, matching: MatchingModel, pairs: list[ImagePair]) -> MetricTable:
    """Measures and prints."""
    table = measure_matching(matching, pairs)
    print(f"\n{title}, in %:\n{format_metrics(table)}\n", flush=True)
    return table
