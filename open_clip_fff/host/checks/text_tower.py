"""Whether an architecture's text tower can read what its tokenizer gives it: else a rare text ends the training."""

import argparse
import dataclasses
import re
from typing import Any

import open_clip
import torch

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.hub.description import registered_architecture

CLIP_TOKENS = 49_408  # of OpenCLIP's own tokenizer
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(open_clip.CLIPTextCfg)}
NO_WORD = re.compile("▁?<[^<>]+>")
BY_TABLE = ("bert", "roberta", "xlm-roberta")  # kinds with a table of positions


def check_text_tower(args: argparse.Namespace, config: dict, tokenizer: Any | None, typed: bool) -> None:
    """The text tower of --model against its tokenizer; None for OpenCLIP's own.

    Raises:
        UsageError: for one that fails on all texts, or, where a flag of ours is `typed`, on some.
    """
    text, where = {**_DEFAULTS, **config["text_cfg"]}, f"--model {args.model}"
    if name := text.get("hf_model_name"):
        if (found := _transformers_config(name)) is None:
            return
        _check_transformers(where, name, text, found, config.get("embed_dim"), args.force_context_length)
        holds, fix = found.vocab_size, "hf_tokenizer_name names the one that belongs to it"
    else:
        if text["pool_type"] == "none" and "multimodal_cfg" not in config:
            raise UsageError(f"{where}: pool_type none makes no feature of a text; write argmax, first, last or eos")
        holds, fix = text["vocab_size"], "write that as vocab_size, or name another hf_tokenizer_name"
    given = CLIP_TOKENS if tokenizer is None else _tokens(tokenizer)
    if given > holds and (typed or tokenizer is None):
        raise UsageError(f"{where}: its text tower knows {holds:,} tokens, its tokenizer gives {given:,}; {fix}")


def padding_notes(args: argparse.Namespace) -> list[str]:
    """A warning where the text tower leaves out another token as padding than its tokenizer pads with."""
    config = registered_architecture(args.model)
    text = (config or {}).get("text_cfg", {})
    name, tokenizer_name = text.get("hf_model_name"), text.get("hf_tokenizer_name")
    found = _transformers_config(name) if name and tokenizer_name else None
    if found is None:
        return []
    made: Any = open_clip.get_tokenizer(args.model, cache_dir=args.cache_dir)
    given, left_out = made.tokenizer.pad_token_id, found.pad_token_id
    if given == left_out:
        return []
    return [
        f"warning: --model {args.model}: its tokenizer pads with token {given}, which the text tower reads as text; it "
        f"leaves out token {left_out}; make pad_token_id in both one"
    ]


def _transformers_config(name: str) -> Any | None:
    """Of a model of transformers; None where it cannot be had, which OpenCLIP says as it makes the model."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name)
    except Exception:
        return None


def _check_transformers(
    where: str, name: str, text: dict, found: Any, embed_dim: int | None, forced_length: int | None
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
            why = "there is no such one" if isinstance(error, KeyError) else f"OpenCLIP's fails ({reason(error)})"
            raise UsageError(f"{where}: hf_pooler_type {pooler}: {why}; choose mean_pooler or cls_pooler") from error
    width, projection = getattr(found, arch_dict[found.model_type]["config_names"]["width"]), text["hf_proj_type"]
    if projection not in ("linear", "mlp") and not (projection is None and width == embed_dim):
        why = f"the features of {name} are {width} wide, and embed_dim is {embed_dim}"
        raise UsageError(f"{where}: hf_proj_type {projection}: {why}; choose linear or mlp")
    if found.model_type in BY_TABLE:
        most = found.max_position_embeddings
        if found.model_type != "bert":
            most -= found.pad_token_id + 1  # their positions begin behind the padding's
        if (length := forced_length or text["context_length"]) > most:
            fix = f"write {most}, or add --force-context-length {most}"
            raise UsageError(f"{where}: context_length {length}: {name} reads at most {most} tokens; {fix}")


def _tokens(tokenizer: Any) -> int:
    """One more than the largest id of a tokenizer's words; some have tokens behind them that no text gives.

    Such are added ones, and T5's `<extra_id_0>`, which stand among the words of some of its tokenizers.
    """
    inner: Any = getattr(tokenizer, "tokenizer", None)
    if not hasattr(inner, "get_added_vocab"):
        return int(tokenizer.vocab_size)
    added, ids = inner.get_added_vocab(), inner.get_vocab()
    return 1 + max((ids[word] for word in ids if word not in added and not NO_WORD.fullmatch(word)), default=-1)
