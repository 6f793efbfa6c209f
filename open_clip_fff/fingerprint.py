"""Hashes of a model: of its weights, its architecture and its tokenizer."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# where a transformers configuration came from and how its weights were stored
_ORIGIN = {"_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}
_TOKENIZER_SETTINGS = (
    "context_length",
    "model_max_length",
    "padding_side",
    "truncation_side",
    "strip_sep_token",
    "tokenizer_mode",
)
_PROBES = ["a photo", "A man's 3 dogs, running; ünïcode!", ""]

_HASH = re.compile(r"#[0-9a-f]{16}$")


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and values, the same for a checkpoint and for its export."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def architecture_fingerprint(model: nn.Module) -> str:
    """A hash of a model's modules and their plain settings, and of a transformers model's configuration.

    Models with equal weights may differ in activation, number of heads or pooling.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        settings = {key: _plain(value) for key, value in vars(module).items() if key[0] != "_" and key != "training"}
        known = {key: value for key, value in settings.items() if value is not None and key not in _ORIGIN}
        if config := getattr(getattr(module, "config", None), "to_dict", None):
            known["config"] = _without_origin(config())
        digest.update(f"{name} {type(module).__module__}.{type(module).__qualname__} ".encode())
        digest.update(_json(known))
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any, read: Callable[[list[str]], Any] | None = None) -> str:
    """A hash of `tokenizer_facts`."""
    return hashlib.sha256(_json(tokenizer_facts(tokenizer, read))).hexdigest()


def tokenizer_facts(tokenizer: Any, read: Callable[[list[str]], Any] | None = None) -> dict[str, Any]:
    """A tokenizer's vocabulary and settings, and its tokens of a few texts: equal for those that give equal tokens.

    It may be any function from strings to tokens; for one that is no such function, `read` makes the ids.
    """
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # OpenCLIP wraps those of transformers
    known: dict[str, Any] = {"class": [type(x).__qualname__ for x in (tokenizer, inner)]}
    if to_str := getattr(getattr(inner, "backend_tokenizer", None), "to_str", None):
        # it includes the last call's truncation and padding
        known["vocabulary"] = {**json.loads(to_str()), "truncation": None, "padding": None}
    elif hasattr(inner, "get_vocab"):
        known["vocabulary"] = inner.get_vocab()
    elif hasattr(inner, "encoder"):
        known["vocabulary"] = inner.encoder
    for part in (tokenizer, inner):
        for name in _TOKENIZER_SETTINGS:
            known.setdefault(name, []).append(_plain(getattr(part, name, None)))
    known["probes"] = (read or tokenizer)(_PROBES).tolist()
    return known


def _plain(value: Any) -> Any:
    """Numbers, strings, lists of them, and functions by name; None for anything else."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        parts = [_plain(part) for part in value]
        return None if None in parts else parts
    return getattr(value, "__qualname__", None)


def _without_origin(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _without_origin(value) for key, value in config.items() if key not in _ORIGIN}
    return config


def _json(known: Any) -> bytes:
    return json.dumps(known, sort_keys=True, default=str).encode(errors="surrogatepass")


def hashed_name(name: str, digest: str) -> str:
    """`NAME#HASH`."""
    return f"{name}#{digest[:16]}"


def plain_name(name: str) -> str:
    """A name without its hash."""
    return _HASH.sub("", name)


def same_model(a: str, b: str) -> bool:
    """Whether two names mean one model: by their hashes if both have one, else by their names."""
    if a == b:  # as in every row of a data set
        return True
    hash_a, hash_b = _HASH.search(a), _HASH.search(b)
    return hash_a[0] == hash_b[0] if hash_a and hash_b else plain_name(a) == plain_name(b)
