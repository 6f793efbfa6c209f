"""The optimizer's state in a checkpoint to resume from: its form and shapes, before an optimizer is made."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from open_clip_fff.errors import UsageError
from open_clip_fff.hub.checkpoints import optimizer_tensors

NO_STATE: dict[str, Any] = {"param_groups": [], "state": {}}  # of what no optimizer goes on from
_SHAPED_LIKE_WEIGHTS = ("exp_avg", "exp_avg_sq")  # Adam's moments, and those of optimizers like it


def is_optimizer_state(saved: Any) -> bool:
    """Whether it has the form of an optimizer's `state_dict`."""
    if not isinstance(saved, Mapping):
        return False
    groups, state = saved.get("param_groups"), saved.get("state")
    of_groups = isinstance(groups, list) and all(isinstance(x, Mapping) and "params" in x for x in groups)
    return of_groups and isinstance(state, Mapping) and all(isinstance(x, Mapping) for x in state.values())


def check_moments(called: str, saved: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    """Raises UsageError for a moment in the shape of no parameter; `own` are the model's, without a fusion model's."""
    shapes = {tensor.shape for tensor in own.values()}
    for name, moment in optimizer_tensors(saved).items():
        if name.split()[0] in _SHAPED_LIKE_WEIGHTS and moment.dim() and moment.shape not in shapes:
            raise UsageError(
                f"{called}: its optimizer's {name} is of shape {list(moment.shape)}, which no weight of the model has"
            )
