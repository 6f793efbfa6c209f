"""Makes text towers of transformers float32, whatever precision their weights were saved in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def _in_float32(make: Callable, *args: Any, **options: Any) -> Any:
    return make(*args, **{**options, "dtype": torch.float32})  # blocks may be nested
