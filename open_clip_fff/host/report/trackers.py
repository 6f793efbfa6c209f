"""OpenCLIP's trackers: a resumed run continues its W&B run, and a full disk ends only TensorBoard's files."""

import argparse
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import open_clip_train.main as oc_main

from open_clip_fff.errors import reason
from open_clip_fff.patching import View, replaced


@contextmanager
def trackers(args: argparse.Namespace) -> Iterator[None]:
    """Replaces W&B's `init` and TensorBoard's writer, where they are installed."""
    with ExitStack() as seams:
        if oc_main.wandb is not None and args.resume == "latest":
            seams.enter_context(replaced(oc_main.wandb, init=partial(_init_wandb, args, oc_main.wandb.init)))
        if oc_main.tensorboard is not None:
            make = partial(ForgivingWriter, oc_main.tensorboard.SummaryWriter)
            seams.enter_context(replaced(oc_main, tensorboard=View(oc_main.tensorboard, SummaryWriter=make)))
            seams.enter_context(replaced(threading, excepthook=partial(_without_tensorboard, threading.excepthook)))
        yield


def _init_wandb(args: argparse.Namespace, init: Callable, **settings: Any) -> Any:
    """Resumes the W&B run: OpenCLIP does so only if args.resume is `latest`, but replaced that by a path before."""
    return init(**{**settings, "resume": "allow" if args.resume else None})


class ForgivingWriter:
    """TensorBoard's writer. Once a file cannot be written, it warns, and further calls do nothing."""

    def __init__(self, make: Callable, folder: str) -> None:
        self._folder, self._writer = folder, make(folder)

    def __getattr__(self, name: str) -> Callable:
        return partial(self._call, name)

    def _call(self, name: str, *args: Any, **options: Any) -> None:
        if self._writer is None:
            return
        try:
            getattr(self._writer, name)(*args, **options)
        except OSError as error:
            self._writer = None
            logging.warning(f"{self._folder} cannot be written ({reason(error)}); TensorBoard gets no further numbers")


def _without_tensorboard(hook: Callable, failed: threading.ExceptHookArgs) -> None:
    """Drops the traceback of TensorBoard's writer thread: the writer's next call raises the same error."""
    if not (isinstance(failed.exc_value, OSError) and type(failed.thread).__module__.startswith("tensorboard.")):
        hook(failed)
