"""A moving average of the trained model's weights, by timm's `ModelEmaV3`."""

import math
from typing import Any

from torch import nn

from open_clip_fff.distributed import copy_first_rank

WARMUP = 10.0  # the decay is steps / (10 + steps) until that reaches the chosen one


class WeightsEma:
    """A moving average of a model: `w <- d * w + (1 - d) * trained`, with d = min(decay, steps / (10 + steps)).

    A constant decay of 0.999 would keep random weights for thousands of steps. (bfloat16 weights are rounded
    stochastically, else small updates would vanish. So they would in float16 and with older timm, which are refused
    beforehand.)

    Args:
        model: the model, on its device.
        decay: 0 < decay < 1.

    Attributes:
        module: the averaged copy, in eval mode.
        steps: number of updates.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        from timm.utils import ModelEmaV3

        self._ema = ModelEmaV3(model, decay, use_warmup=True, warmup_gamma=WARMUP, warmup_power=1.0)
        self._ema.requires_grad_(False)
        weights = dict(self.module.named_parameters(remove_duplicate=False))
        averaged = self.module.state_dict().items()
        self._statistics = [x for name, x in averaged if name not in weights and x.is_floating_point()]
        self.steps = 0

    @property
    def module(self) -> Any:
        return self._ema.module

    def restart(self, model: nn.Module) -> None:
        """Starts again from the model's weights."""
        self._ema.set(model)
        self.steps = 0

    def update(self, model: nn.Module) -> None:
        """Averages after an optimizer step, on every rank; buffers, such as batch norm's, become rank 0's average."""
        self.steps += 1
        if (rounding := getattr(self._ema, "_sr_generator", None)) is not None:  # newer timm's
            rounding.manual_seed(self.steps)  # else a resumed run would repeat the first random numbers
        self._ema.update(model, self.steps + 1)  # timm counts from 2: steps 0 and 1 copy
        self.module.logit_scale.clamp_(0, math.log(100))  # OpenCLIP clamps after the optimizer's step
        copy_first_rank(self._statistics)  # else each rank keeps its own, as DDP's ranks do at a step's end

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the steps."""
        return {"steps": self.steps, "weights": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`. Raises RuntimeError, as torch does, if the weights do not fit."""
        self.module.load_state_dict(state["weights"])
        self.steps = state["steps"]
