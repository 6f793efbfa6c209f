"""From a description and weights to a model, by OpenCLIP's own factory."""

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.hub.folder import write_config
from open_clip_fff.hub.quiet import without_warnings


def build(description: Mapping) -> tuple[Any, Callable[[Any], Tensor], Callable[[Sequence[str]], Tensor]]:
    """The model of a hub configuration with random weights, its preprocessing and its tokenizer.

    Raises:
        UsageError: if OpenCLIP cannot make it.
    """
    import open_clip

    with tempfile.TemporaryDirectory() as folder:
        try:
            write_config(description, Path(folder))
            with without_warnings():
                model, _, preprocess = open_clip.create_model_and_transforms(
                    f"local-dir:{folder}", load_weights=False, pretrained_text=False
                )
            return model, preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")
        except Exception as error:
            text = json.dumps(description["model_cfg"])[:200]
            raise UsageError(f"OpenCLIP cannot make this model: {reason(error)} ({text})") from error


def fill(model: Any, weights: Mapping[str, Tensor], called: str) -> tuple[str, ...]:
    """Loads weights; returns the names that the architecture does not have, such as a method's extra heads.

    Raises:
        UsageError: if a parameter is missing or has another shape, or a tower has more layers than the architecture.
    """
    weights = _todays(weights, model)
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes; the first line names only the class
        told = (str(error).splitlines()[1:2] or [str(error)])[0].strip()
        if "visual.trunk.pos_embed" in told:
            told += "; OpenCLIP builds a timm tower at its own image size, and the hub format can say no other"
        raise UsageError(f"{called}: the weights do not fit the architecture ({told})") from error
    if missing:
        raise UsageError(
            f"{called}: the weights do not fit the architecture: {len(missing)} are missing, {missing[0]} among them"
        )
    if (layer := _further_layer(model, unexpected)) is not None:
        raise UsageError(f"{called}: the weights do not fit the architecture, which is not as deep ({layer})")
    return tuple(unexpected)


def _todays(weights: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Weights as today's OpenCLIP names and shapes them, where they are of an older one."""
    from open_clip.model import convert_to_custom_text_state_dict

    named = dict(weights)
    if "positional_embedding" in named and not hasattr(model, "positional_embedding"):
        named = convert_to_custom_text_state_dict(named)
    for name in ("logit_scale", "logit_bias"):  # once of shape [1]
        scalar = getattr(model, name, None)
        if name in named and scalar is not None and named[name].numel() == scalar.numel():
            named[name] = named[name].reshape(scalar.shape)
    return named


def _further_layer(model: Any, unexpected: Sequence[str]) -> str | None:
    """An unexpected parameter that continues a numbered sequence of the model's own: a wrong depth, not a head."""
    own = set(model.state_dict())
    for name in unexpected:
        for number in re.finditer(r"\.\d+\.", name):
            if any(mine.startswith(name[: number.start() + 1]) for mine in own):
                return name
    return None
