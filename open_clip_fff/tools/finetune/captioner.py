"""open-clip-fff train-captioner: a BLIP trained, measured and written."""

import argparse
import json
import random

import torch
from torch.utils.data import DataLoader

from open_clip_fff.atomic_io import atomic_folder
from open_clip_fff.config.plan import Plan
from open_clip_fff.data.shards import as_usage_errors, read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.training_data import training_shards
from open_clip_fff.devices import usable
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.models.transformers_weights import silenced_transformers
from open_clip_fff.plural import plural
from open_clip_fff.tools.caption.captioner import Captioner
from open_clip_fff.tools.caption.decoding import Decoding
from open_clip_fff.tools.finetune.captioner_model import from_config, from_name, held_out_loss, loss, save
from open_clip_fff.tools.finetune.loop import Fitting, fit, pictures
from open_clip_fff.tools.finetune.pairs import Pair, TrainingPairs, held_out_pairs

WORDS_OF = 20_000  # samples whose captions a tokenizer is learned from
SHOWN = 4


def run(args: argparse.Namespace, plan: Plan) -> int:
    """Trains, measures, and writes the folder.

    Raises:
        UsageError: if the model cannot be loaded, or there is nothing to train or measure on.
    """
    plan, args.shards = training_shards(plan, args.training)
    args.reader = CaptionReader(plan.captions)
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
        with atomic_folder(args.out) as folder:
            save(captioner, folder)
            (folder / "training.json").write_text(json.dumps(told, indent=1) + "\n")
    except Exception as error:  # a full disk is another exception to each library
        raise UsageError(f"--out {args.out}: cannot be written ({reason(error)})") from error
    print(f"{args.out} is written: open-clip-fff caption --model {args.out}")
    return 0


def words(args: argparse.Namespace) -> list[str]:
    """Captions to learn a tokenizer from. Raises UsageError for a shard that cannot be read."""
    samples = as_usage_errors(read_samples(args.shards, WORDS_OF), f"--train-data: {args.shards[0]}")
    return [caption for sample in samples for caption in args.reader.row(sample).captions]


def examples(captioner: Captioner, pairs: list[Pair]) -> list[str]:
    """The likeliest captions of held-out images beside their own."""
    with silenced_transformers():
        said = captioner.say([pair.pixels for pair in pairs], Decoding("greedy", captions=1))
    return [f"  own {pair.caption!r}, said {texts[0]!r}" for pair, (texts, _) in zip(pairs, said, strict=True)]
