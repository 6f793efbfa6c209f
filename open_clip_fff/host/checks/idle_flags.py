"""Warns of OpenCLIP's flags that do nothing without another flag; OpenCLIP itself does not."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from open_clip.factory import parse_model_name

from open_clip_fff.data.data_sets import trains
from open_clip_fff.errors import printable
from open_clip_fff.host.generation import TASKS
from open_clip_fff.plural import plural

IMAGENET_CLASSES = 1_000
_BY_TIMM = ("ratio", "re_prob", "re_count")  # items of --aug-cfg


def idle_flag_notes(args: argparse.Namespace) -> list[str]:
    """A warning for each flag given without the flag it needs. No errors, since runs share command lines."""
    zero_shot = args.zeroshot_frequency, "a --zeroshot-frequency above 0"
    scored = {
        "--val-data": (args.val_data, args.val_frequency, "a --val-frequency above 0"),
        "--imagenet-val": (args.imagenet_val, *zero_shot),
        "--imagenet-v2": (args.imagenet_v2, *zero_shot),
    }
    if not trains(args):
        return _idle(scored)
    cooldown, timm = args.lr_scheduler == "const-cooldown", args.opt.lower().startswith("timm/")
    flags = {
        **scored,
        "--lock-image-unlocked-groups": (args.lock_image_unlocked_groups, args.lock_image, "--lock-image"),
        "--lock-image-freeze-bn-stats": (args.lock_image_freeze_bn_stats, args.lock_image, "--lock-image"),
        "--lock-text-unlocked-layers": (args.lock_text_unlocked_layers, args.lock_text, "--lock-text"),
        "--lock-text-freeze-layer-norm": (args.lock_text_freeze_layer_norm, args.lock_text, "--lock-text"),
        "--epochs-cooldown": (args.epochs_cooldown is not None, cooldown, "--lr-scheduler const-cooldown"),
        "--lr-cooldown-end": (args.lr_cooldown_end, cooldown, "--lr-scheduler const-cooldown"),
        "--momentum": (args.momentum is not None, timm, "an optimizer of timm's, as --opt timm/sgd"),
        **{f"--aug-cfg {item}": (True, False, needs) for item, needs in _unused_items(args.aug_cfg or {}).items()},
    }
    notes = ["warning: --lr 0 trains nothing"] if args.lr == 0 else []
    if args.batch_size * args.accum_freq * args.world_size == 1:
        alone = "in a global batch of one image it meets no caption of another, so a contrastive loss has no negatives"
        notes.append(f"warning: --batch-size 1: {alone}; raise it")
    for role, model, weights in (
        ("", args.model, args.pretrained),
        ("distill-", args.distill_model, args.distill_pretrained),
    ):
        if model and weights and parse_model_name(model)[0] is not None:
            own = f"--{role}model {model} has its own weights"
            notes.append(f"warning: --{role}pretrained {weights} is not read: {own}")
    return notes + _idle(flags)


def _idle(flags: Mapping[str, tuple[Any, Any, str]]) -> list[str]:
    """A warning for each of `flags` whose first value is there and whose second one is not, with what it needs."""
    idle = [(flag, needs) for flag, (given, on, needs) in flags.items() if given and not on]
    return [f"warning: {flag} does nothing without {needs}" for flag, needs in idle]


def imagenet_notes(args: argparse.Namespace) -> list[str]:
    """A warning if the folders of --imagenet-val are not ImageNet's: OpenCLIP assigns classes by their order alone."""
    if not args.imagenet_val:
        return []
    names = sorted(path.name for path in Path(args.imagenet_val).iterdir() if path.is_dir())
    if as_imagenets(names):
        return []
    folders = f"{plural(len(names), 'folders')} ({printable(names[0])} first)"
    return [
        f"warning: --imagenet-val {args.imagenet_val}: its {folders} are not ImageNet's {IMAGENET_CLASSES:,} "
        f"(n01440764 first), and OpenCLIP takes them for those in their order: the accuracies mean nothing. "
        f"open-clip-fff class-set makes a set of them, for --zeroshot-data"
    ]


def as_imagenets(names: Sequence[str]) -> bool:
    """Whether folders with these names, in this order, can be ImageNet's: WordNet ids, or ascending numbers."""
    numbers = all(name.isdecimal() for name in names) and list(names) == sorted(names, key=int)
    return len(names) == IMAGENET_CLASSES and (numbers or all(re.fullmatch(r"n\d{8}", name) for name in names))


def _unused_items(augmentation: dict) -> dict[str, str]:
    """The given items of --aug-cfg that OpenCLIP 3.3 ignores, each with what it would need."""
    if TASKS:
        return {}
    if augmentation.get("use_timm"):
        dropped = ("color_jitter_prob", "gray_scale_prob")
        return {item: "OpenCLIP's own transforms: drop use_timm" for item in dropped if augmentation.get(item)}
    unused = {item: "use_timm=True" for item in _BY_TIMM if augmentation.get(item) is not None}
    if augmentation.get("color_jitter") is not None and not augmentation.get("color_jitter_prob"):
        unused["color_jitter"] = "color_jitter_prob, or use_timm=True"
    return unused
