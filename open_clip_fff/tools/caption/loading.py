"""Loads captioners by hub name or folder, without running code from the hub."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.matching.loading import FIX
from open_clip_fff.models.transformers_weights import (
    absent_weights,
    cannot_be_loaded,
    check_vocabulary,
    load_tokenizer,
    silenced_transformers,
)
from open_clip_fff.tools.caption.captioner import CAPTIONER_KINDS, Captioner, PixelCaptioner, PromptedCaptioner

READ = (".json", ".safetensors", ".bin", ".txt", ".model", ".jinja")  # suffixes that transformers may read


def configuration(name: str) -> Any:
    """A captioner's configuration. Raises UsageError for none, or a model type that captions no images."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    with as_mistake(f"--model {name}: {cannot_be_loaded(name)}", Exception, fix=FIX), silenced_transformers():
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    if config.model_type not in KNOWN:
        raise UsageError(
            f"--model {name}: its config.json says {config.model_type}, with which transformers captions no images; "
            f"name BLIP-2, BLIP, or another model for image-text-to-text"
        )
    if wrong := [kind for kind in config.architectures or [] if kind.endswith("ForQuestionAnswering")]:
        raise UsageError(
            f"--model {name}: its config.json says {wrong[0]}, which was trained to answer questions and captions "
            f"nothing; name a captioner"
        )
    return config


def revision(name: str, config: Any) -> str:
    """The hub's commit, or a hash of a folder's files."""
    folder = Path(name)
    if not folder.is_dir():
        return str(getattr(config, "_commit_hash", None))
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in READ and path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()} ".encode())
    return digest.hexdigest()


def dtype_of(named: str, config: Any, device: str) -> str:
    """`auto` is float32 on a CPU, else bfloat16 if the model was saved in it, or float16."""
    if named != "auto":
        return named
    if not device.startswith("cuda"):
        return "float32"
    return "bfloat16" if config.dtype == torch.bfloat16 else "float16"


def load_captioner(name: str, config: Any, prompt: str, dtype: str) -> Captioner:
    """Loads a captioner of the hub, or of a folder, on the CPU, in eval mode.

    Its `config` is that of `configuration`, `dtype` one of decoding.DTYPES; an empty prompt is none.

    Raises UsageError if it cannot be loaded, lacks weights, or cannot take the prompt.
    """
    import transformers

    with as_mistake(f"--model {name}: cannot be loaded", Exception, fix=FIX), silenced_transformers():
        load: Any = transformers.AutoModelForImageTextToText.from_pretrained
        model, info = load(
            name, config=config, dtype=getattr(torch, dtype), output_loading_info=True, trust_remote_code=False
        )
        words = load_tokenizer(name) if config.model_type in CAPTIONER_KINDS else None
        processor: Any = transformers.AutoProcessor if words is None else transformers.AutoImageProcessor
        images = processor.from_pretrained(name, trust_remote_code=False)
        if words is None and (words := getattr(images, "tokenizer", None)) is not None:
            check_vocabulary(words)
    if absent := absent_weights(model, info):
        raise UsageError(
            f"--model {name}: weights of a captioner are missing ({absent[0]} and {len(absent) - 1} more are not in "
            f"it); name a model that was trained to caption, as Salesforce/blip2-opt-2.7b was"
        )
    model.eval()
    if config.model_type in CAPTIONER_KINDS:
        return PixelCaptioner(model, words, prompt, images)
    if words is None:
        raise UsageError(f"--model {name}: has no processor of images and text; {FIX}")
    return PromptedCaptioner(model, words, prompt, images)
