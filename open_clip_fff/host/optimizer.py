"""The seams around the optimizer: what follows its steps, and a learning rate of their own for scale and bias."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import open_clip_train.main as oc_main
import open_clip_train.train as oc_train
import timm.optim
import torch

from open_clip_fff.errors import UsageError
from open_clip_fff.host.checkpoints.resume_point import ResumeCheckpoint
from open_clip_fff.host.checks.weights import trained_with
from open_clip_fff.host.generation import TASKS
from open_clip_fff.host.state import RunState
from open_clip_fff.hub.weights import BIAS, SCALE
from open_clip_fff.patching import View, replaced

SCHEDULES = ("cosine_lr", "const_lr", "const_lr_cooldown")  # OpenCLIP's makers of --lr-scheduler
RATE = "get_learning_rate"  # for the main branch's log: the largest rate of all groups; 3.3 logs the first group's


@contextmanager
def optimizer_seams(state: RunState, resumed: ResumeCheckpoint) -> Iterator[None]:
    """Calls `state.after_step` after each optimizer step that neither GradScaler nor our guard leaves out.

    With --logit-lr-mult other than 1, scale and bias get a parameter group of their own; with 1, stock OpenCLIP can
    resume the optimizer's state. A run without a flag of open_clip_fff gets three fixes alone: timm's defaults for
    options that OpenCLIP passes as None, schedules that do not divide by zero at the run's end, and a check of a
    resumed state.
    """
    multiple, guard = state.plan.logits.lr_mult if state.plan.given else 1.0, state.guard
    # now: OpenCLIP writes the run's params.txt anew before it makes an optimizer
    trained = "" if resumed.checkpoint is None else trained_with(resumed.checkpoint, state.args)

    def watched(make: Callable) -> Callable:
        def made(*args: object, **options: object) -> torch.optim.Optimizer:
            optimizer = make(*args, **options)
            if multiple != 1.0:
                _split(optimizer, state, multiple)
            inner = getattr(optimizer, "_base_optimizer", optimizer)  # timm's lookahead calls no hooks
            _check_on_resume(inner, state, trained)
            if state.plan.given:
                guard.watch(inner)
                inner.register_step_post_hook(lambda *_: None if guard.left_out else state.after_step())
            return optimizer

        return made

    seams: dict[str, object] = {name: _multiplied(getattr(oc_main, name), multiple) for name in SCHEDULES}
    by_timm = without_none_options(timm.optim.create_optimizer_v2)
    if TASKS:
        seams["create_optimizer"] = watched(oc_main.create_optimizer)
    else:
        seams["optim"], by_timm = View(torch.optim, AdamW=watched(torch.optim.AdamW)), watched(by_timm)
    logged = {}
    if multiple != 1.0 and hasattr(oc_train, RATE):
        logged[RATE] = _of_others(getattr(oc_train, RATE))
    # OpenCLIP imports timm's inside its main
    with (
        replaced(oc_main, **seams),
        replaced(oc_train, **logged),
        replaced(timm.optim, create_optimizer_v2=by_timm),
    ):
        yield


def without_none_options(make: Callable[..., torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """An optimizer factory that drops options that are None: an eps of None is a TypeError in most."""

    def made(*args: object, **options: object) -> torch.optim.Optimizer:
        return make(*args, **{name: value for name, value in options.items() if value is not None})

    return made


def _split(optimizer: torch.optim.Optimizer, state: RunState, multiple: float) -> None:
    scalars = [p for name, p in state.model.named_parameters() if name in (SCALE, BIAS) and p.requires_grad]
    moved = {id(p) for p in scalars}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in moved]
    lr = optimizer.param_groups[0]["lr"]
    optimizer.add_param_group({"params": scalars, "weight_decay": 0.0, "lr": lr * multiple})


def _check_on_resume(optimizer: torch.optim.Optimizer, state: RunState, trained: str) -> None:
    """Raises UsageError for a state with other groups than the optimizer's; `trained` says of which run it is."""
    sizes = [len(group["params"]) for group in optimizer.param_groups]

    def check(_: torch.optim.Optimizer, saved: dict) -> None:
        if [len(group["params"]) for group in saved["param_groups"]] != sizes:
            raise UsageError(
                f"--resume {state.args.resume}: its optimizer's state does not fit{trained}: another --logit-lr-mult, "
                f"--opt, --fusion-layers, --lock-image or --lock-text, or another version of OpenCLIP; resume with the "
                f"flags it was trained with, or start from its weights with --pretrained"
            )
        if not saved["state"] and "betas" in saved["param_groups"][0] and state.master:
            logging.warning(f"--resume {state.args.resume}: its optimizer's state is empty: moments begin at zero.")

    optimizer.register_load_state_dict_pre_hook(check)


def _of_others(rate: Callable) -> Callable:
    """The main branch's `get_learning_rate` over all groups but the last, which is ours."""
    return lambda optimizer: rate(View(optimizer, param_groups=optimizer.param_groups[:-1]))


def _multiplied(make: Callable, multiple: float) -> Callable:
    """OpenCLIP's scheduler maker; then sets the last group's rate to a multiple of the common one.

    Where warm-up or cool-down leave the schedule no steps, OpenCLIP's divides by zero after the run's last step, at
    batches that `--accum-freq` leaves over. No step uses that rate, so the error is ignored.
    """

    def scheduler(optimizer: torch.optim.Optimizer, *args: object) -> Callable[[int], None]:
        adjust = make(optimizer, *args)

        def step(number: int) -> None:
            with suppress(ZeroDivisionError):
                optimizer.param_groups[-1]["lr"] = adjust(number) * multiple

        return step

    return scheduler
