"""Writing a folder in OpenCLIP's hub format, whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from open_clip_fff.errors import UsageError
from open_clip_fff.hub.description import CONFIG_NAME

WEIGHTS_NAME = "open_clip_model.safetensors"  # the first name that OpenCLIP looks for


def write_hub_folder(description: Mapping, weights: Mapping[str, Tensor], out: Path) -> None:
    """Writes configuration, weights and, where the text tower needs them, tokenizer files to `out`.

    The folder is finished beside its place, loaded with OpenCLIP and compared with `weights`, and only then moved
    there.

    Args:
        description: `open_clip_config.json` (towers/description.py).
        weights: the model's state dict.
        out: a path that does not exist, or an empty folder.

    Raises:
        UsageError: if `out` holds anything, or what was written does not load back equal.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists and is not empty; nothing was written over")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write(description, weights, unfinished)
        _verify(weights, unfinished)
        unfinished.chmod(0o755)  # temporary folders, and safetensors' files, are their owner's alone
        (unfinished / WEIGHTS_NAME).chmod(0o644)
        os.replace(unfinished, out)  # over an empty folder, too
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_config(description: Mapping, folder: Path) -> None:
    """Writes the configuration and, where the text tower needs them, tokenizer files into `folder`."""
    from open_clip.tokenizer import HFTokenizer

    text = description["model_cfg"]["text_cfg"]
    if text.get("hf_tokenizer_name"):
        # OpenCLIP takes the tokenizer of a local folder from that folder
        HFTokenizer(text["hf_tokenizer_name"]).tokenizer.save_pretrained(folder)
    (folder / CONFIG_NAME).write_text(json.dumps(description, indent=2) + "\n")


def _write(description: Mapping, weights: Mapping[str, Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    write_config(description, folder)
    # safetensors refuses tensors that share memory
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS_NAME)


def _verify(weights: Mapping[str, Tensor], folder: Path) -> None:
    import open_clip

    loaded = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).state_dict()
    different = [name for name, tensor in weights.items() if not torch.equal(loaded[name].to(tensor.dtype), tensor)]
    if different:
        raise UsageError(f"what was written does not load back: {different[0]} differs")
