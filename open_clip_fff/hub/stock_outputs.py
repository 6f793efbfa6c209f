"""A model's outputs for fixed inputs, computed the same way by the export and by a process with stock OpenCLIP alone.

That process runs this file by its path, `python -E -P stock_outputs.py FOLDER OUTPUTS THREADS SOURCE`: it imports
nothing of our package.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TEXTS = (
    "a photo of a dog",
    "Two people walk along a beach, one of them with a red umbrella.",
    "ein Bär 熊 🐻, 3.14",
    "word " * 200,  # longer than any context
)


def model_outputs(model: Any, preprocess: Callable, tokenizer: Callable) -> dict[str, Tensor]:
    """Pixels [3, 3, H, W], token ids [4, L] and logits [3, 4] for three noise images and `TEXTS`."""
    from PIL import Image

    noise = torch.randint(0, 256, (3, 12, 16, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pil = [Image.fromarray(each.numpy()).resize((320, 240)) for each in noise]
    pixels, tokens = torch.stack([preprocess(image) for image in pil]), tokenizer(list(TEXTS))
    with torch.no_grad():
        images, texts = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
        logits = model.logit_scale.exp() * images @ texts.T
        if model.logit_bias is not None:
            logits = logits + model.logit_bias
    return {"pixels": pixels, "tokens": tokens, "logits": logits}


def main(folder: str, outputs: str, threads: str, source: str) -> None:
    """Loads `folder` as any user of stock OpenCLIP, which lies in `source`, would, and saves the model's outputs."""
    sys.modules["open_clip_fff"] = None  # type: ignore[assignment]  # as if it were not installed
    if source not in sys.path:  # a clone
        sys.path.insert(0, source)
    import open_clip

    torch.set_num_threads(int(threads))  # the order of sums depends on it
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name, require_pretrained=True)
    torch.save(model_outputs(model.eval(), preprocess, open_clip.get_tokenizer(name)), outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
