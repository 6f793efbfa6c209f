"""Keeps numbers that are not finite from spreading: from a batch to weights and buffers, from these to a checkpoint.

DDP has averaged the gradients before the optimizer's step begins, so all ranks see the same ones and decide alike.
"""

import logging
from pathlib import Path
from typing import Any

import torch

from open_clip_fff.config.safety import IN_A_ROW, SCALER_IN_A_ROW, SKIP, STOP
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.checkpoints import kept_instead, optimizer_tensors
from open_clip_fff.numerics import not_finite, whole

MAX_WARNINGS = 3  # lines of single steps in an epoch; counts go on


class StepGuard:
    """Leaves out the steps whose gradient, or a square of it, is not finite: of squares Adam's moments consist.

    A step that is left out changes nothing: its gradients become None, which the optimizer skips (zeros would still
    decay Adam's moments), and `RunState.after_step` is not called. The policy `stop` ends the run after IN_A_ROW such
    steps, `skip` never does. `accumulation` is how often the loss is computed per step.
    """

    def __init__(self, policy: str, accumulation: int = 1) -> None:
        self.policy, self.accumulation = policy, accumulation
        self.left_out = self.watching = False  # whether the last step was left out; whether steps are watched
        self.losses = self.taken = 0  # how often the loss was computed; steps that the optimizer took
        self._row = self._skipped = self._warned = 0
        self._tried = self._unscaled = self._unscaled_row = self._reported = 0

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Checks gradients before each optimizer step; not called in a run without a flag of open_clip_fff."""
        self.watching = True
        optimizer.register_step_pre_hook(lambda stepping, *_: self._before(stepping))

    def after_loss(self) -> None:
        """To be called after each loss: a step that was due before it and never began was left out by GradScaler."""
        over, self.losses = self.losses // self.accumulation, self.losses + 1
        if not self.watching or (missing := over - self._tried - self._unscaled) <= 0:
            return
        self._unscaled, self._unscaled_row = self._unscaled + missing, self._unscaled_row + missing
        if self.policy == STOP and self._unscaled_row >= SCALER_IN_A_ROW:
            raise UsageError(
                f"--on-nonfinite stop: GradScaler left out {SCALER_IN_A_ROW} steps in a row, at ever smaller scales: "
                f"gradients are not finite in half precision; lower --lr, or use --precision amp_bf16 or fp32"
            )

    def take_counts(self) -> tuple[int, int]:
        """Steps left out since the last call: by this guard, and by GradScaler."""
        found = self._skipped, self._unscaled - self._reported
        self._skipped, self._warned, self._reported = 0, 0, self._unscaled
        return found

    def _before(self, optimizer: torch.optim.Optimizer) -> None:
        self._tried, self._unscaled_row = self._tried + 1, 0
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # One host sync. The sum of squares may overflow where each is finite; the max norm decides then, but is slow on
        # a CPU.
        self.left_out = not _finite_squares(gradients, 2.0) and not _finite_squares(gradients, torch.inf)
        if not self.left_out:
            self._row, self.taken = 0, self.taken + 1
            return
        for parameter in parameters:
            parameter.grad = None
        self._row, self._skipped, self._warned = self._row + 1, self._skipped + 1, self._warned + 1
        if self.policy == STOP and self._row >= IN_A_ROW:
            raise UsageError(
                f"--on-nonfinite stop: {IN_A_ROW} steps in a row had a gradient that is not finite, and were left out; "
                f"lower --lr, look at the data, or go on regardless with --on-nonfinite {SKIP}"
            )
        if self._warned <= MAX_WARNINGS:
            more = "; further ones are counted at the epoch's end" if self._warned == MAX_WARNINGS else ""
            logging.warning(f"A step is left out: its gradient is not finite ({self._row} in a row){more}.")


class KeptBuffers:
    """A model's saved buffers of floats, as batch norm's statistics, as of the last step that was taken.

    Forward passes change them before it is known whether their step is left out, by the guard or by GradScaler; the
    buffers are then set back. It does nothing where the guard watches no optimizer.
    """

    def __init__(self, model: torch.nn.Module, guard: StepGuard) -> None:
        saved = model.state_dict().keys() if guard.watching else ()
        self._now = {name: x for name, x in model.named_buffers() if name in saved and x.is_floating_point()}
        self._kept = [buffer.clone() for buffer in self._now.values()]
        self._guard, self._taken = guard, guard.taken

    def after_step(self, step: int) -> None:
        """To be called after each step, taken or not, before the next forward pass."""
        if self._guard.taken == self._taken:
            self._restore()
        elif self._now:
            torch._foreach_copy_(self._kept, list(self._now.values()))
        self._taken = self._guard.taken

    def after_epoch(self) -> None:
        """Batches that --accum-freq leaves over make no step, and their forward passes count, as in OpenCLIP."""
        if not_finite(self._now):
            self._restore()

    def _restore(self) -> None:
        for buffer, kept in zip(self._now.values(), self._kept, strict=True):
            buffer.copy_(kept)


def _finite_squares(gradients: list[torch.Tensor], order: float) -> bool:
    """Whether the square of the gradients' norm is finite in each of their types, which the moments have, too."""
    types = dict.fromkeys(gradient.dtype for gradient in gradients)
    of_types = ([gradient for gradient in gradients if gradient.dtype == each] for each in types)
    norms = [whole(torch.nn.utils.get_total_norm(each, order)) for each in of_types]
    return not norms or bool(torch.stack([norm.square() for norm in norms]).isfinite().all())


def left_out_line(skipped: int, unscaled: int) -> str:
    """How many steps of an epoch were not taken; empty where all were."""
    parts = [f"{skipped:,} whose gradient was not finite"] * bool(skipped)
    parts += [f"{unscaled:,} that GradScaler left out"] * bool(unscaled)
    return ", ".join(parts)


def refuse_to_save(checkpoint: Any, path: str) -> None:
    """Raises UsageError for a checkpoint whose weights or optimizer's state are not finite.

    The previous checkpoint stays: OpenCLIP deletes it only once the next one is written.
    """
    if not isinstance(checkpoint, dict):
        return
    tensors = {f"weight {name}": value for name, value in checkpoint.get("state_dict", {}).items()}
    if optimizer := checkpoint.get("optimizer"):
        tensors |= {f"optimizer's {name}": value for name, value in optimizer_tensors(optimizer).items()}
    if name := not_finite(tensors):
        step = f"step {checkpoint['step']} in " if "step" in checkpoint else ""
        raise UsageError(
            f"after {step}epoch {checkpoint.get('epoch')} the {name} is not finite, and is not saved"
            f"{kept_instead(Path(path))}"
        )
