"""A trained model written down as OpenCLIP's hub format wants it, so that stock OpenCLIP can build it again."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.hub.checkpoints import run_folder
from open_clip_fff.hub.params import read_params
from open_clip_fff.hub.stock import stock_options
from open_clip_fff.hub.weights import BIAS

CONFIG_NAME = "open_clip_config.json"  # OpenCLIP's HF_CONFIG_NAME


def describe(model_name: str, model: Any, options: Mapping[str, Any]) -> dict:
    """The configuration of a model that `open_clip.create_model_and_transforms(model_name, **options)` made.

    Args:
        model_name: as given to OpenCLIP, with or without a schema.
        model: the model, for its image preprocessing and its scalars.
        options: the keyword arguments it was made with; those that changed the architecture are written in.

    Returns:
        OpenCLIP's hub configuration: `model_cfg` and `preprocess_cfg`.
    """
    import open_clip

    config = open_clip.get_model_config(_registered(model_name))
    for switch, key in (("force_quick_gelu", "quick_gelu"), ("force_custom_text", "custom_text")):
        if options.get(switch):
            config[key] = True
    if options.get("force_image_size") is not None:
        config["vision_cfg"]["image_size"] = options["force_image_size"]
    if options.get("force_context_length") is not None:
        config["text_cfg"]["context_length"] = options["force_context_length"]
    if options.get("force_patch_dropout") is not None:
        config["vision_cfg"]["patch_dropout"] = options["force_patch_dropout"]
    if options.get("init_logit_scale") is not None:
        config["init_logit_scale"] = float(options["init_logit_scale"])
    # Stock OpenCLIP loads no checkpoint with a bias into a model that is built without one.
    if getattr(model, BIAS, None) is not None:
        config["init_logit_bias"] = float(options.get("init_logit_bias", config.get("init_logit_bias", 0.0)))
    if model.logit_scale.ndim:
        config["nonscalar_logit_scale"] = True
    preprocess = model.visual.preprocess_cfg
    return {
        "model_cfg": config,
        "preprocess_cfg": {key: preprocess[key] for key in ("mean", "std", "interpolation", "resize_mode")},
    }


def write_description(description: dict, folder: Path) -> None:
    """Writes the configuration into `folder`, whole or not at all."""
    write_atomically(folder / CONFIG_NAME, json.dumps(description, indent=2) + "\n")


def read_description(checkpoint: Path, weights: Mapping[str, Tensor], model_name: str | None = None) -> dict:
    """The description that fits a training checkpoint, from its run folder.

    open_clip_fff.train writes one there; for a run of OpenCLIP's own trainer it is made from params.txt.

    Args:
        checkpoint: RUN/checkpoints/epoch_N.pt.
        weights: those in it.
        model_name: the architecture, where a person says it; it wins over what the run says.

    Raises:
        UsageError: if the run left neither, or what it left cannot be used.
    """
    run = run_folder(checkpoint)
    for folder in (run, checkpoint.resolve().parent):  # weights of a folder in the hub's format, too
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
    name, options = stock_options(params, run / "params.txt")
    return describe_named(name, weights, options)


def folder_description(folder: Path, weights: Mapping[str, Tensor]) -> dict:
    """The description that lies in a folder, for these weights: a bias among them is read_local.

    Raises:
        UsageError: if there is none, or it is no description.
    """
    path = folder / CONFIG_NAME
    try:
        description = json.loads(path.read_text())
        config = description["model_cfg"]
        if BIAS in weights:
            config.setdefault("init_logit_bias", 0.0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not a description of a model ({reason(error)})") from error
    return description


def describe_named(model_name: str, weights: Mapping[str, Tensor], options: Mapping[str, Any] | None = None) -> dict:
    """The description of an architecture by its name, for these weights.

    Args:
        model_name: one of OpenCLIP's, an added one, or one with a schema.
        weights: a bias among them is read_local, whatever the name says.
        options: of `open_clip.create_model`.

    Raises:
        UsageError: if OpenCLIP knows no such model, cannot make it, or the hub format cannot hold it.
    """
    import open_clip

    options = dict(options or {})
    if BIAS in weights:
        options.setdefault("init_logit_bias", 0.0)
    try:
        known = open_clip.get_model_config(_registered(model_name))
    except Exception as error:  # a folder that is not there, a hub that is out of reach
        raise UsageError(f"{model_name}: cannot be looked up ({reason(error)})") from error
    if known is None:
        raise UsageError(
            f"OpenCLIP has no model {model_name} (it has {len(open_clip.list_models())}); --model-config adds one"
        )
    if "siglip" in model_name.lower() and ":" not in model_name and not known["text_cfg"].get("hf_tokenizer_name"):
        raise UsageError(
            f"{model_name}: for its name OpenCLIP takes SigLIP's tokenizer, which the hub format cannot say: give its "
            f"text_cfg the hf_tokenizer_name and tokenizer_kwargs of OpenCLIP's ViT-B-16-SigLIP"
        )
    try:
        with only_errors_logged():
            model = open_clip.create_model(model_name, load_weights=False, pretrained_text=False, **options)
    except Exception as error:
        raise UsageError(f"OpenCLIP cannot make {model_name}: {reason(error)}") from error
    return describe(model_name, model, options)


def _registered(model_name: str) -> str:
    """As OpenCLIP looks it up: ViT-B/32 is ViT-B-32, and what follows a schema is left alone."""
    return model_name if ":" in model_name else model_name.replace("/", "-")


def local_tower(description: Mapping) -> str | None:
    """The folder of this machine from which OpenCLIP reads the text tower's configuration; None where it needs none."""
    tower = description["model_cfg"]["text_cfg"].get("hf_model_name")
    return tower if tower and Path(tower).exists() else None


@contextmanager
def only_errors_logged() -> Iterator[None]:
    """Only errors are logged inside."""
    level, silent = logging.root.level, logging.NullHandler()
    logging.root.setLevel(logging.ERROR)
    logging.root.addHandler(silent)  # without any, the first line logged gives the root one of its own for ever
    try:
        yield
    finally:
        logging.root.setLevel(level)
        logging.root.removeHandler(silent)
