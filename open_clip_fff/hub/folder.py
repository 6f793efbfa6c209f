"""Writing a folder in OpenCLIP's hub format, completely or not at all."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from open_clip_fff.atomic_io import atomic_folder, check_new_folder
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.hub.description import CONFIG_NAME

WEIGHTS_NAME = "open_clip_model.safetensors"  # the first name that OpenCLIP looks for
CARD_NAME = "README.md"


def write_hub_folder(
    description: Mapping,
    weights: Mapping[str, Tensor],
    out: Path,
    check: Callable[[Path], object],
    card: str | None = None,
    repository: str | None = None,
    write_more: Callable[[Path], object] = lambda _: None,
) -> None:
    """Writes configuration, weights, model card and, if the text tower needs them, tokenizer files to `out`.

    The folder is written under a temporary name beside `out`, with `write_more`'s files; it is renamed once it passes
    `check`. With a hub `repository`, ORG/NAME, OpenCLIP will load the tokenizer from there.

    Raises UsageError if `out` holds anything, cannot be written, or does not load back equal (`check`).
    """
    from safetensors import SafetensorError

    check_new_folder(out)
    try:
        with atomic_folder(out) as unfinished:
            write_config(description, unfinished, repository)
            if card is not None:
                (unfinished / CARD_NAME).write_text(card, encoding="utf-8")
            write_tensors(weights, unfinished / WEIGHTS_NAME)
            write_more(unfinished)
            check(unfinished)
    except (OSError, SafetensorError) as error:  # a full disk
        raise UsageError(f"--out {out}: cannot be written ({reason(error)}); nothing was left there") from error


def write_config(description: Mapping, folder: Path, repository: str | None = None) -> None:
    """Writes the configuration and, if the text tower needs them, tokenizer files into `folder`."""
    from open_clip.tokenizer import HFTokenizer

    description = copy.deepcopy(dict(description))
    text = description["model_cfg"]["text_cfg"]
    if name := text.get("hf_tokenizer_name"):
        # from a local folder OpenCLIP reads the tokenizer in it: training's local path need not be published
        HFTokenizer(name).tokenizer.save_pretrained(folder)
        text["hf_tokenizer_name"] = repository or (Path(name).resolve().name if Path(name).exists() else name)
    (folder / CONFIG_NAME).write_text(json.dumps(description, indent=2) + "\n")


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors as safetensors."""
    from safetensors.torch import save_file

    # safetensors refuses tensors that share memory
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path)
