"""Measuring the bias before the first step, on the model, data and assignment that training will see."""

import logging
from collections.abc import Iterator
from itertools import islice

import torch
from open_clip import get_input_dtype
from open_clip_train.precision import get_autocast
from torch import Tensor, nn

from open_clip_fff.host.aside import undisturbed
from open_clip_fff.host.state import RunState
from open_clip_fff.losses.start import cosine_sums, start_bias

STEPS = 4  # of the full (accumulated, global) batch: tens of thousands of pairs already at N = 64


def measure_bias(state: RunState, loader) -> None:
    """Sets the model's bias to `start_bias` of the first batches; the same number on every rank.

    Leaves the random generators and the model's buffers as they were.
    """
    model, criterion, args = state.model, state.criterion, state.args
    assert criterion is not None
    total = torch.zeros(3, dtype=torch.float64, device=args.device)
    with torch.no_grad(), undisturbed(model):
        model.train()
        for output in islice(_outputs(model, loader, args), STEPS):
            image, text = output.pop("image_features"), output.pop("text_features")
            assignment = criterion.assignment(image, text, watch=None, **output)
            total += cosine_sums(image, text, assignment)
        positives, pairs, cosines = total.tolist()
        scale = model.logit_scale.exp().item()
        if not 0 < positives < pairs:
            logging.warning("No negatives in the first batches: the bias stays at its start.")
            return
        bias = start_bias(positives / pairs, scale, cosines / pairs)
        model.logit_bias.fill_(bias)
    state.measure_bias = False
    state.tally.news()  # the epoch will meet the same rows again
    logging.info(
        f"Logit bias starts at {bias:.3f}: share of positives {positives / pairs:.3%}, scale {scale:.3f}, "
        f"mean cosine {cosines / pairs:.4f}, over {pairs:,.0f} pairs"
    )


def _outputs(model: nn.Module, loader, args) -> Iterator[dict[str, Tensor]]:
    """The model's output for one step's batch each time: its micro-batches run one by one and concatenated."""
    autocast = get_autocast(args.precision, device_type=torch.device(args.device).type)
    batches = iter(loader)
    while micro := list(islice(batches, args.accum_freq)):
        if len(micro) < args.accum_freq:
            return
        with autocast():
            outputs = [model(images.to(dtype=get_input_dtype(args.precision)), captions) for images, captions in micro]
        tensors = [{k: v for k, v in output.items() if k not in ("logit_scale", "logit_bias")} for output in outputs]
        yield {key: torch.cat([output[key] for output in tensors]) for key in tensors[0]}
