"""open-clip-fff train-captioner: fine-tunes a BLIP, measures it on held-out images, and writes it."""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.training_data import check_all_captions, training_shards
from open_clip_fff.devices import or_best, usable
from open_clip_fff.errors import UsageError, print_warnings
from open_clip_fff.models.transformers_weights import silenced_transformers
from open_clip_fff.plural import plural
from open_clip_fff.tools.caption.captioner import PixelCaptioner
from open_clip_fff.tools.caption.decoding import Decoding
from open_clip_fff.tools.caption.loading import configuration, load_captioner
from open_clip_fff.tools.finetune.loop import (
    check_trained,
    fine_tune,
    image_transforms,
    save,
    seed_everything,
    tokenizer_captions,
)
from open_clip_fff.tools.finetune.pairs import ImagePair, TrainingPairs, held_out_pairs
from open_clip_fff.tools.finetune.random_weights import random_parts

CLASS = "BlipForConditionalGeneration"
IGNORED = -100  # a label that transformers' losses ignore
SHOWN = 4  # held-out images with generated captions
AT_ONCE = 64  # held-out pairs


def run(args: argparse.Namespace, plan: Plan) -> int:
    """Trains, measures, and writes.

    Raises UsageError for captions that training would refuse, a model that cannot be loaded, or too few pairs.
    """
    plan, urls = training_shards(plan, args.training)
    print_warnings(check_all_captions(args.training.train_data, plan.captions))
    reader = CaptionReader(plan.captions)
    seed_everything(args.seed)
    if args.model:
        captioner = load_blip(args.model)
    else:
        parts = random_parts(args.from_config, tokenizer_captions(urls, reader), None, {"blip": CLASS})
        captioner = PixelCaptioner(parts.model, parts.tokenizer, "", parts.image_processor)
    model, images = captioner.model, captioner.image_processor
    args.device = or_best(args.device)
    model.to(usable(args.device)).eval()
    size = (images.size["height"], images.size["width"])
    crop, resize = image_transforms(size, (images.image_mean, images.image_std), args.min_crop)
    pairs, others = held_out_pairs(urls, reader, resize, args.held_out, args.held_out_images)
    if not pairs or not others:
        raise UsageError(
            f"--held-out {args.held_out:g}: keeps {len(pairs)} of {plural(others + len(pairs), 'images')} with captions"
        )
    print(f"a BLIP of {sum(x.numel() for x in model.parameters()):,} weights, on {args.device}")
    before = held_out_loss(captioner, pairs)
    dataset = TrainingPairs(urls, reader, crop, args.held_out, args.seed)
    last = fine_tune(model, dataset, lambda batch: {"loss": loss(captioner, batch[0].to(args.device), batch[1])}, args)
    after = held_out_loss(captioner, pairs)
    check_trained(model, {**last, "held-out loss": after}, args)
    count, steps = plural(len(pairs), "held-out pairs"), plural(args.steps, "steps")
    print(f"loss on {count}: {before:.3f} before, {after:.3f} after {steps}")
    print("\n".join(examples(captioner, pairs[:SHOWN])))
    record = {"held_out": {"before": before, "after": after}, "steps": args.steps}
    record["start"] = args.model or "random weights"
    save([model, captioner.tokenizer, images], args, "training.json", record)
    print(f"{args.out} is written: open-clip-fff caption --model {args.out}")
    return 0


def load_blip(name: str) -> PixelCaptioner:
    """A captioning BLIP, by hub name or folder. Raises UsageError if it cannot be loaded, or is no BLIP."""
    config = configuration(name)
    if config.model_type != "blip":
        raise UsageError(f"--model {name}: its config.json says {config.model_type}; only a blip is trained here")
    captioner = load_captioner(name, config, "", "float32")
    assert isinstance(captioner, PixelCaptioner)
    return captioner


def loss(captioner: PixelCaptioner, pixels: Tensor, captions: Sequence[str]) -> Tensor:
    """The mean cross-entropy of the captions' next tokens, with the label smoothing of the model's configuration.

    The BLIP gets pixels [B, 3, H, W], normalised as it expects them, and B captions, truncated to its maximum length.
    """
    most = captioner.model.config.text_config.max_position_embeddings
    encoded = captioner.tokenizer(list(captions), padding=True, truncation=True, max_length=most, return_tensors="pt")
    ids, mask = (encoded[name].to(pixels.device) for name in ("input_ids", "attention_mask"))
    ids[:, 0] = captioner.model.config.text_config.bos_token_id  # as in `generate`, even if [CLS] differs
    labels = ids.masked_fill(mask == 0, IGNORED)
    return captioner.model(pixel_values=pixels, input_ids=ids, attention_mask=mask, labels=labels).loss


@torch.no_grad()
def held_out_loss(captioner: PixelCaptioner, pairs: Sequence[ImagePair]) -> float:
    """The mean loss over pairs, in eval mode."""
    total = 0.0
    for start in range(0, len(pairs), AT_ONCE):
        some = pairs[start : start + AT_ONCE]
        pixels = torch.stack([pair.pixels for pair in some]).to(captioner.model.device)
        total += loss(captioner, pixels, [pair.caption for pair in some]).item() * len(some)
    return total / len(pairs)


def examples(captioner: PixelCaptioner, pairs: Sequence[ImagePair]) -> list[str]:
    """Greedy captions of held-out images beside their own."""
    prompt, most = captioner.lengths()
    greedy = Decoding("greedy", captions=1, max_new_tokens=int(min(Decoding.max_new_tokens, most - prompt)))
    with silenced_transformers():
        generated = captioner.generate([pair.pixels for pair in pairs], greedy)
    return [
        f"  own {pair.caption!r}, generated {texts[0]!r}" for pair, (texts, _) in zip(pairs, generated, strict=True)
    ]
