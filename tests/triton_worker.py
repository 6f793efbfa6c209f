"""Run with TRITON_INTERPRET=1, which has to be there before Triton is, or on a GPU: what the kernel finds, and others.

    python -m tests.triton_worker DEVICE OUT.pt

Tensors of the kernel's are kept under "kernel", those that they should equal beside it, all on the CPU.
"""

import sys
from functools import partial

import torch

from open_clip_fff import FFFLoss, MiningConfig
from open_clip_fff.devices import PerDevice
from open_clip_fff.losses import logit_tiles as walk
from open_clip_fff.losses import sigmoid_triton
from open_clip_fff.losses.tiled_sigmoid import sigmoid_tile
from tests.test_tiled import OPEN, batch, value_and_gradients

SHAPES = [(1, 1), (3, 5), (37, 74), (130, 257), (1, 0), (0, 4)]
LOSSES = {
    "images": FFFLoss,
    "pairs": partial(FFFLoss, reduction="pairs"),
    "mining": partial(FFFLoss, mining=MiningConfig(**OPEN, cap=3)),
}
HUGE = 2**31 + 2**16  # pairs: more than an int32 counts


def tile_inputs(shape: tuple[int, int], kind: str, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, labels and bias, of which `kind` says what is special."""
    g = torch.Generator().manual_seed(sum(shape))
    logits = 5 * torch.randn(shape, generator=g)
    labels = torch.randint(-1, 2, shape, generator=g).to(torch.int8)
    bias = torch.tensor([-3.7])
    if kind == "huge":
        logits = torch.tensor([-1e4, 1e4, 89.0, -89.0])[torch.randint(4, shape, generator=g)]
    if kind == "ignored":  # whatever stands there
        labels, logits = torch.zeros_like(labels), torch.full(shape, torch.nan)
    if kind == "scalar bias":
        bias = bias[0]
    if kind == "bfloat16 bias":
        bias = bias.bfloat16()
    if kind == "strided labels":
        labels = labels.T.contiguous().T
    return logits.to(device), labels.to(device), bias.to(device)


def found_by(function, logits, labels, bias, wants=True) -> dict[str, torch.Tensor]:
    """The three sums and the gradient, from a copy of the logits."""
    logits = logits.clone()
    loss, total, counted = function(logits, labels, bias, wants)
    found = {"loss": loss, "sum": total, "counted": counted} | ({"gradient": logits} if wants else {})
    return {name: x.cpu() for name, x in found.items()}


def tiles(device: str) -> dict:
    results = {}
    for kind in ("plain", "huge", "ignored", "scalar bias", "bfloat16 bias", "strided labels"):
        for shape in SHAPES:
            inputs = tile_inputs(shape, kind, device)
            results[f"{kind} {shape}"] = {
                "torch": found_by(sigmoid_tile, *inputs),
                "kernel": found_by(sigmoid_triton.sigmoid_tile, *inputs),
                "again": found_by(sigmoid_triton.sigmoid_tile, *inputs),
                "value alone": found_by(sigmoid_triton.sigmoid_tile, *inputs, wants=False),
            }
    return results


def pairs(device: str) -> dict:
    """Tiles of one pair each: a sum hides what a small loss or gradient is off by."""
    logits, no_bias = torch.linspace(-80, 80, 81), torch.zeros((), device=device)
    negative = torch.full((1, 1), -1, dtype=torch.int8, device=device)
    each = [found_by(sigmoid_triton.sigmoid_tile, x.view(1, 1).to(device), negative, no_bias) for x in logits]
    kernel = {name: torch.stack([one[name].double().squeeze() for one in each]) for name in ("loss", "gradient")}
    exact = logits.double()
    return {"kernel": kernel, "exact": {"loss": exact.exp().log1p(), "gradient": exact.sigmoid()}}


def losses(device: str) -> dict:
    """Through FFFLoss, by one tile and by many, against the dense loss in float64 on the same (rounded) features."""
    results = {}
    for area, width in ((2**18, 1024), (96, 7)):
        walk.AREA, walk.WIDTH = PerDevice(area, area), PerDevice(width, width)
        for name, loss in LOSSES.items():
            for dtype in (torch.float32, torch.bfloat16):
                leaves, valid, ids = batch(37, 2)
                leaves = [x.detach().to(device, dtype).requires_grad_() for x in leaves]
                exact = [x.detach().double().requires_grad_() for x in leaves]
                rest = valid.to(device), ids.to(device)
                runs = {
                    "dense": value_and_gradients(loss(impl="dense"), exact, *rest),
                    "kernel": value_and_gradients(loss(impl="triton"), leaves, *rest),
                    "again": value_and_gradients(loss(impl="triton"), leaves, *rest),
                }
                with torch.no_grad():
                    runs["value alone"] = loss(impl="triton")(*leaves, *rest), ()
                results[f"{name} {dtype} {area}"] = {
                    run: [value.detach().cpu(), *(x.cpu() for x in gradients)]
                    for run, (value, gradients) in runs.items()
                }
    return results


def refusals(device: str) -> dict[str, str]:
    """What is said of tiles that the kernel does not take."""
    logits, labels, bias = tile_inputs((6, 4), "plain", device)
    refused = {
        "float64": (logits.double(), labels),
        "strided": (logits.T, labels.T),
        "shape": (logits, labels[:3]),
        "dtype": (logits, labels.bool()),
    }
    lines = {}
    for name, (x, m) in refused.items():
        try:
            sigmoid_triton.sigmoid_tile(x, m, bias, True)
        except ValueError as error:
            lines[name] = str(error)
    return lines


def huge(device: str) -> dict | None:
    """A tile of more pairs than an int32 counts, where there is room for one."""
    if device == "cpu" or torch.cuda.mem_get_info()[0] < 16 * 2**30:
        return None
    logits = torch.zeros(HUGE // 2**16, 2**16, device=device)
    labels = torch.full_like(logits, -1, dtype=torch.int8)
    loss, total, counted = sigmoid_triton.sigmoid_tile(logits, labels, torch.zeros(1, device=device), True)
    return {"loss": loss.item(), "sum": total.item(), "counted": counted.item(), "last": logits[-1].cpu()}


def main(device: str, out: str) -> None:
    parts = {"tiles": tiles, "pairs": pairs, "losses": losses, "refusals": refusals, "huge": huge}
    torch.save({name: part(device) for name, part in parts.items()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
