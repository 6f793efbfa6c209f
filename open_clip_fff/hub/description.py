"""A model's `open_clip_config.json`, from which stock OpenCLIP builds it again."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.errors import UsageError, as_mistake, reason
from open_clip_fff.hub.checkpoints import run_folder
from open_clip_fff.hub.params import model_options, read_params
from open_clip_fff.hub.weights import BIAS

CONFIG_NAME = "open_clip_config.json"  # OpenCLIP's HF_CONFIG_NAME


def describe_model(model_name: str, model: Any, options: Mapping[str, Any]) -> dict:
    """The hub configuration (`model_cfg` and `preprocess_cfg`) of a model that OpenCLIP's factory made.

    It takes the image preprocessing and the scalars from the model, and from the `options` of
    `open_clip.create_model_and_transforms` those that changed the architecture. The name may have a schema.
    """
    import open_clip

    config = open_clip.get_model_config(_registered(model_name))
    if model_name.startswith("local-dir:"):
        _name_own_tokenizer(config, Path(model_name.removeprefix("local-dir:")))
    for part, field, path in _paths(config):  # they are read again from other working folders
        part[field] = str(Path(path).absolute()) if Path(path).exists() else path
    for option, section, key in (
        ("force_quick_gelu", config, "quick_gelu"),
        ("force_custom_text", config, "custom_text"),
        ("force_image_size", config["vision_cfg"], "image_size"),
        ("force_context_length", config["text_cfg"], "context_length"),
        ("force_patch_dropout", config["vision_cfg"], "patch_dropout"),
    ):
        if (value := options.get(option)) is not None and value is not False:  # a patch dropout of 0.0 counts
            section[key] = value
    if options.get("init_logit_scale") is not None:
        config["init_logit_scale"] = float(options["init_logit_scale"])
    # Stock OpenCLIP loads no checkpoint with a bias into a model that is built without one.
    if getattr(model, BIAS, None) is not None:
        config["init_logit_bias"] = float(options.get("init_logit_bias", config.get("init_logit_bias", 0.0)))
    if model.logit_scale.ndim:
        config["nonscalar_logit_scale"] = True
    images = model.visual.preprocess_cfg
    kept = ("mean", "std", "interpolation", "resize_mode", *(["fill_color"] if images.get("fill_color") else []))
    return {"model_cfg": config, "preprocess_cfg": {key: images[key] for key in kept}}


def write_description(description: dict, folder: Path) -> None:
    """Writes the configuration into `folder`, atomically."""
    write_atomically(folder / CONFIG_NAME, json.dumps(description, indent=2) + "\n")


def read_description(checkpoint: Path, weights: Mapping[str, Tensor], model_name: str | None = None) -> dict:
    """The hub configuration for RUN/checkpoints/epoch_N.pt, or for weights beside an open_clip_config.json.

    open_clip_fff.train writes one into its run folder; for a run of OpenCLIP's own trainer it is made from params.txt.
    A `model_name` takes precedence over the run's.

    Raises UsageError if the architecture is unknown, or its files cannot be used.
    """
    run = run_folder(checkpoint)
    for folder in (run, checkpoint.resolve().parent):
        if (folder / CONFIG_NAME).is_file() and model_name is None:
            return folder_description(folder, weights)
    params = read_params(run) if checkpoint.resolve().parent.name == "checkpoints" else {}
    if model_name is not None:
        params["model"] = model_name
    if "model" not in params:
        raise UsageError(
            f"{checkpoint}: neither {CONFIG_NAME} nor params.txt in {run}, so that its architecture is not known; "
            f"name it: --model NAME in export, NAME,{checkpoint.name} in eval, --mining-model NAME with "
            f"--mining-pretrained {checkpoint.name}"
        )
    return describe_named(params["model"], weights, model_options(params, run / "params.txt"))


def folder_description(folder: Path, weights: Mapping[str, Tensor]) -> dict:
    """A folder's hub configuration, with a bias if the weights have one. Raises UsageError if it is invalid."""
    path = folder / CONFIG_NAME
    with as_mistake(f"{path}: not a description of a model", OSError, ValueError, KeyError, TypeError, AttributeError):
        description = json.loads(path.read_text())
        config = description["model_cfg"]
        _refuse_code(str(path), config)
        _name_own_tokenizer(config, folder)
        if BIAS in weights:
            config.setdefault("init_logit_bias", 0.0)
    return description


def _name_own_tokenizer(config: Mapping, folder: Path) -> None:
    """As OpenCLIP reads it: from the model's folder, whatever the name, which may be that of a folder elsewhere."""
    text = config.get("text_cfg") or {}
    if text.get("hf_tokenizer_name") and (folder / "tokenizer_config.json").is_file():
        text["hf_tokenizer_name"] = str(folder.absolute())


def check_text_files(model_name: str) -> None:
    """Raises UsageError if a model's tokenizer would run code that comes with it, or a local file of its is missing.

    OpenCLIP passes `tokenizer_kwargs` on to transformers, from a folder or the hub as well.
    """
    import open_clip

    config = None
    with suppress(Exception):  # errors of the hub or a folder are raised when the model is made
        config = open_clip.get_model_config(_registered(model_name))
    if config is not None:
        if model_name.startswith("local-dir:"):  # OpenCLIP reads the tokenizer there, whatever its name
            (config.get("text_cfg") or {}).pop("hf_tokenizer_name", None)
        _refuse_code(model_name, config)
        refuse_missing_files(model_name, config)


def _refuse_code(where: str, config: Mapping) -> None:
    text = config.get("text_cfg") or {}  # other kinds of models on OpenCLIP's main branch have none
    if (text.get("tokenizer_kwargs") or {}).get("trust_remote_code"):
        raise UsageError(f"{where}: trust_remote_code among its tokenizer_kwargs would run code of others; drop it")


def refuse_missing_files(where: str, config: Mapping) -> None:
    """Raises UsageError for what looks like a local path in an architecture's text tower, and is not there."""
    for _, field, path in _paths(config):
        local = field == "bpe_path" or path.startswith(("/", ".", "~")) or path.count("/") > 1  # no ORG/NAME
        if local and not Path(path).exists():
            raise UsageError(f"{where}: {field} {path}: there is no such file or folder")


def _paths(config: Mapping) -> list[tuple[dict, str, str]]:
    """What may be a local path in an architecture's text tower: where it stands, its field, and its value."""
    text = config.get("text_cfg") or {}
    parts = ((text, "hf_model_name"), (text, "hf_tokenizer_name"), (text.get("tokenizer_kwargs") or {}, "bpe_path"))
    return [(part, field, part[field]) for part, field in parts if isinstance(part.get(field), str) and part[field]]


def describe_named(model_name: str, weights: Mapping[str, Tensor], options: Mapping[str, Any] | None = None) -> dict:
    """The hub configuration of an architecture by its OpenCLIP name, a registered one or one with a schema.

    A bias among the weights is added to the configuration; `options` are those of `open_clip.create_model`.

    Raises UsageError if OpenCLIP knows no such model, cannot make it, or the hub format cannot hold it.
    """
    import open_clip

    options = dict(options or {})
    if BIAS in weights:
        options.setdefault("init_logit_bias", 0.0)
    with as_mistake(f"{model_name}: cannot be looked up", Exception):  # a missing folder, an unreachable hub
        known = open_clip.get_model_config(_registered(model_name))
    if known is None:
        raise UsageError(
            f"OpenCLIP has no model {model_name} (it has {len(open_clip.list_models())}); --model-config adds one"
        )
    check_text_files(model_name)
    if "siglip" in model_name.lower() and ":" not in model_name and not known["text_cfg"].get("hf_tokenizer_name"):
        raise UsageError(
            f"{model_name}: for its name OpenCLIP takes SigLIP's tokenizer, which the hub format cannot express: give "
            f"its text_cfg the hf_tokenizer_name and tokenizer_kwargs of OpenCLIP's ViT-B-16-SigLIP"
        )
    try:
        with only_errors_logged():
            model = open_clip.create_model(model_name, load_weights=False, pretrained_text=False, **options)
    except Exception as error:
        raise UsageError(f"OpenCLIP cannot make {model_name}: {reason(error)}") from error
    return describe_model(model_name, model, options)


def _registered(model_name: str) -> str:
    """The name in OpenCLIP's registry: ViT-B/32 is ViT-B-32; a name with a schema is unchanged."""
    return model_name if ":" in model_name else model_name.replace("/", "-")


def registered_architecture(model_name: str) -> dict[str, Any] | None:
    """The architecture of a name in OpenCLIP's registry; None for one that is not there, or has a schema."""
    import open_clip

    return None if ":" in model_name else open_clip.get_model_config(_registered(model_name))


def quick_gelu(model_name: str) -> bool:
    """Whether an architecture in OpenCLIP's registry has QuickGELU."""
    return bool((registered_architecture(model_name) or {}).get("quick_gelu"))


def trained_settings(file: Path) -> tuple[Path | None, dict[str, Any]]:
    """The run or folder that describes a file's model, and its settings that loading weights cannot check.

    The settings are `quick_gelu` and the images' `mean` and `std`, tuples of floats; none where they are unknown.
    """
    folders = [each for each in (run_folder(file), file.resolve().parent) if (each / CONFIG_NAME).is_file()]
    try:
        description = folder_description(folders[0], {})
    except (IndexError, UsageError):
        return None, {}
    images = description.get("preprocess_cfg") or {}
    found = {key: tuple(images[key]) for key in ("mean", "std") if isinstance(images.get(key), list)}
    return folders[0], {**found, "quick_gelu": bool(description["model_cfg"].get("quick_gelu"))}


def local_files(description: Mapping) -> dict[str, str]:
    """By field, the local paths from which OpenCLIP reads parts of the text tower; the folder has the tokenizer's."""
    paths = _paths(description["model_cfg"])
    return {field: path for _, field, path in paths if field != "hf_tokenizer_name" and Path(path).exists()}


@contextmanager
def only_errors_logged() -> Iterator[None]:
    """Hides OpenCLIP's warning of random weights, for callers that load weights themselves."""
    level, silent = logging.root.level, logging.NullHandler()
    logging.root.setLevel(logging.ERROR)
    logging.root.addHandler(silent)  # else the first logged line would install a handler on the root for good
    try:
        yield
    finally:
        logging.root.setLevel(level)
        logging.root.removeHandler(silent)
