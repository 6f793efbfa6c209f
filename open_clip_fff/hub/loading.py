"""A trained model by whatever name a person has for it: a run, a checkpoint, a hub folder, or OpenCLIP's own."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_clip_fff.errors import UsageError, is_first_rank, reason
from open_clip_fff.fingerprint import fingerprint
from open_clip_fff.hub import MODEL_FORMS
from open_clip_fff.hub.checkpoints import find_checkpoint, read_epoch, read_weights, run_folder
from open_clip_fff.hub.description import CONFIG_NAME, folder_description, only_errors_logged, read_description
from open_clip_fff.hub.folder import write_config
from open_clip_fff.hub.weights import BIAS, BIG_VISION, activation_warning, checked_loading, load_weights


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
        notes: what of it is not as it was stored, or not as it should be, a line each.
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
    notes: tuple[str, ...] = ()


def check_model_name(given: str) -> None:
    """Refuses, without loading anything, what cannot be one of `MODEL_FORMS`.

    Raises:
        UsageError: if there is no such file or folder, and it is no name either.
    """
    path = Path(given.removeprefix("local-dir:"))
    if not (path.exists() or given.startswith("hf-hub:") or "," in given):
        raise UsageError(f"{given}: there is no such model; give {MODEL_FORMS}")
    if path.is_dir() and not (path / "checkpoints").is_dir() and not (path / CONFIG_NAME).is_file():
        raise UsageError(f"{given}: neither checkpoints/ nor {CONFIG_NAME} in this folder; give {MODEL_FORMS}")


def load_model(given: str, device: torch.device | str = "cpu") -> LoadedModel:
    """Loads a model with OpenCLIP's own factory.

    Args:
        given: one of `MODEL_FORMS`.
        device: where it shall be.

    Raises:
        UsageError: if there is no such model, or it cannot be loaded, or would have random weights.
    """
    check_model_name(given)
    whole = given.startswith("hf-hub:") or local_path(given) is not None
    name, _, weights = (given, "", "") if whole else given.partition(",")
    loaded = load_named(name, weights or None, given)
    loaded.model.to(device)
    return loaded


def load_named(
    name: str, weights: str | None, called: str, cache_dir: str | None = None, bias: bool = True
) -> LoadedModel:
    """Loads a model by what names its architecture and what names its weights, frozen and in eval mode, on the CPU.

    The first rank prints what of it is not as it was stored, or not as it should be.

    Args:
        name: of `MODEL_FORMS`, without what stands behind the comma.
        weights: a checkpoint instead of those that `name` brings; for a name of OpenCLIP's a tag or a checkpoint.
        called: how the person named both, for error lines and notes.
        cache_dir: where the hub's files are kept; None for the hub's own choice.
        bias: whether a bias in a checkpoint makes the model of a name of OpenCLIP's have one; else it is left out.

    Raises:
        UsageError: if there is no such model, or it cannot be loaded, or would have random weights.
    """
    path = local_path(name)
    if weights is not None and (path is not None or name.startswith("hf-hub:")) and not Path(weights).is_file():
        raise UsageError(f"{called}: {name} comes with its weights, and {weights} is no checkpoint to use instead")
    if path is None and not name.startswith("hf-hub:"):
        loaded = _by_name(name, weights, called, cache_dir, bias)
    elif path is not None and (weights is not None or is_run_or_checkpoint(path)):
        loaded = _from_checkpoint(path, weights, called)
    elif path is not None:
        loaded = _by_open_clip(called, path.resolve().name, f"local-dir:{path}", cache_dir=cache_dir)
    elif weights is None:
        loaded = _by_open_clip(called, name.removeprefix("hf-hub:").replace("/", "-"), name, cache_dir=cache_dir)
    else:
        raise UsageError(f"{called}: {name} comes with its weights; download it to use {weights} instead")
    loaded.model.eval().requires_grad_(False)
    if is_first_rank():
        print("".join(f"{note}\n" for note in loaded.notes), end="", flush=True)
    return loaded


def local_path(name: str) -> Path | None:
    """The run, checkpoint or folder that a name stands for; None for a name that is no path."""
    path = Path(name.removeprefix("local-dir:"))
    return path if path.exists() or name.startswith("local-dir:") else None


def is_run_or_checkpoint(path: Path) -> bool:
    """Whether it is a run's folder or a checkpoint, and no folder in OpenCLIP's hub format."""
    return path.is_file() or (path / "checkpoints").is_dir()


def read_local(path: Path, weights: str | None) -> tuple[dict, Path, dict[str, Tensor]]:
    """A run's, checkpoint's or hub folder's description, and the checkpoint with its weights.

    Args:
        path: of one of them.
        weights: another checkpoint for the same architecture; None for its own, a run's last.

    Raises:
        UsageError: if there is none, or one cannot be read.
    """
    if is_run_or_checkpoint(path):
        own = find_checkpoint(path)
        checkpoint = Path(weights) if weights else own
        tensors = read_weights(checkpoint)
        return read_description(own, tensors), checkpoint, tensors
    from open_clip.factory import _find_checkpoint_in_dir

    found = weights or _find_checkpoint_in_dir(path)
    if found is None:
        raise UsageError(f"{path}: there are no weights in this folder")
    checkpoint = Path(found)
    tensors = read_weights(checkpoint)
    return folder_description(path, tensors), checkpoint, tensors


def _from_checkpoint(path: Path, weights: str | None, called: str) -> LoadedModel:
    description, checkpoint, tensors = read_local(path, weights)
    own, epoch = find_checkpoint(path).resolve() if is_run_or_checkpoint(path) else None, read_epoch(checkpoint)
    run = run_folder(own) if own is not None and own.parent.name == "checkpoints" else None
    folder = run or (path.resolve() if own is None else own.parent)
    name = folder.name + (f"-epoch_{epoch}" if epoch is not None else f"-{checkpoint.stem}")
    loaded = model_from_description(called, name, description, tensors, str(checkpoint))
    return replace(loaded, epoch=epoch, run=run)


def _by_name(name: str, weights: str | None, called: str, cache_dir: str | None, bias: bool) -> LoadedModel:
    import open_clip

    if open_clip.get_model_config(name.replace("/", "-")) is None:
        raise UsageError(
            f"{called}: OpenCLIP has no model {name} (it has {len(open_clip.list_models())}; --model-config adds one), "
            f"and there is no such run, checkpoint or folder"
        )
    if not weights:
        raise UsageError(
            f"{called}: would have random weights; name its weights, too (--mining-pretrained TAG|FILE, or NAME,TAG in "
            f"eval)"
        )
    file = Path(weights).is_file() and not open_clip.is_pretrained_cfg(name.replace("/", "-"), weights)
    short = f"{name}-{Path(weights).stem if file else weights}".replace("/", "-")
    holds_bias = bias and file and Path(weights).suffix not in BIG_VISION and BIAS in read_weights(Path(weights))
    options = {"init_logit_bias": 0.0} if holds_bias else {}
    loaded = _by_open_clip(called, short, name, weights, cache_dir, **options)
    warned = activation_warning(name, weights, called)
    return replace(loaded, notes=(*loaded.notes, *([warned] if warned else [])))


def model_from_description(
    given: str, name: str, description: Mapping, weights: Mapping[str, Tensor], called: str
) -> LoadedModel:
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
    model, preprocess, tokenizer = _build(description)
    filled = load_weights(model, weights, called, file=Path(called))
    return LoadedModel(
        given,
        name,
        model,
        preprocess,
        tokenizer,
        fingerprint(model.state_dict()),
        stripped=filled.left_out,
        description=description,
        notes=tuple(filled.notes(called)),
    )


def _build(description: Mapping) -> tuple[Any, Callable[[Any], Tensor], Callable[[Sequence[str]], Tensor]]:
    """The model of a hub configuration with random weights, its preprocessing and its tokenizer.

    Raises:
        UsageError: if OpenCLIP cannot make it.
    """
    import open_clip

    with tempfile.TemporaryDirectory() as folder:
        try:
            write_config(description, Path(folder))
            with only_errors_logged():
                model, _, preprocess = open_clip.create_model_and_transforms(
                    f"local-dir:{folder}", load_weights=False, pretrained_text=False
                )
            return model, preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")
        except Exception as error:
            text = json.dumps(description["model_cfg"])[:200]
            raise UsageError(f"OpenCLIP cannot make this model: {reason(error)} ({text})") from error


def _by_open_clip(
    called: str, short: str, name: str, tag: str | None = None, cache_dir: str | None = None, **options: float
) -> LoadedModel:
    import open_clip

    try:
        # no pretrained tower parts: all weights come from the source
        with checked_loading(called) as found:
            model, _, preprocess = open_clip.create_model_and_transforms(
                name, tag, require_pretrained=True, pretrained_text=False, cache_dir=cache_dir, **options
            )
        tokenizer = open_clip.get_tokenizer(name, cache_dir=cache_dir)
    except UsageError:
        raise
    except Exception as error:  # a corrupt folder, no network, a tag that is not there
        raise UsageError(f"{called}: cannot be loaded ({reason(error)})") from error
    (filled,) = found
    return LoadedModel(
        called,
        short,
        model,
        preprocess,
        tokenizer,
        fingerprint(model.state_dict()),
        stripped=filled.left_out,
        notes=tuple(filled.notes(called)),
    )


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
