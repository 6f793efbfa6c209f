"""What a step of FFF with five captions costs beside stock SigLIP's, and which setting of the text path changes it.

All candidates share their weights, and are timed in turns. `kernels` and `busy` are of one further step under PyTorch's
profiler: how many the device ran, and their time together; the rest of a step the device waited.
"""

import json
import math
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from bench.captions import drawn
from bench.models import build, open_clip_args
from bench.steps import SIGLIP, Bench, Candidate
from bench.turns import seconds_in_turns
from faulty.inputs import TINY
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.hub.loading import add_architectures

K = 5
VARIANTS: dict[str, tuple[str, ...]] = {  # flags beside `--method fff --mining-features off`
    "FFF": (),
    "rows of a multiple of 8 tokens": ("--trim-multiple", "8"),
    "up to six passes": ("--length-groups", "6"),
    "one pass": ("--length-groups", "1"),
    "copies of a caption, too": ("--no-distinct-captions",),
    "all tokens": ("--no-trim-tokens", "--no-distinct-captions"),
    "the Triton kernel": ("--loss-impl", "triton"),
    "the dense loss": ("--loss-impl", "dense"),
}


def measure(device: torch.device, keep: Callable[[Any], None]) -> None:
    """A row for each candidate: milliseconds, the number of its tokens, and what the device did."""
    cuda = device.type == "cuda"
    name, size, rounds = ("ViT-B-32", 256, 9) if cuda else ("tiny-clip", 4, 1)
    with tempfile.TemporaryDirectory() as folder:
        write_atomically(Path(folder) / "tiny-clip.json", json.dumps(TINY))
        add_architectures([folder])
    draw = Random(0)
    args = open_clip_args(name, str(device), "amp_bf16" if cuda else "fp32")
    captions = [[drawn(draw) for _ in range(K)] for _ in range(size)]
    if not cuda:  # the tiny tower has 16 positions
        captions = [[" ".join(each.split()[: draw.randint(2, 9)]) for each in row] for row in captions]
    bench = Bench(args, build(args), captions, [], [])
    candidates = {SIGLIP: bench.candidates[SIGLIP]}
    for about, flags in VARIANTS.items():
        if cuda or "triton" not in flags:
            candidates[about] = bench.fff(K, "off", flags)
    for each in candidates.values():
        bench.step(each)
        bench.step(each)
    seconds = seconds_in_turns({about: partial(bench.step, each) for about, each in candidates.items()}, rounds)
    rows = []
    for about, each in candidates.items():
        row = {"candidate": about, "ms": 1000 * statistics.median(seconds[about]), "text_tokens": each.text_tokens}
        rows.append(row | device_time(bench, each, device))
        print(f"> {about}: {row['ms']:.1f} ms")
        keep({"model": name, "images": size, "captions": K, "precision": args.precision, "rows": rows})


def device_time(bench: Bench, candidate: Candidate, device: torch.device) -> dict[str, float]:
    """How many kernels a step launches, and the milliseconds that they take; nothing where there is no GPU."""
    if device.type != "cuda":
        return {}
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        bench.step(candidate)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type == DeviceType.CUDA
    )
    busy, until = 0.0, -math.inf  # kernels may overlap
    for start, end in spans:
        busy += max(end - max(start, until), 0.0)
        until = max(until, end)
    return {"kernels": len(spans), "busy_ms": busy / 1000}
