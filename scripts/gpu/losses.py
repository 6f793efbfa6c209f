"""Ours, OpenCLIP's and siglip-kernel's losses: milliseconds, bytes beside the inputs, and errors against float64.

An image's positives are its own K captions in all of them. siglip-kernel (PyPI; measured where it is installed) weighs
an image's positives 1/K each, which is our `per-anchor`; with K = 1 all sigmoid losses are the same function. TF32 is
on, as in OpenCLIP's training; `bf16` is --loss-products. `three products alone` is what any loss has to compute: logits
and two gradients.
"""

import gc
import statistics
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from bench.losses import Step, candidates, extra_bytes, forward_backward, interleaved_seconds, random_inputs
from torch import Tensor

from open_clip_fff import FFFLoss, MultiPositiveSoftmaxLoss
from open_clip_fff.losses.tiled_sigmoid import triton_obstacle
from open_clip_fff.mining.tiles import tiles

from .exact import errors, exact

SIZES = {"cuda": [4096, 8192, 16384, 32768, 65536], "cpu": [16, 24]}
CAPTIONS = [1, 5]
TYPES = [torch.float32, torch.bfloat16]
WIDTH = {"cuda": 512, "cpu": 16}
SECONDS = 130.0  # after which no larger batch is begun
PRODUCTS = "three products alone"


def measure(device: torch.device, keep: Callable[[Any], None]) -> None:
    """A row for each batch size, K, type of features and loss."""
    torch.backends.cuda.matmul.allow_tf32 = True
    batches = [(n, k, dtype) for n in SIZES[device.type] for k in CAPTIONS for dtype in TYPES]
    batches.sort(key=lambda batch: batch[0] ** 2 * batch[1])
    began, rate, rows = time.monotonic(), 0.0, []  # rate: seconds a pair, of the last batch
    for n, k, dtype in batches:
        started, pairs, name = time.monotonic(), n * n * k, str(dtype).removeprefix("torch.")
        batch = {"images": n, "captions": k, "features": name}
        if started - began + rate * pairs > SECONDS:
            rows.append({"loss": "all", **batch, "note": "no time left"})
        else:
            inputs = random_inputs(n, k, WIDTH[device.type], device, dtype)
            rows += [{"loss": name, **batch, **row} for name, row in of_batch(losses(k, device), inputs).items()]
            rate = (time.monotonic() - started) / pairs
            del inputs
        print(f"> N={n} K={k} {name}: {rows[-1].get('note') or f'{time.monotonic() - started:.1f} s'}")
        keep(rows)


def losses(k: int, device: torch.device) -> dict[str, Step]:
    """The losses that are measured, by name."""
    steps = {name: step for name, step in candidates(k).items() if "mining" not in name}
    if not triton_obstacle(device.type):
        steps["FFF triton"] = FFFLoss(impl="triton")
        steps["FFF triton, bf16"] = FFFLoss(impl="triton", products="bf16")
    steps["FFF tiled, bf16"] = FFFLoss(impl="tiled", products="bf16")
    steps["softmax tiled, bf16"] = MultiPositiveSoftmaxLoss(products="bf16")
    if k > 1:
        steps["FFF tiled, per-anchor"] = FFFLoss(impl="tiled", positive_weight="per-anchor")
    if device.type == "cuda" and (theirs := siglip_kernel(k, device)):
        steps["siglip-kernel"] = theirs
    return steps | {PRODUCTS: products}


@cache  # it says once why not
def siglip_kernel(k: int, device: torch.device) -> Step | None:
    """siglip-kernel's multi-positive loss with Eq. 2's norm, the number of images; None where it does not run."""
    try:
        from siglip_kernel import fused_siglip_plus_loss
    except ImportError:
        print("> siglip-kernel is not installed, and left out")
        return None

    def step(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        n, k = text.shape[:2]
        ids = torch.arange(n, device=image.device)
        groups = {"img_gid": ids, "txt_gid": ids.repeat_interleave(k), "num_groups": n}
        mean = fused_siglip_plus_loss(image, text.flatten(0, 1), scale.log(), bias, symmetric=False, **groups)
        return mean * (n * k)  # theirs is over pairs

    try:
        forward_backward(step, random_inputs(64, k, WIDTH[device.type], device))
    except Exception as error:  # whatever it may raise, ours are measured
        print(f"> siglip-kernel does not run here, and is left out: {type(error).__name__}: {error}")
        return None
    return step


def products(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The products of logits and of both gradients, by tiles, and nothing else."""
    with torch.no_grad():
        texts = text.flatten(0, 1)
        by_text = torch.zeros_like(texts)
        for rows in tiles(len(image), max(2**28 // len(texts), 1)):
            logits = image[rows] @ texts.T
            _ = logits @ texts
            by_text.addmm_(logits.T, image[rows])
    return image[0, 0] * 0


def of_batch(steps: dict[str, Step], inputs: tuple[Tensor, ...]) -> dict[str, dict[str, Any]]:
    """What each loss takes, and how far its value and its gradients to some images and captions are off."""
    n, k = inputs[1].shape[:2]
    rows: dict[str, dict[str, Any]] = {}
    fitting: dict[str, Step] = {}
    for name, step in steps.items():
        peak = unless_full(partial(extra_bytes, step, inputs))
        again = None if peak is None else unless_full(partial(forward_backward, step, inputs))
        if again is None:  # once it may fit, and then not into what the first step left in pieces
            rows[name] = {"note": "out of memory"}
        else:
            rows[name], fitting[name] = {"peak_mib": peak / 2**20}, step
    rounds = (3 if n * n * k > 2**31 else 5) if inputs[0].is_cuda else 1
    for name, seconds in interleaved_seconds(fitting, inputs, rounds).items():
        rows[name]["ms"] = 1000 * statistics.median(seconds)
    truths: dict[str, Any] = {}
    for name, step in fitting.items():
        kind = objective(name, k)
        if kind and kind not in truths:
            truths[kind] = unless_full(partial(exact, kind, inputs))
        if truths.get(kind) is not None:
            rows[name] |= errors(*forward_backward(step, inputs), truths[kind])
    return rows


def objective(name: str, k: int) -> str:
    """Which function a loss computes, as `exact` calls it; none for the products."""
    if name == PRODUCTS:
        return ""
    if "softmax" in name or "ClipLoss" in name:
        return "softmax"
    return "per-anchor" if k > 1 and ("per-anchor" in name or name == "siglip-kernel") else "per-pair"


def unless_full(compute: Callable[[], Any]) -> Any:
    """What it returns; None where the GPU has too little memory for it."""
    try:
        return compute()
    except torch.OutOfMemoryError:
        pass
    gc.collect()  # behind the handler, which holds the frames and their tensors
    torch.cuda.empty_cache()
    return None
