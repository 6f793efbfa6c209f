"""Loading a trained model by any of its names: a run, a checkpoint, a hub folder, or OpenCLIP's NAME,TAG."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open_clip_fff.errors import UsageError, as_mistake, print_warnings, reason
from open_clip_fff.fingerprint import fingerprint
from open_clip_fff.hub import MODEL_FORMS
from open_clip_fff.hub.checkpoints import find_checkpoint, read_position, read_weights, run_of
from open_clip_fff.hub.description import (
    CONFIG_NAME,
    check_text_files,
    folder_description,
    only_errors_logged,
    quick_gelu,
    read_description,
    refuse_missing_files,
    trained_settings,
)
from open_clip_fff.hub.float32_text import float32_text_towers
from open_clip_fff.hub.folder import write_config
from open_clip_fff.hub.weights import BIAS, BIG_VISION, activation_warning, checked_loading, load_weights


@dataclass(frozen=True)
class LoadedModel:
    """A model, and where it comes from."""

    given: str  # what the user gave
    name: str  # short, for tables and folders
    model: Any  # OpenCLIP's `nn.Module`
    preprocess: Callable[[Any], Tensor]  # from a PIL image to [3, H, W]
    tokenizer: Callable[[Sequence[str]], Tensor]  # from strings to int64 [n, L]
    weights: str  # `fingerprint` of its state dict
    epoch: int | None = None  # epochs trained; None if unknown
    run: Path | None = None  # its run folder, if it has one
    stripped: tuple[str, ...] = ()  # parameters of the checkpoint that OpenCLIP's architecture does not have
    description: Mapping | None = None  # its hub configuration, if it was made from one
    notes: tuple[str, ...] = ()  # lines on differences from the file, or warnings


# --- names


def check_model_name(given: str) -> None:
    """Refuses a name that cannot be one of `MODEL_FORMS`, without loading anything.

    Raises UsageError if it is neither a file or folder with a model nor a hub or OpenCLIP name.
    """
    path = Path(given.removeprefix("local-dir:"))
    if not (path.exists() or given.startswith("hf-hub:") or "," in given):
        raise UsageError(f"{given}: there is no such model; give {MODEL_FORMS}")
    if path.is_dir() and not (path / "checkpoints").is_dir() and not (path / CONFIG_NAME).is_file():
        raise UsageError(f"{given}: neither checkpoints/ nor {CONFIG_NAME} in this folder; give {MODEL_FORMS}")


def split_model_name(given: str) -> tuple[str, str | None]:
    """NAME and TAG of NAME,TAG; a path or hub name is one piece, commas included."""
    if given.startswith("hf-hub:") or local_path(given) is not None:
        return given, None
    name, _, weights = given.partition(",")
    return name, weights or None


def local_path(name: str) -> Path | None:
    """The run, checkpoint or folder with that path; None for no path, or a modelless folder named like a model."""
    path = Path(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:"):
        return path
    if path.is_dir() and not is_run_or_checkpoint(path) and not (path / CONFIG_NAME).is_file():
        import open_clip

        return None if name in open_clip.list_models() else path
    return path if path.exists() else None


def is_run_or_checkpoint(path: Path) -> bool:
    """Whether a path is a run's folder or a checkpoint, and not a folder in OpenCLIP's hub format."""
    return path.is_file() or (path / "checkpoints").is_dir()


# --- loading


def load_model(given: str, device: torch.device | str = "cpu") -> LoadedModel:
    """Loads one of `MODEL_FORMS` with OpenCLIP's own factory, frozen and in eval mode.

    Raises UsageError if there is no such model, or it cannot be loaded, or would have random weights.

    Example:
        >>> loaded = load_model("logs/my-run")  # doctest: +SKIP
        >>> loaded.model.encode_text(loaded.tokenizer(["a dog"]))  # doctest: +SKIP
    """
    check_model_name(given)
    loaded = load_named(*split_model_name(given), given)
    loaded.model.to(device)
    return loaded


def load_named(
    name: str, weights: str | None, source: str, cache_dir: str | None = None, bias: bool = True
) -> LoadedModel:
    """Loads a model with separate names of architecture and weights, frozen and in eval mode, on the CPU.

    The first rank prints the model's notes.

    Args:
        name: one of `MODEL_FORMS`, without the part after the comma.
        weights: a checkpoint instead of the weights that `name` brings; for a name of OpenCLIP's a tag or checkpoint.
        source: how the user named both, for error lines and notes.
        cache_dir: where the hub's files are kept; None for the hub's own choice.
        bias: whether a checkpoint's bias is kept when `name` is OpenCLIP's; else it is left out.

    Raises:
        UsageError: if there is no such model, or it cannot be loaded, or would have random weights.
    """
    path = local_path(name)
    if weights is not None and (path is not None or name.startswith("hf-hub:")) and not Path(weights).is_file():
        raise UsageError(f"{source}: {name} comes with its weights, and {weights} is no checkpoint to use instead")
    if path is None and not name.startswith("hf-hub:"):
        loaded = _by_name(name, weights, source, cache_dir, bias)
    elif path is not None and (weights is not None or is_run_or_checkpoint(path)):
        loaded = _from_checkpoint(path, weights, source)
    elif path is not None:
        loaded = _by_open_clip(source, path.resolve().name, f"local-dir:{path}", cache_dir=cache_dir)
    elif weights is None:
        loaded = _by_open_clip(source, name.removeprefix("hf-hub:").replace("/", "-"), name, cache_dir=cache_dir)
    else:
        raise UsageError(f"{source}: {name} comes with its weights; download it to use {weights} instead")
    loaded.model.eval().requires_grad_(False)
    print_warnings(loaded.notes)
    return loaded


def read_local(path: Path, weights: str | None) -> tuple[dict, Path, dict[str, Tensor]]:
    """The hub configuration of a run, checkpoint or hub folder, the file with its weights, and these weights.

    `weights` names another checkpoint of the same architecture; None takes its own, for a run the newest.

    Raises UsageError if there are none, or a file cannot be read.
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
    tensors = read_weights(Path(found))
    return folder_description(path, tensors), Path(found), tensors


def model_from_description(
    given: str, name: str, description: Mapping, weights: Mapping[str, Tensor], source: str
) -> LoadedModel:
    """Builds the model of a hub configuration on the CPU, with these weights; other attributes as in `LoadedModel`.

    `source` is the file or flag that the weights are from, for error lines.

    Raises UsageError if OpenCLIP cannot make it, or the weights do not fit.
    """
    import open_clip

    refuse_missing_files(given, description["model_cfg"])
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_config(description, Path(folder))
            with only_errors_logged(), float32_text_towers():
                model, _, preprocess = open_clip.create_model_and_transforms(
                    f"local-dir:{folder}", load_weights=False, pretrained_text=False
                )
            tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        except Exception as error:
            text = json.dumps(description["model_cfg"])[:200]
            raise UsageError(f"OpenCLIP cannot make this model: {reason(error)} ({text})") from error
    report = load_weights(model, weights, source, file=Path(source))
    return LoadedModel(
        *(given, name, model, preprocess, tokenizer, fingerprint(model.state_dict())),
        stripped=report.left_out,
        description=description,
        notes=tuple(report.lines(source)),
    )


def _from_checkpoint(path: Path, weights: str | None, source: str) -> LoadedModel:
    description, checkpoint, tensors = read_local(path, weights)
    own = find_checkpoint(path).resolve() if is_run_or_checkpoint(path) else None
    at = read_position(checkpoint)
    run = None if own is None else run_of(own)
    folder = run or (path.resolve() if own is None else own.parent)
    name = f"{folder.name}-{checkpoint.stem if at is None else at.stem}"
    loaded = model_from_description(source, name, description, tensors, str(checkpoint))
    return replace(loaded, epoch=None if at is None else at.epoch, run=run)


def _by_name(name: str, weights: str | None, source: str, cache_dir: str | None, bias: bool) -> LoadedModel:
    import open_clip

    registered = name.replace("/", "-")
    if open_clip.get_model_config(registered) is None:
        raise UsageError(
            f"{source}: OpenCLIP has no model {name} (it has {len(open_clip.list_models())}; --model-config adds one), "
            f"and there is no such run, checkpoint or folder"
        )
    if not weights:
        raise UsageError(
            f"{source}: would have random weights; name its weights, too (--mining-pretrained TAG|FILE, or NAME,TAG in "
            f"eval)"
        )
    file = Path(weights).is_file() and not open_clip.is_pretrained_cfg(registered, weights)
    short = f"{name}-{Path(weights).stem if file else weights}".replace("/", "-")
    holds_bias = bias and file and Path(weights).suffix not in BIG_VISION and BIAS in read_weights(Path(weights))
    options = {"init_logit_bias": 0.0} if holds_bias else {}
    loaded = _by_open_clip(source, short, registered, weights, cache_dir, **options)
    warning = activation_warning(name, weights, source)
    lost = _lost_settings(Path(weights), registered, loaded.model, source) if file else []
    return replace(loaded, notes=(*loaded.notes, *([warning] if warning else []), *lost))


def _lost_settings(file: Path, name: str, model: Any, source: str) -> list[str]:
    """A warning for each setting in which a file's own folder differs from the model built by a name."""
    images = model.visual.preprocess_cfg
    built = {"mean": tuple(images["mean"]), "std": tuple(images["std"]), "quick_gelu": quick_gelu(name)}
    folder, own = trained_settings(file)
    return [
        f"warning: {source}: {file} was trained with {what} {theirs}, and {name} has {built[what]}: name {folder} in "
        f"its place, which brings its own"
        for what, theirs in own.items()
        if theirs != built[what]
    ]


def _by_open_clip(
    source: str, short: str, name: str, tag: str | None = None, cache_dir: str | None = None, **options: float
) -> LoadedModel:
    import open_clip

    with as_mistake(f"{source}: cannot be loaded", Exception):  # a corrupt folder, no network, an unknown tag
        check_text_files(name)
        # no pretrained tower parts: all weights come from the source
        with checked_loading(source) as reports, float32_text_towers():
            model, _, preprocess = open_clip.create_model_and_transforms(
                name, tag, require_pretrained=True, pretrained_text=False, cache_dir=cache_dir, **options
            )
        tokenizer = open_clip.get_tokenizer(name, cache_dir=cache_dir)
    (report,) = reports
    return LoadedModel(
        *(source, short, model, preprocess, tokenizer, fingerprint(model.state_dict())),
        stripped=report.left_out,
        notes=tuple(report.lines(source)),
    )


# --- architectures


def add_architectures(paths: Sequence[str]) -> None:
    """Registers architectures from OpenCLIP's json, files or folders.

    Raises UsageError if there is none, or it is no json, or names no architecture.
    """
    import open_clip

    for path in paths:
        if not Path(path).exists():
            raise UsageError(f"--model-config {path}: there is no such file or folder")
        before = set(open_clip.list_models())
        with as_mistake(f"--model-config {path}: cannot be read", OSError, ValueError):
            open_clip.add_model_config(path)
        files = [Path(path)] if Path(path).is_file() else list(Path(path).iterdir())
        # an earlier call in this process may have registered them already
        if before == set(open_clip.list_models()) and not any(file.stem in before for file in files):
            raise UsageError(
                f"--model-config {path}: no architecture there (json with embed_dim, vision_cfg, text_cfg)"
            )
