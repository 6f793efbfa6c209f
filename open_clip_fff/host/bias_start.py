"""Measuring the bias before the first step, on the model, data and assignment that training will see."""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from open_clip import get_input_dtype
from open_clip_train.precision import get_autocast
from torch import Tensor, nn

from open_clip_fff.config.mining import SELF_FEATURES
from open_clip_fff.config.plan import Plan
from open_clip_fff.host.loader.stages import unpack_batch
from open_clip_fff.host.random_state import without_side_effects
from open_clip_fff.host.state import RunState
from open_clip_fff.losses.bias_init import cosine_sums, initial_bias
from open_clip_fff.numerics import whole
from open_clip_fff.plural import plural

STEPS = 4  # of the full (accumulated, global) batch: tens of thousands of pairs already at N = 64


def measure_bias(state: RunState, loader) -> None:
    """Sets the model's bias to `initial_bias` of the first batches, once; the same number on every rank.

    Positives that only the warm-up delays count, too, where they can be forecast (`_mining_forecast`). Random
    generators and buffers are restored. A step's batch with features that are not finite is left out.
    """
    state.measure_bias = False  # even if this fails: a later try would overwrite a learnt bias
    model, criterion, args = state.model, state.criterion, state.args
    assert criterion is not None
    (count_mined, note), weights = _mining_forecast(state.plan), state.plan.loss.weights
    total, bad = torch.zeros(3, dtype=torch.float64, device=args.device), 0
    with torch.no_grad(), without_side_effects(model):
        model.train()
        for output in islice(_outputs(model, loader, args), STEPS):
            image, text = output.pop("image_features"), output.pop("text_features")
            options: dict[str, Any] = {"skip_warmup": count_mined, **output}
            assignment = criterion.assignment(image, text, **options)
            sums = cosine_sums(image, text, assignment, weights)  # the same on every rank
            if sums.isfinite().all():
                total += sums
            else:
                bad += 1
    state.counters.discard()  # the epoch reads the same rows again
    positives, pairs, cosines = total.tolist()
    mean_cosine, scale = cosines / max(pairs, 1.0), whole(model.logit_scale).exp().item()
    if not 0 < positives < pairs:
        start = whole(model.logit_bias).item()
        if state.master:
            lacking = "negatives, all of their pairs are positives" if positives else "pairs"
            lacking += f" (those of {plural(bad, 'steps')} have features that are not finite)" * bool(bad)
            logging.warning(
                f"Logit bias stays at {start:.3f}: the first batches hold no {lacking}, so that "
                f"--logit-bias-init auto has nothing to measure; give it a number"
            )
        return
    bias = initial_bias(positives / pairs, scale, mean_cosine)
    counted = f"{pairs:,.0f} pairs" if weights.equal else f"pairs of weight {pairs:,.0f}"
    counted += f", without {plural(bad, 'steps')} with features that are not finite" * bool(bad)
    with torch.no_grad():
        model.logit_bias.fill_(bias)
    if state.master:
        logging.info(
            f"Logit bias starts at {bias:.3f}: share of positives {positives / pairs:.3%}{note}, "
            f"scale {scale:.3f}, mean cosine {mean_cosine:.4f}, over {counted}"
        )


def _mining_forecast(plan: Plan) -> tuple[bool, str]:
    """Whether to mine as if the warm-up were over, and a note on it for the log."""
    config, connection = plan.mining, plan.connection
    later = "" if connection is None or not connection.start else "; the discriminator's come later"
    if config is None or not config.warmup:
        return True, f" ({later[2:]})" if later else ""
    if plan.features not in SELF_FEATURES:
        return True, f" (with what is mined after the warm-up{later})"
    # Self-mining begins once the model has learnt something, so the bias must suit the start without mining: with the
    # later rate counted in, the model learnt so slowly on the digits that the guard never let mining begin.
    return False, f" (without what is mined after the warm-up, to which the learnt bias adapts{later})"


def _outputs(model: nn.Module, loader, args) -> Iterator[dict[str, Tensor]]:
    """The model's output for one step's batch each time: its micro-batches run one by one and concatenated."""
    autocast = get_autocast(args.precision, device_type=torch.device(args.device).type)
    batches = map(unpack_batch, loader)
    while micro := list(islice(batches, args.accum_freq)):
        if len(micro) < args.accum_freq:
            return
        with autocast():
            outputs = [model(images.to(dtype=get_input_dtype(args.precision)), captions) for images, captions in micro]
        tensors = [{k: v for k, v in output.items() if k not in ("logit_scale", "logit_bias")} for output in outputs]
        yield {key: torch.cat([output[key] for output in tensors]) for key in tensors[0]}
