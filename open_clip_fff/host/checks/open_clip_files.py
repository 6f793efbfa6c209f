"""What OpenCLIP's flags say of models, weights and pictures, against what is there."""

import argparse
import os
from pathlib import Path

import open_clip
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from open_clip_fff.data.data_sets import trains
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.host.checks.text_tower import check_teacher, check_text_tower
from open_clip_fff.hub.description import only_errors_logged
from open_clip_fff.models.transformers_weights import check_vocabulary

WEIGHTS = (".safetensors", ".bin", ".pth")  # as OpenCLIP looks for them in a folder
OTHER_KIND = "it is no image tower beside a text tower; python -m open_clip_train.main trains it"


def check_towers(args: argparse.Namespace, config: dict, given: bool) -> list[str]:
    """Warnings on what is asked of the towers, given the architecture, and whether a flag of ours is given.

    Raises UsageError if they do not have it, or their tokenizer cannot be loaded.
    """
    # as MaMMUT, GenLIP and models of sound, on OpenCLIP's main branch
    if not {"text_cfg", "vision_cfg"} <= config.keys() or "genlip_cfg" in config:
        raise UsageError(f"--model {args.model}: {OTHER_KIND}")
    text, vision = config["text_cfg"], config["vision_cfg"]
    casts_half = args.precision in ("bf16", "fp16") and not vision.get("timm_model_name")
    if casts_half and text.get("hf_model_name"):
        kind = f"--model {args.model} has a text tower of transformers"
        raise UsageError(f"--precision {args.precision}: {kind}, part of which stays in float32; use amp_bf16 or amp")
    if casts_half and text.get("proj_bias") and text.get("proj_type") != "none":
        kind = f"--model {args.model} has a text tower with proj_bias"
        raise UsageError(f"--precision {args.precision}: {kind}, which OpenCLIP cannot cast; use amp_bf16 or pure_bf16")
    if args.lock_text and not args.lock_text_freeze_layer_norm and not text.get("hf_model_name"):
        raise UsageError(
            f"--lock-text: the text tower of {args.model} is locked with its layer norms or not at all: "
            f"add --lock-text-freeze-layer-norm"
        )
    groups = args.lock_image_unlocked_groups if args.lock_image else 0
    if groups and isinstance(vision.get("layers"), list | tuple) and not vision.get("timm_model_name"):
        raise UsageError(f"--lock-image-unlocked-groups {groups}: a ResNet is locked whole; drop it")
    by_name = "siglip" in args.model.lower() and not text.get("hf_tokenizer_name")
    made = None
    if by_name or text.get("hf_tokenizer_name"):
        try:
            with only_errors_logged():
                made = open_clip.get_tokenizer(
                    args.model, cache_dir=args.cache_dir, context_length=args.force_context_length
                )
            if isinstance(made, HFTokenizer):
                check_vocabulary(made.tokenizer)
        except Exception as error:
            why = f"--model {args.model}: its tokenizer cannot be loaded ({reason(error)})"
            if by_name:
                why += "; OpenCLIP downloads SigLIP's for any name with siglip in it: rename an architecture of yours"
            raise UsageError(why) from error
    return [*check_text_tower(args, config, made, given), *check_teacher(args, config, made, given)]


def check_coca(args: argparse.Namespace, config: dict) -> None:
    """Raises UsageError if OpenCLIP has no way for what is asked of a CoCa, given the architecture."""
    if (writer := config.get("multimodal_cfg")) is None:
        return
    if not args.coca_contrastive_loss_weight and not args.coca_caption_loss_weight:
        raise UsageError("--coca-contrastive-loss-weight 0 and --coca-caption-loss-weight 0: nothing would be trained")
    if not args.coca_contrastive_loss_weight and args.world_size > 1 and trains(args):
        raise UsageError(
            "--coca-contrastive-loss-weight 0: parts of the towers get no gradient then, which torch takes in one "
            "process alone; use one, or a small weight, as 1e-6"
        )
    kind = f"--model {args.model} is a CoCa"
    for tower, locked in (("image", args.lock_image), ("text", args.lock_text)):
        if locked and not hasattr(open_clip.CoCa, f"lock_{tower}_tower"):
            raise UsageError(f"--lock-{tower}: {kind}, whose towers OpenCLIP cannot lock; drop it")
    if not (config.get("custom_text") or args.force_custom_text or config["text_cfg"].get("hf_model_name")):
        raise UsageError(f'--model {args.model}: its json has multimodal_cfg, and lacks "custom_text": true; write it')
    if args.precision in ("bf16", "fp16"):
        raise UsageError(f"--precision {args.precision}: {kind}, part of which stays in float32; use amp_bf16 or amp")
    length, most = args.force_context_length or 0, writer.get("context_length", 77)
    if length > most:
        raise UsageError(f"--force-context-length {length}: {kind}, which writes texts of {most} tokens; lower it")


def check_pretrained(flag: str, model: str | None, pretrained: str | None) -> None:
    """Raises UsageError if --pretrained is neither a tag of the model nor a file, or would be passed over for none."""
    if not model or not pretrained:
        return
    schema, folder = open_clip.factory.parse_model_name(model)
    if schema == "local-dir" and not any(next(Path(folder).glob(f"*{kind}"), None) for kind in WEIGHTS):
        raise UsageError(
            f"{flag} {pretrained}: OpenCLIP does not read it beside {model}, whose folder holds no weights; put them "
            f"there, as open_clip_model.safetensors or open_clip_pytorch_model.bin"
        )
    if schema is not None:
        return
    name = model.replace("/", "-")
    if not open_clip.is_pretrained_cfg(name, pretrained) and not os.path.isfile(pretrained):
        if os.path.isdir(pretrained):
            raise UsageError(
                f"{flag} {pretrained}: is a folder; of a run name a checkpoint, as checkpoints/epoch_1.pt in it, of an "
                f"exported model its open_clip_model.safetensors"
            )
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise UsageError(
            f"{flag} {pretrained}: neither a file nor a tag of {model}, which has {', '.join(tags) or 'none'}"
        )


def check_image_flags(args: argparse.Namespace) -> None:
    """Raises UsageError for a flag with which OpenCLIP's transforms fail at a grey image."""
    size = tuple(args.force_image_size or (32,))
    size = size[0] if len(size) == 1 else size
    given = {
        "--force-image-size": ({"size": size}, {}),
        "--image-mean": ({"mean": args.image_mean}, {}),
        "--image-std": ({"std": args.image_std}, {}),
        "--aug-cfg": ({}, args.aug_cfg),
    }
    for flag, (values, augmentation) in given.items():
        if not (any(value is not None for value in values.values()) or augmentation):
            continue
        try:
            for training in (False, True):
                transform = image_transform_v2(PreprocessCfg(**{"size": 32, **values}), training, augmentation)
                transform(Image.new("RGB", (48, 40), "grey"))
        except Exception as error:  # whatever it is, it would be the same in training
            raise UsageError(f"{flag}: no image can be made with it ({reason(error)})") from error
