"""Weights into a model, in one way for all that load any: what is left out is told, what does not fit is refused."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_clip_fff.errors import UsageError
from open_clip_fff.hub.checkpoints import read_weights, usable_before
from open_clip_fff.numerics import not_finite
from open_clip_fff.patching import replaced

SCALE, BIAS = "logit_scale", "logit_bias"
BIG_VISION = (".npz", ".npy")  # files of SigLIP's authors, which OpenCLIP reads by a way of their own
_IDS = ".position_ids"  # transformers' text towers once stored them; OpenCLIP passes over them, too
_RESIZED = ("visual.positional_embedding", "positional_embedding", "text.positional_embedding")


@dataclass(frozen=True)
class LoadReport:
    """What became of weights.

    Attributes:
        left_out: names of those that the architecture does not have, such as the sigmoid's bias or a method's heads.
        no_bias: whether the model has a bias and the weights have none: it is then 0, as OpenCLIP makes it.
        resized: position embeddings of another length, which were interpolated.
    """

    left_out: tuple[str, ...] = ()
    no_bias: bool = False
    resized: tuple[str, ...] = ()

    def notes(self, called: str) -> list[str]:
        """What is not as it was stored, a line each, for people; `called` is where the weights are from."""
        names = ", ".join(self.left_out[:5]) + (f", … ({len(self.left_out)})" if len(self.left_out) > 5 else "")
        lines = [f"{called}: left out {names}, which the model does not have"] * bool(self.left_out)
        lines += [f"{called}: holds no {BIAS}; the model's is 0 unless it is set otherwise"] * self.no_bias
        return lines + [f"{called}: {name} is of another length, and was interpolated" for name in self.resized]


def load_weights(
    model: Any, weights: Mapping[str, Tensor], called: str, resize: bool = False, file: Path | None = None
) -> LoadReport:
    """Loads weights, of any age that OpenCLIP reads, into one of its models.

    Args:
        model: an OpenCLIP model.
        weights: by name.
        called: the flag or file that they are from, for error lines.
        resize: whether position embeddings of another length are interpolated, as OpenCLIP does for `--pretrained`.
        file: with the weights, where it is known.

    Raises:
        UsageError: if a parameter is missing or has another shape, a tower has more layers than the architecture, or
            a number is not finite.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    own = model.state_dict()
    named = current_names(convert_state_dict(model, dict(weights)), own)
    if obstacle := find_mismatch(named, own, resize):
        raise UsageError(f"{called}: the weights do not fit the architecture: {obstacle}")
    resized = tuple(name for name in _RESIZED if name in named and named[name].shape != own[name].shape)
    if resized:
        resize_pos_embed(named, model)
        resize_text_pos_embed(named, model)
    if no_bias := BIAS in own and BIAS not in named:
        named[BIAS] = torch.zeros_like(own[BIAS])
    _, unexpected = model.load_state_dict(named, strict=False)
    if (name := not_finite(dict(model.named_parameters()))) is not None:
        raise UsageError(
            f"{called}: {name} is not finite, so the training diverged; take an earlier checkpoint"
            f"{usable_before(file) if file else ''}"
        )
    return LoadReport(tuple(unexpected), no_bias, resized)


def current_names(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as today's OpenCLIP names and shapes them, where they are of an older one.

    Args:
        weights: by name.
        own: the model's, which say where its text tower is, and whether its scalars are of shape [] or [1].
    """
    from open_clip.model import convert_to_custom_text_state_dict

    named = {name: tensor for name, tensor in weights.items() if name in own or not name.endswith(_IDS)}
    if "positional_embedding" in named and "positional_embedding" not in own:
        named = convert_to_custom_text_state_dict(named)
    for name in {SCALE, BIAS} & named.keys() & own.keys():
        if named[name].numel() == own[name].numel():
            named[name] = named[name].reshape(own[name].shape)
    return named


def find_mismatch(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], resize: bool = False) -> str | None:
    """Why weights are none of an architecture, by names and shapes alone; None where they are.

    Neither a bias that one of them lacks is a reason, nor are parameters beside the architecture's own.

    Args:
        weights: by name, as `current_names` gives them.
        own: the model's; they may be on the device `meta`.
        resize: whether position embeddings may have another length.
    """
    missing = [name for name in own if name not in weights and name != BIAS]
    for name in own:
        if name not in weights or (there := tuple(weights[name].shape)) == (here := tuple(own[name].shape)):
            continue
        if not (resize and name in _RESIZED and there[1:] == here[1:]):
            timm = "; OpenCLIP builds a timm tower at its own image size" if ".trunk.pos_embed" in name else ""
            return f"{name} is {list(there)} there and {list(here)} in the model{timm}"
    if missing:
        return f"{len(missing)} are missing, {missing[0]} among them"
    layer = _further_layer(weights, own)
    return None if layer is None else f"it is not as deep ({layer})"


def _further_layer(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """A parameter that continues a numbered sequence of the model's own: a wrong depth, not a head."""
    sequences = {name[: number.start() + 1] for name in own for number in re.finditer(r"\.\d+\.", name)}
    for name in weights.keys() - own.keys():
        if any(name[: number.start() + 1] in sequences for number in re.finditer(r"\.\d+\.", name)):
            return name
    return None


@contextmanager
def checked_loading(called: str) -> Iterator[list[LoadReport]]:
    """Makes OpenCLIP's factory load weights with `load_weights`, from a tag, a file, a folder or the hub.

    OpenCLIP's own activation warning is hidden, since `activation_warning` also names the architecture to use.

    Args:
        called: where they are from, for error lines.

    Yields:
        A list to which what became of them is appended; it stays empty where no weights are loaded.
    """
    from open_clip import factory

    found: list[LoadReport] = []
    upstream = factory.load_checkpoint

    def load_checkpoint(model: Any, checkpoint_path: str, *args: Any, **options: Any) -> Any:
        if Path(checkpoint_path).suffix in BIG_VISION:
            found.append(LoadReport())
            return upstream(model, checkpoint_path, *args, **options)
        file = Path(checkpoint_path)
        found.append(load_weights(model, read_weights(file), called, resize=True, file=file))
        return None

    with replaced(factory, load_checkpoint=load_checkpoint), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="QuickGELU mismatch")
        yield found


def activation_warning(name: str, tag: str | None, called: str, forced: bool = False) -> str | None:
    """A line where weights would be computed with another activation than they were trained with; None elsewhere.

    OpenAI's weights and others of QuickGELU load into an architecture with GELU, too: their features are then worse,
    and nothing fails. Nothing is downloaded to tell.

    Args:
        name: OpenCLIP's name of the architecture.
        tag: OpenCLIP's tag of the weights; None, or a file's path, says nothing of an activation.
        called: the flags that named both, for the line.
        forced: whether the architecture is built with QuickGELU, whatever its name (`--force-quick-gelu`).
    """
    from open_clip import get_model_config, get_pretrained_cfg

    name = name.replace("/", "-")
    trained = get_pretrained_cfg(name, tag or "")
    if not trained:
        return None
    told = f"warning: {called}: these weights were trained with"
    quick = bool(trained.get("quick_gelu"))
    if forced and not quick:
        return f"{told} GELU, not with QuickGELU: drop --force-quick-gelu"
    if quick and not (forced or (get_model_config(name) or {}).get("quick_gelu")):
        return f"{told} QuickGELU, and {name} has GELU: use {name}-quickgelu"
    return None
