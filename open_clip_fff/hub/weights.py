"""Loading weights into a model: reports weights that are left out, and refuses a mismatch."""

import re
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
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
BIG_VISION = (".npz", ".npy")  # SigLIP's original files, for which OpenCLIP has a reader of its own
OPTIONAL = (BIAS, ".num_batches_tracked")  # nothing uses the second, and frozen norms have none
_IDS = ".position_ids"  # buffers of text towers before transformers 4.31; for --pretrained OpenCLIP drops them, too
_RESIZED = ("visual.positional_embedding", "positional_embedding", "text.positional_embedding")


@dataclass(frozen=True)
class LoadReport:
    """How weights were loaded into a model."""

    # names of weights that the architecture does not have, such as a sigmoid's bias or extra heads
    left_out: tuple[str, ...] = ()
    no_bias: bool = False  # whether the model has a bias and the weights have none: it is 0, as OpenCLIP makes it
    resized: tuple[str, ...] = ()  # position embeddings of another length, which were interpolated

    def lines(self, source: str) -> list[str]:
        """The differences from the file, a line each; `source` is the flag or file of the weights."""
        names = ", ".join(self.left_out[:5]) + (f", … ({len(self.left_out)})" if len(self.left_out) > 5 else "")
        lines = [f"{source}: left out {names}, which the model does not have"] * bool(self.left_out)
        lines += [f"{source}: holds no {BIAS}; the model's is 0 unless it is set otherwise"] * self.no_bias
        return lines + [f"{source}: {name} has another length, and was interpolated" for name in self.resized]


def load_weights(
    model: Any, weights: Mapping[str, Tensor], source: str, resize: bool = False, file: Path | None = None
) -> LoadReport:
    """Loads weights, in any format version that OpenCLIP reads, into one of its models.

    With `resize`, position embeddings of another length are interpolated, as OpenCLIP does for `--pretrained`. Error
    lines name `source`, a flag or file, and an older checkpoint if the `file` is known.

    Raises UsageError if a parameter is missing or has another shape, a tower has more layers than the architecture, or
    a number is not finite.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import resize_text_pos_embed

    own = model.state_dict()
    named = current_names(convert_state_dict(model, dict(weights)), own)
    if mismatch := find_mismatch(named, own, resize):
        raise UsageError(f"{source}: the weights do not fit the architecture: {mismatch}")
    resized = tuple(name for name in _RESIZED if name in named and named[name].shape != own[name].shape)
    if resized:
        resize_image_positions(named, model)
        resize_text_pos_embed(named, model)
    if no_bias := BIAS in own and BIAS not in named:
        named[BIAS] = torch.zeros_like(own[BIAS])
    _, unexpected = model.load_state_dict(named, strict=False)
    if (name := not_finite(dict(model.named_parameters()))) is not None:
        older = usable_before(file) if file else ""
        raise UsageError(f"{source}: {name} is not finite, so the training diverged; take an earlier checkpoint{older}")
    return LoadReport(tuple(unexpected), no_bias, resized)


def resize_image_positions(weights: dict[str, Tensor], model: Any) -> None:
    """OpenCLIP's `resize_pos_embed`, in float32: on a CPU torch has no such interpolation of half precision."""
    from open_clip.model import resize_pos_embed

    name = _RESIZED[0]
    if name in weights:
        weights[name] = weights[name].float()
    resize_pos_embed(weights, model)


def current_names(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an older OpenCLIP, named and shaped as today's.

    The model's `own` show where its text tower is, and whether its scalars have shape [] or [1].
    """
    from open_clip.model import convert_to_custom_text_state_dict

    named = without_ids(weights, own)
    if "positional_embedding" in named and "positional_embedding" not in own:
        named = convert_to_custom_text_state_dict(named)
    for name in {SCALE, BIAS} & named.keys() & own.keys():
        if named[name].numel() == own[name].numel():
            named[name] = named[name].reshape(own[name].shape)
    return named


def without_ids(weights: Mapping[str, Tensor], own: Container[str]) -> dict[str, Tensor]:
    """Weights without what older versions of transformers saved beside them, and the model's `own` lack."""
    return {name: tensor for name, tensor in weights.items() if name in own or not name.endswith(_IDS)}


def big_vision_obstacle(own: Container[str]) -> str | None:
    """Why OpenCLIP's reader of big_vision's files cannot fill a model, given its `own` names; None if it may."""
    if "visual.trunk.pos_embed" in own and "text.positional_embedding" in own:
        return None
    return "big_vision's files go into SigLIP's models (a timm tower and custom_text), as ViT-B-16-SigLIP"


def find_mismatch(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], resize: bool = False) -> str | None:
    """Why weights do not fit an architecture, by names and shapes alone; None if they fit.

    No mismatch: a bias in only one of them, missing counters, additional parameters, and with `resize` position
    embeddings of another length. `weights` are as `current_names` returns them; the model's `own` may be on
    the device `meta`.
    """
    missing = [name for name in own if name not in weights and not name.endswith(OPTIONAL)]
    for name in own:
        if name not in weights or (there := tuple(weights[name].shape)) == (here := tuple(own[name].shape)):
            continue
        if not (resize and name in _RESIZED and there[1:] == here[1:]):
            timm = "; OpenCLIP builds a timm tower at its own image size" if ".trunk.pos_embed" in name else ""
            return f"{name} is {list(there)} there and {list(here)} in the model{timm}"
    if missing:
        return f"{len(missing)} are missing, {missing[0]} among them{_other_names(missing, weights)}"
    layer = _additional_layer(weights, own)
    return None if layer is None else f"the model has no layer for {layer}"


def _other_names(missing: Sequence[str], weights: Mapping[str, Tensor]) -> str:
    """End of an error line: the other names under which missing weights are there, if any."""
    if any(name.startswith(("text_model.", "vision_model.")) for name in weights):
        return "; its names are transformers': take OpenCLIP's file, such as open_clip_model.safetensors"
    for name in weights:
        prefix = name.removesuffix(missing[0])
        if prefix != name and all(prefix + each in weights for each in missing):
            fix = "of an architecture with custom_text" if prefix == "text." else f"save them without {prefix!r}"
            return f"; they are there as {name} and so on: {fix}"
    return ""


def _additional_layer(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """A weight that continues a numbered sequence of the model, so a further layer and no extra head; None without."""
    sequences = {name[: number.start() + 1] for name in own for number in re.finditer(r"\.\d+\.", name)}
    for name in weights.keys() - own.keys():
        if any(name[: number.start() + 1] in sequences for number in re.finditer(r"\.\d+\.", name)):
            return name
    return None


@contextmanager
def checked_loading(source: str) -> Iterator[list[LoadReport]]:
    """Makes OpenCLIP's factory load weights with `load_weights`, from a tag, a file, a folder or the hub.

    OpenCLIP's own activation warning is hidden, since `activation_warning` also names the architecture to use. Yields a
    list to which the report is appended; it stays empty if no weights are loaded. `source` is for error lines.
    """
    from open_clip import factory

    reports: list[LoadReport] = []
    original = factory.load_checkpoint

    def load_checkpoint(model: Any, checkpoint_path: str, *args: Any, **options: Any) -> Any:
        file = Path(checkpoint_path)
        if file.suffix in BIG_VISION:
            if obstacle := big_vision_obstacle(model.state_dict()):
                raise UsageError(f"{source}: {obstacle}")
            reports.append(LoadReport())
            return original(model, checkpoint_path, *args, **options)
        reports.append(load_weights(model, read_weights(file), source, resize=True, file=file))
        return None

    with replaced(factory, load_checkpoint=load_checkpoint), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="QuickGELU mismatch")
        yield reports


def activation_warning(name: str, tag: str | None, source: str, forced: bool = False) -> str | None:
    """A warning if weights would be used with another activation than they were trained with; else None.

    Weights trained with QuickGELU (OpenAI's and others) also load into an architecture with GELU: nothing fails, but
    their features are worse. OpenCLIP's tables of tags tell, without a download; a file's path gives no warning.
    `forced` is `--force-quick-gelu`, and `source` names the flags in the line.
    """
    from open_clip import get_model_config, get_pretrained_cfg

    name = name.replace("/", "-")
    pretrained = get_pretrained_cfg(name, tag or "")
    if not pretrained:
        return None
    trained = f"warning: {source}: these weights were trained with"
    quick = bool(pretrained.get("quick_gelu"))
    if forced and not quick:
        return f"{trained} GELU, not with QuickGELU: drop --force-quick-gelu"
    if quick and not (forced or (get_model_config(name) or {}).get("quick_gelu")):
        return f"{trained} QuickGELU, and {name} has GELU: use {name}-quickgelu"
    return None
