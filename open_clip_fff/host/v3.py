"""OpenCLIP 3.3's own seams: its loss function, and a loop that is given model, loss and optimizer one by one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import open_clip_train.main as oc_main

from open_clip_fff.host.loop import EpochRunner
from open_clip_fff.host.own_loss import make_loss
from open_clip_fff.host.state import RunState


def seams(state: RunState) -> dict[str, Callable]:
    """The replacements for names in OpenCLIP's main."""
    create_loss, train_one_epoch, run = oc_main.create_loss, oc_main.train_one_epoch, EpochRunner(state)

    def make(args: Any) -> Any:
        return make_loss(state) if state.own_loss else create_loss(args)

    def train(*parts: Any, tb_writer: Any = None, **more: Any) -> None:
        """`more` are arguments of a patched OpenCLIP, such as its batch hooks."""
        model, data, loss, epoch, optimizer, scaler, *_ = parts
        step = partial(train_one_epoch, *parts, **more)
        run(step, (model, optimizer, scaler, dict), loss, epoch, data, tb_writer)

    return {"create_loss": make, "train_one_epoch": train}
