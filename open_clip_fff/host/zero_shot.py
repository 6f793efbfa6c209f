"""Zero-shot scores while training goes on: --zeroshot-data."""

import gc
import logging
import time
from pathlib import Path
from typing import Any

import torch
from open_clip import get_input_dtype, get_tokenizer

from open_clip_fff.config.zero_shot import ZeroShotSettings
from open_clip_fff.errors import UsageError, print_warnings, reason
from open_clip_fff.evaluation.benchmark import EvalSettings, count_images, evaluate
from open_clip_fff.evaluation.layouts import SPLIT, LocalSet, find_sets, memory_warnings, name_warnings
from open_clip_fff.evaluation.protocol import score_text
from open_clip_fff.host.random_state import without_side_effects
from open_clip_fff.host.report.results import keep_results
from open_clip_fff.host.state import RunState
from open_clip_fff.plural import plural

KEY = "zeroshot/{set}/{metric}"


def find_zero_shot_sets(settings: ZeroShotSettings) -> list[LocalSet]:
    """Finds the sets on disk, before training; rank 0 prints warnings about them.

    Raises UsageError if a named set is missing, a set is incomplete, or there is none.
    """
    root = Path(settings.root)
    found, missing = find_sets(list(settings.sets), root, ("--zeroshot-sets", "--zeroshot-data"))
    if missing and settings.sets != ("all",):
        fix = f"open-clip-fff score MODEL --data-root {root} --datasets {' '.join(missing)} --download gets them"
        raise UsageError(f"--zeroshot-sets '{';'.join(missing)}': not in --zeroshot-data {root}; {fix}")
    if not found:
        raise UsageError(f"--zeroshot-data: {root}: none of the paper's sets is there, nor another in webdataset form")
    for at in found:
        if at.shards:
            count_images(at.root / SPLIT, at.shards)
    print_warnings([*name_warnings(found), *memory_warnings(found)])
    return found


class ZeroShotEvaluator:
    """Scores the trained model, and its moving average, after an epoch; on rank 0.

    A set that cannot be scored costs a warning, not the run. Needs the run's model to be made.
    """

    def __init__(self, state: RunState) -> None:
        args, preprocess = state.args, state.preprocess
        assert preprocess is not None
        dtype = get_input_dtype(args.precision)
        self.state = state
        self.preprocess = preprocess if dtype is None else lambda image: preprocess(image).to(dtype)
        self.tokenizer = get_tokenizer(args.model, context_length=args.force_context_length, cache_dir=args.cache_dir)
        amp = args.precision.startswith("amp")
        self.settings = EvalSettings(torch.device(args.device).type, amp, workers=args.workers, progress_bars=False)

    def due(self, epoch: int) -> bool:
        """Whether OpenCLIP's --zeroshot-frequency, or the end, asks for scores after so many epochs."""
        args = self.state.args
        return bool(args.zeroshot_frequency) and (epoch % args.zeroshot_frequency == 0 or epoch == args.epochs)

    def __call__(self, epoch: int, data: dict, tb_writer: Any) -> None:
        """Scores all models on all sets after `epoch` epochs; logs and keeps the results."""
        state = self.state
        values: dict[str, float] = {}
        for prefix, model in state.models.items():
            for at in state.zero_shot_sets:
                if not (scores := self._score(model, at, epoch, prefix)):
                    gc.collect()  # the error keeps the failed loader; the next one's workers would end it, in vain
                values |= scores
        if values:
            keep_results(values, epoch, data, state.args, tb_writer)

    def _score(self, model: Any, at: LocalSet, epoch: int, prefix: str) -> dict[str, float]:
        began = time.monotonic()
        try:
            with without_side_effects(model):
                model.eval()
                found = evaluate(model, self.preprocess, self.tokenizer, at, self.settings)
        except Exception as error:  # an evaluation must not end the training
            why = self.state.loaders.excuse() or reason(error)
            logging.warning(f"FFF Zero-shot Epoch: {epoch} {at.spec.name} cannot be scored ({why})")
            return {}
        who = f"{prefix.rstrip('_')} " if prefix else ""
        cost = f"{plural(found.sizes['images'], 'images')}, {time.monotonic() - began:.0f} s"
        scores = score_text(found.metrics, at.spec.metric)
        logging.info(f"FFF Zero-shot Epoch: {epoch} {who}{at.spec.name} {scores} ({cost})")
        named = {prefix + KEY.format(set=at.spec.name, metric=name): value for name, value in found.metrics.items()}
        return {name: value for name, value in named.items() if value == value}  # no acc5 of fewer than 5 classes
