"""Loads an exported folder with stock OpenCLIP alone: python -I stock.py MODEL DATA LOGITS.npy"""

# ruff: noqa: E402
import io
import sys
import tarfile
from pathlib import Path

sys.modules["open_clip_fff"] = None  # type: ignore[assignment]  # importing it is an ImportError from here on

import numpy as np
import open_clip
import torch
from PIL import Image

folder, data, out = (Path(argument) for argument in sys.argv[1:])

model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
names = (data / "classnames.txt").read_text().splitlines()
prompts = (data / "zeroshot_classification_templates.txt").read_text().splitlines()
with tarfile.open(data / "test" / "0.tar") as tar:
    members = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
keys = [name.removesuffix(".png") for name in members if name.endswith(".png")]
images = torch.stack([prepare(Image.open(io.BytesIO(members[f"{key}.png"]))) for key in keys])
labels = torch.tensor([int(members[f"{key}.cls"]) for key in keys])

model.eval()
templates = [lambda name, prompt=prompt: prompt.format(c=name) for prompt in prompts]
with torch.no_grad():
    classifier = open_clip.build_zero_shot_classifier(model, tokenizer, names, templates)
    logits = 100 * model.encode_image(images, normalize=True) @ classifier  # [N, 10]
np.save(out, logits.numpy())
print(f"OpenCLIP {open_clip.__version__} alone:  top-1 {(logits.argmax(dim=1) == labels).double().mean():.1%}")
