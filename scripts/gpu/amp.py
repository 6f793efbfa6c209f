"""Ten steps of the trainer with `--precision amp`, float16 and a GradScaler, while the model's own features mine."""

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from faulty.inputs import TINY, colour_shards

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.train import main as train

STEPS, BATCH = 10, 16


def measure(device: torch.device, keep: Callable[[Any], None]) -> None:
    """Raises RuntimeError if the training fails, a weight is not finite, or no step was taken."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_atomically(folder / "tiny-clip.json", json.dumps(TINY))
        data = colour_shards(folder / "data", (STEPS * BATCH // 2,) * 2)
        flags = ["--method", "fff", "--captions-per-image", "2", "--json-text-key", "captions", "--mining-features"]
        flags += ["online", "--mined-per-image", "1", "--mining-warmup", "3", "--model", "tiny-clip", "--model-config"]
        flags += [str(folder / "tiny-clip.json"), "--precision", "amp", "--device", device.type, "--workers", "0"]
        flags += ["--batch-size", str(BATCH), "--epochs", "1", "--warmup", "2", "--log-every-n-steps", "1"]
        code = train([*flags, *data, "--logs", str(folder / "logs"), "--name", "amp"])
        if code:
            raise RuntimeError(f"training ended with exit code {code}")
        saved = torch.load(folder / "logs" / "amp" / "checkpoints" / "epoch_1.pt", weights_only=True)
        losses = [float(x) for x in re.findall(r"Contrastive_loss: (\S+)", (folder / "logs/amp/out.log").read_text())]
    broken = [name for name, x in saved["state_dict"].items() if not x.isfinite().all()]
    steps = [int(state["step"]) for state in saved["optimizer"]["state"].values()]
    if broken or not steps or len(losses) != STEPS:
        raise RuntimeError(f"{len(losses)} losses, {max(steps, default=0)} steps, not finite: {broken}")
    scale = saved["scaler"]["scale"]
    keep({"losses": losses, "steps": max(steps), "skipped": STEPS - max(steps), "gradient_scale": scale})
    print(
        f"> {max(steps)} of {STEPS} steps taken, gradient scale {scale:,.0f}, loss {losses[0]:.2f} to {losses[-1]:.2f}"
    )
