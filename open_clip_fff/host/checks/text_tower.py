"""Whether an architecture's text tower can read what its tokenizer gives it: else a rare text ends the training."""

import argparse
import dataclasses
from typing import Any

import open_clip
import torch

from open_clip_fff.data.data_sets import trains
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.hub.description import only_errors_logged, registered_architecture
from open_clip_fff.models.frozen import same_tokens
from open_clip_fff.models.text_tokens import TextLimits, padding_notes

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(open_clip.CLIPTextCfg)}


def check_text_tower(args: argparse.Namespace, config: dict, tokenizer: Any | None, given: bool) -> list[str]:
    """Warnings on the text tower of --model and its tokenizer, None for OpenCLIP's own.

    Raises UsageError for one that fails on all texts, or, where a flag of ours is `given`, on some.
    """
    text, where, notes = {**_DEFAULTS, **config["text_cfg"]}, f"--model {args.model}", []
    if name := text.get("hf_model_name"):
        if (found := _transformers_config(name)) is None:
            return []
        limits = TextLimits.of_transformers(found)
        length = args.force_context_length or text["context_length"]
        _check_transformers(where, name, text, found, config.get("embed_dim"), length, limits.length)
        if args.world_size > 1 and trains(args) and not args.lock_text:
            _check_layerdrop(where, name, found)
        notes = [] if tokenizer is None else padding_notes(where, tokenizer, found)
        if (kind := getattr(found, "dtype", None)) in (torch.float16, torch.bfloat16):
            was = f"the weights of hf_model_name {name} are {str(kind).removeprefix('torch.')}"
            fails = "stock OpenCLIP fails on what is exported then; name a copy saved in float32"
            notes.append(f"warning: {where}: {was}; they are trained in float32, and {fails}")
        fix = "hf_tokenizer_name names the one that belongs to it"
    else:
        if text["pool_type"] == "none" and "multimodal_cfg" not in config:
            raise UsageError(f"{where}: pool_type none makes no feature of a text; write argmax, first, last or eos")
        limits, fix = TextLimits(text["vocab_size"]), "write that as vocab_size, or name another hf_tokenizer_name"
    if given or tokenizer is None:
        limits.check_tokenizer(tokenizer, where, fix=f"; {fix}")
    return notes


def check_teacher(args: argparse.Namespace, config: dict, tokenizer: Any | None, given: bool) -> list[str]:
    """The same for the text tower of --distill-model, to which OpenCLIP gives --model's tokens of a text.

    `config` and `tokenizer` are those of --model; a warning says where the teacher has another tokenizer.
    """
    teacher = registered_architecture(args.distill_model) if args.distill_model else None
    if teacher is None:
        return []
    text, where, other = {**_DEFAULTS, **teacher["text_cfg"]}, f"--distill-model {args.distill_model}", "--model's"
    length = args.force_context_length or {**_DEFAULTS, **config["text_cfg"]}["context_length"]
    if name := text.get("hf_model_name"):
        if (found := _transformers_config(name)) is None:
            return []
        limits = TextLimits.of_transformers(found)
    else:
        limits = TextLimits(text["vocab_size"], text["context_length"])
    exact, most = not (name or teacher.get("custom_text")), limits.length
    if most is not None and (length > most or (exact and length < most)):
        fix = f"add --force-context-length {most}, or name another"
        raise UsageError(f"{where}: reads texts of {most} tokens, and {other} have {length}; {fix}")
    if given or tokenizer is None:
        limits.check_tokenizer(tokenizer, where, whose=other, fix="; name another")
    if _same_tokens(args, length):
        return []
    return [
        f"warning: {where}: has another tokenizer than {other}, whose tokens it gets: its text features mean nothing"
    ]


def _same_tokens(args: argparse.Namespace, length: int) -> bool:
    """Whether the teacher's own tokenizer gives the same tokens; also where one of the two cannot be loaded."""
    try:
        made = (
            open_clip.get_tokenizer(name, cache_dir=args.cache_dir, context_length=length)
            for name in (args.model, args.distill_model)
        )
        with only_errors_logged():
            return same_tokens(*made)
    except Exception:
        return True


def _transformers_config(name: str) -> Any | None:
    """Of a model of transformers; None where it cannot be loaded, which OpenCLIP says as it makes the model."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name)
    except Exception:
        return None


def _check_layerdrop(where: str, name: str, found: Any) -> None:
    for field in ("encoder_layerdrop", "layerdrop"):
        if share := getattr(found, field, 0):
            why = "layers that are skipped get no gradient, which torch takes in one process alone"
            fix = "write 0 there (of a hub's model in a copy), or use one process"
            raise UsageError(f"{where}: the config.json of hf_model_name {name} has {field} {share:g}: {why}; {fix}")


def _check_transformers(
    where: str, name: str, text: dict, found: Any, embed_dim: int | None, length: int, most: int | None
) -> None:
    from open_clip.hf_configs import arch_dict
    from open_clip.hf_model import _POOLERS
    from transformers.modeling_outputs import BaseModelOutput

    if found.model_type not in arch_dict:
        kinds = ", ".join(arch_dict)
        raise UsageError(f"{where}: hf_model_name {name} is a {found.model_type}, and OpenCLIP takes {kinds}")
    if found.pad_token_id is None:
        raise UsageError(f"{where}: the config.json of hf_model_name {name} has no pad_token_id; write it there")
    if (pooler := text["hf_pooler_type"]) is not None:
        try:
            _POOLERS[pooler]()(BaseModelOutput(last_hidden_state=torch.zeros(1, 1, 1)), torch.ones(1, 1).long())
        except Exception as error:
            why = "there is no such pooler" if isinstance(error, KeyError) else f"OpenCLIP's fails ({reason(error)})"
            raise UsageError(f"{where}: hf_pooler_type {pooler}: {why}; choose mean_pooler or cls_pooler") from error
    width, projection = getattr(found, arch_dict[found.model_type]["config_names"]["width"]), text["hf_proj_type"]
    if projection not in ("linear", "mlp") and not (projection is None and width == embed_dim):
        why = f"the features of {name} are {width} wide, and embed_dim is {embed_dim}"
        raise UsageError(f"{where}: hf_proj_type {projection}: {why}; choose linear or mlp")
    if most is not None and length > most:
        fix = f"write {most}, or add --force-context-length {most}"
        raise UsageError(f"{where}: context_length {length}: {name} reads at most {most} tokens; {fix}")
