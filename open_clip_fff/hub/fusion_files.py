"""A fusion model's files: `fusion.safetensors` and `fusion.json` in an exported folder, or a run's extra state."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.hub.checkpoints import find_checkpoint, read_extra, run_of
from open_clip_fff.hub.folder import write_tensors
from open_clip_fff.hub.params import read_params
from open_clip_fff.hub.weight_source import WeightSource

CONFIG, WEIGHTS = "fusion.json", "fusion.safetensors"
TASK = "task.json"  # beside those of a model that was fine-tuned for VQA or NLVR2


class SavedFusion(NamedTuple):
    """A fusion model as it is stored."""

    sizes: Mapping[str, int]  # `models.fusion.FusionSizes`
    weights: Mapping[str, Tensor]


def read_fusion(path: Path) -> SavedFusion:
    """The fusion model of an export, a checkpoint, or a run's newest one. Raises UsageError if none can be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (path / CONFIG).is_file():
        if path.is_dir() and not (path / "checkpoints").is_dir():
            raise UsageError(f"{path}: holds no fusion model ({CONFIG}); export a run that was trained with one")
        checkpoint = find_checkpoint(path)
        found = fusion_of_checkpoint(checkpoint)
        if found is None and trained_with_fusion(checkpoint) is False:
            raise UsageError(f"{path}: was trained without a fusion model (--fusion-layers)")
        if found is None:
            raise UsageError(f"{checkpoint}: has no fusion model beside it ({read_extra(checkpoint)[0]})")
        return found
    unreadable = (OSError, ValueError, TypeError, AttributeError, SafetensorError)
    with as_mistake(f"{path}: its fusion model cannot be read", *unreadable):
        sizes = json.loads((path / CONFIG).read_text())
        return SavedFusion({name: int(size) for name, size in sizes.items()}, load_file(path / WEIGHTS))


def fusion_of_checkpoint(checkpoint: Path) -> SavedFusion | None:
    """The fusion model that was saved with a checkpoint; None without one."""
    state = read_extra(checkpoint)[1].get("fusion")
    return None if state is None else SavedFusion(state["sizes"], state["weights"])


def trained_with_fusion(checkpoint: Path) -> bool | None:
    """Whether a checkpoint's run trained a fusion model, by its params.txt; None without params.txt."""
    run = run_of(checkpoint)
    params = read_params(run) if run else {}
    return params.get("fusion_layers", "0") not in ("0", "None") if params else None


def fusion_to_export(source: WeightSource) -> tuple[SavedFusion | None, str | None]:
    """The fusion model that belongs to the exported weights, and a note where it is left out.

    For the mean of several checkpoints it is the mean of their fusion models; the towers' moving average has none.
    """
    found = [fusion for fusion in map(fusion_of_checkpoint, source.checkpoints) if fusion is not None]
    last = source.checkpoints[-1]
    if not found and trained_with_fusion(last):
        return None, f"note: the fusion model is left out: it is not beside {last} ({read_extra(last)[0]})"
    if not found:
        return None, None
    if source.ema:
        return None, "note: the fusion model is left out: it was trained with the weights and not with their average"
    if len(found) < len(source.checkpoints) or any(each.sizes != found[0].sizes for each in found):
        return None, "note: the fusion model is left out: the checkpoints do not have the same one"
    weights = {
        name: torch.stack([each.weights[name].double() for each in found]).mean(dim=0).to(tensor.dtype)
        for name, tensor in found[-1].weights.items()
    }
    return SavedFusion(found[-1].sizes, weights), None


def write_fusion(fusion: SavedFusion, folder: Path) -> None:
    """Writes both files."""
    (folder / CONFIG).write_text(json.dumps(dict(fusion.sizes), indent=2) + "\n")
    write_tensors(fusion.weights, folder / WEIGHTS)
