"""A moving average of the trained model's weights, by timm's `ModelEmaV3`."""

import math
from typing import Any

from torch import nn

WARMUP = 10.0  # the average follows at steps / (10 + steps) until that reaches the decay


class WeightsEma:
    """A copy of a model that follows it: `w <- d * w + (1 - d) * trained`, with d = min(decay, steps / (10 + steps)).

    A plain decay of 0.999 would keep random weights for thousands of steps. In eval mode. (bfloat16 weights are rounded
    stochastically, or the small updates would vanish; float16 ones would vanish, and are refused beforehand.)

    Args:
        model: the model, on its device.
        decay: 0 < decay < 1.

    Attributes:
        module: the copy.
        steps: how often it was updated.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        from timm.utils import ModelEmaV3

        self._ema = ModelEmaV3(model, decay, use_warmup=True, warmup_gamma=WARMUP, warmup_power=1.0)
        self._ema.requires_grad_(False)
        self.steps = 0

    @property
    def module(self) -> Any:
        return self._ema.module

    def restart(self, model: nn.Module) -> None:
        """Starts from the model as it is."""
        self._ema.set(model)
        self.steps = 0

    def update(self, model: nn.Module) -> None:
        """Follows the model after an optimizer step."""
        self.steps += 1
        self._ema.update(model, self.steps + 1)  # timm counts from 2: steps 0 and 1 copy
        self.module.logit_scale.clamp_(0, math.log(100))  # OpenCLIP clamps after the optimizer's step

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the steps."""
        return {"steps": self.steps, "weights": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`. Raises RuntimeError, as torch does, where the weights do not fit."""
        self.module.load_state_dict(state["weights"])
        self.steps = state["steps"]
