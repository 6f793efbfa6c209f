"""Losses to measure, the features that they are called with, and their time and memory."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from bench.memory import AliveBytes
from bench.turns import seconds_in_turns
from open_clip_fff import FFFLoss, MiningConfig, MultiPositiveSoftmaxLoss
from open_clip_fff.losses.tiled_sigmoid import triton_obstacle

MINING = MiningConfig(0.3, 0.9, 0.95, 0.2)
CHUNK = 256  # images per chunk of OpenCLIP's chunked loss
FUSED = {"FFF triton": None, "FFF triton, mining": MINING}  # on a GPU; elsewhere their rows are empty
Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def candidates(k: int) -> dict[str, Step]:
    """The losses that are measured at K captions, by name; OpenCLIP's take one."""
    steps: dict[str, Step] = {}
    for impl in ("dense", "tiled"):
        steps[f"FFF {impl}"] = FFFLoss(impl=impl)
        steps[f"FFF {impl}, mining"] = FFFLoss(impl=impl, mining=MINING)
        steps[f"FFF {impl}, mining, per-anchor"] = FFFLoss(impl=impl, mining=MINING, positive_weight="per-anchor")
        steps[f"softmax {impl}"] = MultiPositiveSoftmaxLoss(impl=impl)
    if k == 1:
        steps["OpenCLIP SigLipLoss"] = partial(_one_caption, SigLipLoss(), True)
        steps["OpenCLIP ClipLoss"] = partial(_one_caption, ClipLoss(), False)
        if chunk := chunk_parameter(SigLipLoss):
            steps["OpenCLIP SigLipLoss, chunked"] = partial(_one_caption, SigLipLoss(**{chunk: CHUNK}), True)
    return steps


def chunk_parameter(loss: Callable) -> str | None:
    """OpenCLIP's name for the size of its loss's chunks; None before 4.x, which has none."""
    return next((name for name in inspect.signature(loss).parameters if "chunk" in name), None)


def fused(device: torch.device) -> tuple[dict[str, Step], str]:
    """The losses with the Triton kernel; or none, and why."""
    note = triton_obstacle("cuda") if device.type == "cuda" else "no GPU here"
    return {name: FFFLoss(impl="triton", mining=mining) for name, mining in FUSED.items() if not note}, note or ""


def _one_caption(loss: Callable, bias: bool, image: Tensor, text: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    return loss(image, text[:, 0], scale, offset) if bias else loss(image, text[:, 0], scale)


def random_inputs(
    n: int, k: int, width: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """Leaves: image [n, D] and text features [n, K, D] of this type, L2-normalised, scale 10 and bias -8 in float32."""
    how = {"generator": torch.Generator(device).manual_seed(0), "device": device}
    image = F.normalize(torch.randn(n, width, **how), dim=-1).to(dtype)
    text = F.normalize(torch.randn(n, k, width, **how), dim=-1).to(dtype)
    scalars = [torch.tensor(value, device=device) for value in (10.0, -8.0)]
    return tuple(x.requires_grad_() for x in (image, text, *scalars))


def interleaved_seconds(
    steps: Mapping[str, Step], inputs: Sequence[Tensor], rounds: int, after_each: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Each candidate's seconds in each round, in which all run in turn, after one that warms up."""
    runs = {name: partial(forward_backward, step, inputs) for name, step in steps.items()}
    seconds_in_turns(runs, 1, after_each)
    return seconds_in_turns(runs, rounds, after_each)


def forward_backward(step: Step, inputs: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The loss and its gradients to the inputs, once the device has finished."""
    value = step(*inputs)
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    return value.detach(), gradients


def extra_bytes(step: Step, inputs: Sequence[Tensor]) -> int:
    """The peak of one step without its inputs and one set of their gradients."""
    gradients = sum(x.numel() * x.element_size() for x in inputs)
    if inputs[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward_backward(step, inputs)
        return max(torch.cuda.max_memory_allocated() - before - gradients, 1)
    with AliveBytes(*inputs) as counted:
        forward_backward(step, inputs)
    return max(counted.peak - gradients, 1)
