"""A trained model by whatever name a person has for it: a run, a checkpoint, a hub folder, or OpenCLIP's own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.fingerprint import fingerprint
from open_clip_fff.hub.building import build, fill
from open_clip_fff.hub.checkpoints import find_checkpoint, read_epoch, read_weights, run_folder
from open_clip_fff.hub.description import CONFIG_NAME, describe_named, read_description

FORMS = (
    "a run folder, a checkpoint in RUN/checkpoints, a folder in OpenCLIP's hub format, hf-hub:ORG/NAME, or NAME,TAG of "
    "OpenCLIP (NAME,FILE for weights alone)"
)


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode on its device, and where it comes from.

    Attributes:
        given: what the person typed.
        name: short, for tables and folders.
        model: OpenCLIP's `nn.Module`.
        preprocess: from a PIL image to [3, H, W].
        tokenizer: from strings to int64 [n, L].
        weights: `fingerprint` of its state dict.
        epoch: epochs trained, None where that is not known.
        run: its run folder, None where there is none.
        stripped: parameters of the checkpoint that OpenCLIP's architecture does not have.
        description: its hub configuration, where it was made from one.
    """

    given: str
    name: str
    model: Any
    preprocess: Callable[[Any], Tensor]
    tokenizer: Callable[[Sequence[str]], Tensor]
    weights: str
    epoch: int | None = None
    run: Path | None = None
    stripped: tuple[str, ...] = ()
    description: Mapping | None = None


def check_given(given: str) -> None:
    """Refuses, without loading anything, what cannot be one of `FORMS`.

    Raises:
        UsageError: if there is no such file or folder, and it is no name either.
    """
    path = Path(given.removeprefix("local-dir:"))
    if not (path.exists() or given.startswith("hf-hub:") or "," in given):
        raise UsageError(f"{given}: there is no such model; give {FORMS}")
    if path.is_dir() and not (path / "checkpoints").is_dir() and not (path / CONFIG_NAME).is_file():
        raise UsageError(f"{given}: neither checkpoints/ nor {CONFIG_NAME} in this folder; give {FORMS}")


def load_model(given: str, device: torch.device | str = "cpu") -> LoadedModel:
    """Loads a model with OpenCLIP's own factory.

    Args:
        given: one of `FORMS`.
        device: where it shall be.

    Raises:
        UsageError: if there is no such model, or it cannot be loaded, or would have random weights.
    """
    check_given(given)
    path = Path(given.removeprefix("local-dir:"))
    if path.is_dir() and not (path / "checkpoints").is_dir():
        loaded = _by_open_clip(given, path.resolve().name, f"local-dir:{path}")
    elif path.exists():
        loaded = _from_checkpoint(given, find_checkpoint(path))
    elif given.startswith("hf-hub:"):
        loaded = _by_open_clip(given, given.removeprefix("hf-hub:").replace("/", "-"), given)
    else:
        loaded = _by_name(given)
    loaded.model.eval().to(device).requires_grad_(False)
    return loaded


def _from_checkpoint(given: str, checkpoint: Path) -> LoadedModel:
    run, epoch = run_folder(checkpoint), read_epoch(checkpoint)
    weights = read_weights(checkpoint)
    name = run.name + (f"-epoch_{epoch}" if epoch is not None else f"-{checkpoint.stem}")
    loaded = assemble(given, name, read_description(checkpoint, weights), weights, str(checkpoint))
    return replace(loaded, epoch=epoch, run=run)


def _by_name(given: str) -> LoadedModel:
    """NAME,TAG through OpenCLIP; NAME,FILE built to fit the file, which may hold a bias that NAME does not have."""
    name, _, tag = given.partition(",")
    if Path(tag).is_file():
        weights = read_weights(Path(tag))
        return assemble(given, f"{name}-{Path(tag).stem}", describe_named(name, weights), weights, tag)
    import open_clip

    if open_clip.get_model_config(name.replace("/", "-")) is None:
        raise UsageError(
            f"{given}: OpenCLIP has no model {name} (it has {len(open_clip.list_models())}); --model-config adds one"
        )
    return _by_open_clip(given, given.replace(",", "-").replace("/", "-"), name, tag)


def assemble(given: str, name: str, description: Mapping, weights: Mapping[str, Tensor], called: str) -> LoadedModel:
    """The model of a description with weights of one's own, on the CPU.

    Args:
        given: what the person typed.
        name: short, for tables and folders.
        description: OpenCLIP's hub configuration.
        weights: by name; those that the architecture does not have are left out.
        called: where the weights are from, for error lines.

    Raises:
        UsageError: if OpenCLIP cannot make it, or the weights do not fit.
    """
    model, preprocess, tokenizer = build(description)
    stripped = fill(model, weights, called)
    identity = fingerprint(model.state_dict())
    return LoadedModel(given, name, model, preprocess, tokenizer, identity, stripped=stripped, description=description)


def _by_open_clip(given: str, short: str, name: str, tag: str | None = None) -> LoadedModel:
    import open_clip

    try:
        # no pretrained tower parts: all weights come from the source
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, tag, require_pretrained=True, pretrained_text=False
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # a corrupt folder, no network, a tag that is not there
        raise UsageError(f"{given}: cannot be loaded ({reason(error)})") from error
    return LoadedModel(given, short, model, preprocess, tokenizer, fingerprint(model.state_dict()))


def add_architectures(paths: Sequence[str]) -> None:
    """Registers OpenCLIP's json of architectures, files or folders.

    Raises:
        UsageError: if there is nothing, or it is no json, or names no architecture.
    """
    import open_clip

    for path in paths:
        if not Path(path).exists():
            raise UsageError(f"--model-config {path}: there is no such file or folder")
        before = set(open_clip.list_models())
        try:
            open_clip.add_model_config(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"--model-config {path}: cannot be read ({reason(error)})") from error
        if before == set(open_clip.list_models()) and not _names_models(Path(path), before):
            raise UsageError(
                f"--model-config {path}: no architecture there (json with embed_dim, vision_cfg, text_cfg)"
            )


def _names_models(path: Path, known: set[str]) -> bool:
    """Whether the architectures at `path` were registered before, by an earlier run of the same process."""
    files = [path] if path.is_file() else list(path.iterdir())
    return any(file.stem in known for file in files)
