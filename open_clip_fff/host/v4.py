"""The seams of OpenCLIP's main branch (4.x): its training tasks, and a loop that is given one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import open_clip_train.main as oc_main
from open_clip import CLIP, CoCa, CustomTextCLIP
from open_clip.task import CLIPTask, unwrap_model

from open_clip_fff.errors import UsageError
from open_clip_fff.host.checks.open_clip_files import OTHER_KIND
from open_clip_fff.host.loop import EpochRunner
from open_clip_fff.host.own_loss import make_loss
from open_clip_fff.host.state import RunState

TRAINED = (CLIP, CoCa, CustomTextCLIP)


def seams(state: RunState) -> dict[str, Callable]:
    """The replacements for names in OpenCLIP's main."""
    create_task, train_one_epoch, run = oc_main.create_task, oc_main.train_one_epoch, EpochRunner(state)

    def make(args: Any, model: Any, **parts: Any) -> Any:
        if not isinstance(model, TRAINED):
            raise UsageError(f"--model {args.model}: {OTHER_KIND}")
        if state.plan.given:
            _check_text(args)
        if state.own_loss:
            return CLIPTask(model, default_loss=False, rank=args.rank, world_size=args.world_size)
        return create_task(args, model=model, **parts)

    def train(train_state: Any, data: dict, args: Any, tb_writer: Any = None) -> None:
        task = train_state.task
        if state.own_loss and state.criterion is None:
            task.loss = make_loss(state)  # the task was made before the data with their hooks, and before --resume

        def counters() -> dict[str, int]:
            return {name: getattr(train_state, name) for name in ("global_step", "samples_seen")}

        parts = unwrap_model(task.trainable_module), train_state.optimizer, train_state.scaler, counters
        step = partial(train_one_epoch, train_state, data, args)
        run(step, parts, task.loss, train_state.epoch, data, tb_writer)

    return {"create_task": make, "train_one_epoch": train}


def _check_text(args: Any) -> None:
    """Raises UsageError where batches would have a mask of tokens, `text_valid`, beside our mask of captions.

    In newer commits of the main branch OpenCLIP has put the model's traits into `args` by now.
    """
    if args.variable_text:
        raise UsageError(f"--model {args.model}: its captions have no fixed length, which our loader does not know yet")
    if getattr(args, "text_attention_mask", False):
        raise UsageError(
            f"--model {args.model}: wants masks of tokens, which our loader does not make yet: add "
            f"--no-text-attention-mask, and padding is told by its token"
        )
