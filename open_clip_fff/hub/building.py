"""From a description to a model, by OpenCLIP's own factory."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from open_clip_fff.errors import UsageError, reason
from open_clip_fff.hub.folder import write_config
from open_clip_fff.hub.random_weights_warning import without_warnings


def build(description: Mapping) -> tuple[Any, Callable[[Any], Tensor], Callable[[Sequence[str]], Tensor]]:
    """The model of a hub configuration with random weights, its preprocessing and its tokenizer.

    Raises:
        UsageError: if OpenCLIP cannot make it.
    """
    import open_clip

    with tempfile.TemporaryDirectory() as folder:
        try:
            write_config(description, Path(folder))
            with without_warnings():
                model, _, preprocess = open_clip.create_model_and_transforms(
                    f"local-dir:{folder}", load_weights=False, pretrained_text=False
                )
            return model, preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")
        except Exception as error:
            text = json.dumps(description["model_cfg"])[:200]
            raise UsageError(f"OpenCLIP cannot make this model: {reason(error)} ({text})") from error
