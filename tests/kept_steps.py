"""A plug-in that keeps each step's loss and assignment, with all their digits, so that two versions can be compared.

It changes the losses of the whole process: only a program of its own may import it.
"""

import os
from typing import Any

import open_clip.loss
import torch

from open_clip_fff.losses.criterion import Criterion

FILE = "KEPT_STEPS"  # the variable that names the file; each rank's ends with its number
_STEPS: list[dict[str, Any]] = []
_forward, _assignment, _stock = Criterion.forward, Criterion.assignment, open_clip.loss.ClipLoss.forward


def _keep(terms: Any, assignment: torch.Tensor | None) -> None:
    losses = terms if isinstance(terms, dict) else {"loss": terms}
    losses = {name: value.item() for name, value in losses.items() if name.endswith("loss")}
    _STEPS.append({"losses": losses, "assignment": assignment})
    torch.save(_STEPS, f"{os.environ[FILE]}.{os.environ.get('RANK', '0')}")


def _remembering(self: Criterion, *given: Any, **more: Any) -> Any:
    self.remembered = _assignment(self, *given, **more)
    return self.remembered


def _own(self: Criterion, *given: Any, **more: Any) -> Any:
    terms = _forward(self, *given, **more)
    _keep(terms, self.remembered.to_tensor())
    return terms


def _open_clips(self: Any, *given: Any, **more: Any) -> Any:
    terms = _stock(self, *given, **more)
    _keep(terms, None)
    return terms


Criterion.forward, Criterion.assignment = _own, _remembering
open_clip.loss.ClipLoss.forward = _open_clips
