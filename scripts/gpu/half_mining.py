"""Mining with features in half precision: pairs that Eq. 1 decides otherwise than with the same features in float32.

The features are drawn: images of 64 groups, captions near their image. Each clause mines by itself, at the threshold
where it finds one caption per image in float32. Cosines are computed in float32 in each case, as in training; what
differs is the rounding of features that were stored, or came from a tower, in half precision.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff import Miner, MiningConfig, MiningFeatures, make_assignment, own_text_block

SIZE = {"cuda": (8192, 5, 512), "cpu": (64, 5, 32)}  # images, captions, width
GROUPS = 64
OFF = {"p1": None, "p2": None, "p3": None, "p1_prime": None}
CLAUSES = {"S_it > p1": {"p1": 0.5}, "S_ii > p2": {"p2": 0.5}, "S_tt > p3 and S_it > p1'": {"p3": 0.5, "p1_prime": 0.5}}


def measure(device: torch.device, keep: Callable[[Any], None]) -> None:
    """A row for each clause and type."""
    n, k, width = SIZE[device.type]
    generator = torch.Generator().manual_seed(0)
    centres, *noise = (torch.randn(m, width, generator=generator) for m in (GROUPS, n, n * k))
    image = F.normalize(centres[torch.arange(n) % GROUPS] + noise[0], dim=-1)
    text = F.normalize(image[:, None] + noise[1].view(n, k, width) / width**0.5, dim=-1)
    image, text = image.to(device), text.to(device)
    rows: list[dict[str, Any]] = []
    for clause, on in CLAUSES.items():
        finding = Miner(MiningConfig(**(OFF | on), per_image=1.0))
        assigned(image, text, finding)
        finding.after_step()
        found = finding.thresholds()
        assert found is not None
        config = MiningConfig(*(None if x is None else float(x) for x in found))
        reference, seconds = assigned(image, text, Miner(config))
        mined = int((reference > 0).sum()) - n * k
        for dtype in (torch.float16, torch.bfloat16):
            labels, _ = assigned(image.to(dtype), text.to(dtype), Miner(config))
            differ = int((labels != reference).sum())
            row = {"clause": clause, "features": str(dtype).removeprefix("torch."), "differ": differ}
            row |= {"pairs": labels.numel(), "mined": mined, "float32_ms": 1000 * seconds}
            rows.append(row)
            print(f"> {clause}, {row['features']}: {differ:,} pairs differ, {mined:,} are mined in float32")
    keep({"images": n, "captions": k, "width": width, "rows": rows})


def assigned(image: Tensor, text: Tensor, miner: Miner) -> tuple[Tensor, float]:
    """The assignment by these features, int8 [N, N, K], and the seconds that it took."""
    valid = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    own = own_text_block(valid)
    features = MiningFeatures(image.float(), text.float(), valid, own.ids)
    began = time.perf_counter()
    labels = make_assignment(own._replace(features=features), mine=miner).to_tensor()
    labels[:1].cpu()  # once the device has finished
    return labels, time.perf_counter() - began
