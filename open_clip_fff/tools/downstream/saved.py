"""A fine-tuned model's folder: an exported fusion model's files, and the head beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from open_clip_fff.errors import UsageError, as_mistake, reason
from open_clip_fff.hub.checkpoints import read_weights
from open_clip_fff.hub.description import folder_description
from open_clip_fff.hub.folder import write_hub_folder, write_tensors
from open_clip_fff.hub.fusion_files import TASK, SavedFusion, write_fusion
from open_clip_fff.hub.loading import load_named
from open_clip_fff.models.fusion import load_fusion
from open_clip_fff.tools.downstream.network import TaskNetwork

HEAD, RESULT = "head.safetensors", "result.json"


class TaskModel(NamedTuple):
    """A network for a task, with what it takes to use and to write it."""

    network: TaskNetwork
    classes: Sequence[str]
    tokenizer: Any  # OpenCLIP's
    description: Mapping[str, Any]  # of the towers, in OpenCLIP's hub format


def new_task_model(given: str, source: str, pooled: bool, images: int, classes: Sequence[str]) -> TaskModel:
    """Towers and fusion model of an exported folder or a run, and a new head, for examples of some images.

    `pooled` leaves the fusion model out, as in the baseline; `source` is for error lines.

    Raises UsageError if there is no such model, or, unless `pooled`, it has no fusion model.
    """
    path = Path(given.removeprefix("local-dir:"))
    if not path.exists():
        raise UsageError(f"{source}: there is no such folder or checkpoint")
    fusion = None if pooled else load_fusion(path)
    loaded = load_named(str(path), None, source)
    description = loaded.description or folder_description(path, loaded.model.state_dict())
    network = TaskNetwork(loaded.model, fusion, description["model_cfg"]["embed_dim"], images, len(classes))
    return TaskModel(network.requires_grad_(True), classes, loaded.tokenizer, description)


def write_task_model(model: TaskModel, task: str, result: Mapping[str, Any], out: Path) -> None:
    """Writes the folder, completely or not at all, after checking that it loads back equal.

    The metrics go into `result.json`. `task` is `vqa` or `nlvr2`, and `out` a path that does not exist, or an empty
    folder.

    Raises UsageError if it cannot be written, or loads back differently.
    """
    network = model.network
    about = {
        "task": task, "pooled": network.fusion is None, "images": network.images, "classes": list(model.classes)
    }  # fmt: skip

    def write_more(folder: Path) -> None:
        if network.fusion is not None:
            write_fusion(SavedFusion(asdict(network.fusion.sizes), network.fusion.state_dict()), folder)
        write_tensors(network.head.state_dict(), folder / HEAD)
        (folder / TASK).write_text(json.dumps(about) + "\n")
        (folder / RESULT).write_text(json.dumps(result, indent=2) + "\n")

    def check(folder: Path) -> None:
        back = load_task_model(folder, task).network.state_dict()
        if different := [name for name, x in network.state_dict().items() if not torch.equal(back[name], x.cpu())]:
            raise UsageError(f"what was written does not load back: {different[0]} differs")

    write_hub_folder(model.description, network.towers.state_dict(), out, check, write_more=write_more)


def load_task_model(folder: Path, task: str) -> TaskModel:
    """A folder of `write_task_model`, on the CPU. Raises UsageError if it is none, or of another task."""
    called = f"--score {folder}"
    try:
        about = json.loads((folder / TASK).read_text())
        found, pooled, images, classes = (about[name] for name in ("task", "pooled", "images", "classes"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{called}: no folder that open-clip-fff {task} wrote ({TASK}: {reason(error)})") from error
    if found != task:
        raise UsageError(f"{called}: was fine-tuned for {found}; use open-clip-fff {found}")
    model = new_task_model(str(folder), called, pooled, images, classes)
    with as_mistake(f"{called}: {HEAD} does not fit {TASK}", RuntimeError):
        model.network.head.load_state_dict(read_weights(folder / HEAD))
    return model
