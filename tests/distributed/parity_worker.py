"""Run by torchrun: one global batch spread over the ranks, through a DDP tower, to losses, gradients and assignment.

torchrun --nproc-per-node R tests/distributed/parity_worker.py OUT.pt
"""

import os
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from open_clip_fff import FFFLoss, MiningConfig, MultiPositiveSoftmaxLoss, SmoothedITCLoss
from open_clip_fff.distributed import gather_constant
from open_clip_fff.losses.bias_init import cosine_sums
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.mining.connections import ConnectedPairs
from open_clip_fff.mining.given import GivenPairs, ListedPairs
from open_clip_fff.mining.global_texts import GlobalTexts, TextBlock
from open_clip_fff.mining.hardest import MatchLabels
from open_clip_fff.mining.tiles import OwnCaptions

N, K, D = 8, 3, 6
IDS = [11, 12, 13, 14, 11, 16, -1, 18]


class Towers(nn.Module):
    """Two linear towers and the two scalars; its output is an OpenCLIP output dict."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.visual, self.text = nn.Linear(D, D, dtype=dtype), nn.Linear(D, D, dtype=dtype)
        self.logit_scale = nn.Parameter(torch.tensor(1.5, dtype=dtype))
        self.logit_bias = nn.Parameter(torch.tensor(-2.0, dtype=dtype))

    def forward(self, images: torch.Tensor, texts: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "image_features": F.normalize(self.visual(images), dim=-1),
            "text_features": F.normalize(self.text(texts), dim=-1),
            "logit_scale": self.logit_scale.exp(),
            "logit_bias": self.logit_bias,
        }


def global_batch(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The same on every rank: ragged K, one image twice, and an image without an id."""
    g = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    valid = torch.rand(N, K, generator=g) > 0.35
    valid[:, 0] = True
    return {
        "images": draw(N, D),
        "texts": draw(N, K, D),
        "caption_valid": valid,
        "text_raw": (torch.arange(K) == 0).expand(N, K),
        "image_ids": torch.tensor(IDS),
        "mining_image_features": F.normalize(draw(N, D), dim=-1),
        "mining_text_features": F.normalize(draw(N, K, D), dim=-1),
        "positive_keys": torch.tensor([5, 6, -1, 6, 5, -1, 7, 6]),
        "row_ids": torch.arange(N),
    }


def on_tile(criterion: Criterion, output: dict[str, torch.Tensor], rest: dict[str, torch.Tensor]) -> None:
    """The one step of the warm-up, after which the guard allows half of what is mined."""
    criterion.assignment(output["image_features"], output["text_features"], **rest)
    criterion.after_step()
    criterion.miner.reference /= 4


def said() -> tuple[torch.Tensor, MatchLabels]:
    """Captions' hashes, and what a discriminator may have said of the global batch; the same on every rank.

    The image that is there twice has one caption in both rows, and else different ones.
    """
    g = torch.Generator().manual_seed(8)
    ids, texts = torch.tensor(IDS), torch.arange(N * K).view(N, K)
    texts[4, 1] = texts[0, 0]
    owner, image = torch.randint(N, (N,), generator=g), ids[torch.randint(N, (N, K), generator=g)]
    owner[[1, 6]] = torch.tensor([4, 0])
    labels = [torch.randint(-1, 2, shape, generator=g).to(torch.int8) for shape in ((N,), (N, K))]
    labels[0][[1, 6]] = 1
    captions = texts[owner, torch.randint(K, (N,), generator=g)]
    return texts, MatchLabels(ids[owner], captions, labels[0], image, labels[1])


def connected(model, loss, batch: dict[str, torch.Tensor], share: slice, rank: int, world_size: int) -> dict:
    """Loss, gradients and both directions of the assignment, with match_labels that went by id."""
    model.zero_grad()
    output = model(batch["images"], batch["texts"])
    texts, every = said()
    match_labels = MatchLabels(*(x[share] for x in every))
    columns = TextBlock(
        share.start, batch["image_ids"], batch["caption_valid"], captions=texts[share], match_labels=match_labels
    )
    assignment = ConnectedPairs(OwnCaptions(GlobalTexts(columns, rank, world_size, loss.dist_impl == "ring")))
    value = loss(**output, assignment=assignment)
    value.backward()
    both = torch.stack(assignment.both_directions(), dim=1)
    return {
        "loss": value.detach(),
        "gradients": {name: p.grad for name, p in model.module.named_parameters()},
        "assignment": gather_constant(both, world_size),
        "start": torch.zeros(3),
        "mined_across_ranks": int((both[:, 0] != both[:, 1]).sum()),
    }


def main(out: str) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    share = slice(rank * N // world_size, (rank + 1) * N // world_size)
    light = {"mined_weight": 0.3}
    weighted = {
        "anchor": FFFLoss(rank, world_size, positive_weight="per-anchor"),
        "anchor-pairs-dense": FFFLoss(rank, world_size, "pairs", "dense", **light, positive_weight="per-anchor"),
        "anchor-pairs-ring": FFFLoss(
            rank, world_size, "pairs", **light, positive_weight="per-anchor", dist_impl="ring"
        ),
        "mined-per-anchor-ring": FFFLoss(rank, world_size, positive_weight="mined-per-anchor", dist_impl="ring"),
        "light-softmax-dense": MultiPositiveSoftmaxLoss(rank, world_size, impl="dense", **light),
        "light-softmax-ring": MultiPositiveSoftmaxLoss(rank, world_size, dist_impl="ring", **light),
        "light-s-itc": SmoothedITCLoss(0.5, rank, world_size, group=2, **light),
    }
    losses = {
        "fff-images": FFFLoss(rank, world_size),
        "fff-dense": FFFLoss(rank, world_size, impl="dense"),
        "fff-pairs": FFFLoss(rank, world_size, reduction="pairs"),
        "fff-ring": FFFLoss(rank, world_size, dist_impl="ring"),
        "fff-pairs-ring": FFFLoss(rank, world_size, reduction="pairs", dist_impl="ring"),
        "softmax": MultiPositiveSoftmaxLoss(rank, world_size),
        "softmax-dense": MultiPositiveSoftmaxLoss(rank, world_size, impl="dense"),
        "s-itc": SmoothedITCLoss(0.5, rank, world_size, group=2),
        "s-itc-dense": SmoothedITCLoss(0.5, rank, world_size, impl="dense", group=2),
        "s-itc-ring": SmoothedITCLoss(0.5, rank, world_size, dist_impl="ring"),
        "s-itc-grit": SmoothedITCLoss(0.5, rank, world_size, stop_gradient=True, consistency=0.2),
        "softmax-ring": MultiPositiveSoftmaxLoss(rank, world_size, dist_impl="ring"),
    }
    half = {"products": "bf16"}  # of float32 alone
    rounded = {
        "bf16": FFFLoss(rank, world_size, **half),
        "bf16-ring": FFFLoss(rank, world_size, **half, dist_impl="ring"),
        "bf16-softmax": MultiPositiveSoftmaxLoss(rank, world_size, **half),
        "bf16-softmax-ring": MultiPositiveSoftmaxLoss(rank, world_size, **half, dist_impl="ring"),
    }
    relative = {
        "above own": MiningConfig(-0.5, 0.4, 0.5, None, cap=5, band=0.05, margin=0.4),
        "above own by rate": MiningConfig(per_image=2.0, margin="80%"),
    }
    minings = {
        "own": None,
        "mined": MiningConfig(0.35, 0.4, 0.5, 0.1),
        "capped": MiningConfig(per_image=1.5, cap=2),
        "banded": MiningConfig(0.45, 0.5, 0.6, 0.2, cap=3, band=0.15),
        "generated": MiningConfig(0.35, 0.4, 0.5, 0.1, raw=False),
        "by rate": MiningConfig(per_image=2.0),
        "guarded": MiningConfig(0.2, 0.4, None, None, band=0.1, warmup=1, guarded=True),
        "ignored": MiningConfig(0.35, 0.4, 0.5, 0.1, text_text="max", mined_as="ignore"),
    }
    # a loss knows the assignment, not how it came about: four, of each exchange, are tried with every mining
    every_mining = ("fff-images", "fff-ring", "softmax-ring", "s-itc-dense")
    cases = [(loss, mining) for loss in every_mining for mining in (*minings, *relative, "keyed")]
    cases += [(loss, mining) for loss in losses if loss not in every_mining for mining in ("own", "mined", "ignored")]
    cases += [(loss, mining) for loss in weighted for mining in ("own", "mined")]
    cases += [("anchor", "keyed"), *((loss, "mined") for loss in rounded)]
    losses, minings = losses | weighted, minings | relative | {"keyed": MiningConfig(per_image=1.5, cap=2)}
    given = GivenPairs(listed=ListedPairs.of(torch.tensor([[2, 7], [0, 5], [3, 4]])))
    results = {}
    for dtype in (torch.float32, torch.float64):
        batch = {name: x[share] for name, x in global_batch(dtype).items()}
        model = DistributedDataParallel(Towers(dtype))
        # what is mined may round otherwise in float32; what a loss makes of it is the same code
        tried = losses if dtype == torch.float64 else {name: losses[name] for name in ("fff-images", "fff-ring")}
        for loss_name, mining_name in cases:
            if loss_name not in tried and (mining_name != "mined" or (loss_name in rounded and tried is losses)):
                continue
            loss, mining = (losses | rounded)[loss_name], minings[mining_name]
            model.zero_grad()
            output = model(batch["images"], batch["texts"])
            rest = {name: x for name, x in batch.items() if name not in ("images", "texts")}
            named = given if mining_name == "keyed" else None
            criterion = Criterion(loss, mining, rank, world_size, given=named)
            if mining is not None and mining.guarded:
                on_tile(criterion, output, rest)
            value = criterion(**output, **rest)
            value.backward()
            features = output["image_features"].detach(), output["text_features"].detach()
            shown = []
            assignment = criterion.assignment(*features, on_tile=lambda *tile: shown.append(tile), **rest)  # noqa: B023
            labels = assignment.to_tensor()
            across = 0
            for _, columns, tile in shown:
                if (mined := tile.mined) is not None:
                    places = columns.offset + torch.arange(len(columns.ids))
                    elsewhere = (places < share.start) | (places >= share.stop)
                    across += int(mined.pairs[:, elsewhere].sum())
            results[f"{dtype} {loss_name} {mining_name}"] = {
                "loss": value.detach(),
                "gradients": {name: p.grad for name, p in model.module.named_parameters()},
                "assignment": gather_constant(labels, world_size),
                "start": cosine_sums(*features, assignment, loss.weights),
                "mined_across_ranks": across,
            }
        for loss_name, loss in tried.items():
            results[f"{dtype} {loss_name} connected"] = connected(model, loss, batch, share, rank, world_size)
    every = [None] * world_size
    dist.all_gather_object(every, {name: r["loss"].item() for name, r in results.items()})
    assert all(losses == every[0] for losses in every), "the loss differs from rank to rank"
    if rank == 0:
        torch.save(results, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
