"""Makes text towers of transformers float32, whatever precision their weights were saved in."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch

from open_clip_fff.patching import View, replaced


@contextmanager
def float32_text_towers() -> Iterator[None]:
    """Within the block OpenCLIP makes text towers of transformers in float32, like everything else.

    From version 5 on transformers makes a model in the precision that its config.json names. Beside a float32 image
    tower training then fails at the first step, or under autocast keeps the tower's weights in bfloat16.
    """
    import open_clip.hf_model

    made = open_clip.hf_model.AutoModel
    full = {name: partial(_in_float32, getattr(made, name)) for name in ("from_pretrained", "from_config")}
    with replaced(open_clip.hf_model, AutoModel=View(made, **full)):
        yield


def half_precision_fix(description: Mapping) -> str:
    """How stock OpenCLIP comes to take a model whose text tower's config.json names half precision; else empty.

    It makes the tower in that precision, and fails at the first text beside float32 weights.
    """
    from transformers import AutoConfig

    name, kind = description.get("model_cfg", {}).get("text_cfg", {}).get("hf_model_name"), None
    with suppress(Exception):  # a missing folder, an unreachable hub
        kind = getattr(AutoConfig.from_pretrained(name), "dtype", None) if name else None
    if kind not in (torch.float16, torch.bfloat16):
        return ""
    where = f"the config.json of hf_model_name {name} says {str(kind).removeprefix('torch.')}"
    return f'; {where}: write "dtype": "float32" there (of a hub\'s model in a copy, and name that)'


def _in_float32(make: Callable, *args: Any, **options: Any) -> Any:
    return make(*args, **{**options, "dtype": torch.float32})  # blocks may be nested
