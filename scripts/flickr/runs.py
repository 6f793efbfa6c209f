"""The trainings and scores of the study of the fusion model; what is there is not run again.

All arms start from one model, which learnt ITC first and then ITM and MLM on even draws, and go on for the same number
of steps; their seeds differ in the order of the data and in what is drawn.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from cifar.runs import append, has, read
from digits.runs import Run, Trainer

from flickr.data import CAPTIONS, NAME, tars
from open_clip_fff.commands.score import main as score
from open_clip_fff.evaluation.compare.bootstrap import HitCounts, figures, resample
from open_clip_fff.evaluation.compare.rows import ScoreStore
from open_clip_fff.evaluation.compare.table import TAILS
from open_clip_fff.evaluation.protocol import IMAGE_TO_TEXT, ORDERS, RECALL_AT, RERANKING, TEXT_TO_IMAGE
from open_clip_fff.evaluation.store import Score, read_score

WAYS = {IMAGE_TO_TEXT: "image → text", TEXT_TO_IMAGE: "text → image"}
TITLES = {"": "ITC", **dict(zip(ORDERS, ("ITC", "ITM", "ITC+ITM"), strict=True))}
RESAMPLES = 2_000
SEED = 18  # of the bootstrap
_FUSED = ("--fusion-layers", "1")
_GRIT = ("--group-search-space", "960")  # 15 mini-batches, as in the paper
_RANDOM, _DRAWN = ("--itm-negatives", "random"), ("--itm-negatives", "multinomial")
ARMS: dict[str, tuple[str, ...]] = {
    "plain": ("--method", "albef", *_FUSED, *_RANDOM),
    "GRIT-VLP": ("--method", "grit-vlp", *_FUSED, *_GRIT),
    "MAFA": ("--method", "mafa", *_FUSED, *_GRIT),
    "ITC alone": ("--method", "clip"),
}
ITC, PLAIN, GRIT, MAFA = "ITC alone", "plain", "GRIT-VLP", "MAFA"
TUNED = {"con-d-drawn": _DRAWN, "con-d-random": _RANDOM}  # how a discriminator's negatives were found in fine-tuning


@dataclass(frozen=True)
class Size:
    """How much is trained and scored.

    Attributes:
        itc, joint, epochs: epochs of ITC, of ITC + ITM + MLM, and of an arm after both.
        tuned, twice: epochs of a discriminator's fine-tuning, and of an arm on photographs that are there twice.
        batch, candidates: images in a batch, and how many of the nearest are re-ranked.
        rates: learning rates to choose from.
        seeds: of the arms; `other` is that of all other runs.
    """

    itc: int = 5
    joint: int = 4
    epochs: int = 3
    tuned: int = 2
    twice: int = 2
    batch: int = 64
    candidates: int = 16
    rates: tuple[float, ...] = (3e-4, 1e-3)
    seeds: tuple[int, ...] = (0, 1, 2)
    other: int = 100


TRY = Size(itc=1, joint=1, epochs=1, tuned=1, twice=1, batch=8, candidates=10, rates=(1e-3,), seeds=(0, 1))


class Study:
    """The runs.

    Args:
        data: what `flickr.data.make` made; runs and scores go there, too.
        results: the folder of the CSVs.
        size: of everything.
    """

    def __init__(self, data: Path, results: Path, size: Size) -> None:
        self.data, self.results, self.size = data, results, size
        self.logs, self.store = data / "logs", data / "scores"
        results.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Trains and scores what is missing, in the order of the conditions."""
        size = self.size
        for rate in size.rates:
            if not has(read(self.results / "rates.csv"), {"rate": rate}):
                found = self.score(self.arm(PLAIN, size.other, rate, f"rate-{rate:g}"), "validation", fused=True)
                both = [found.metrics[f"{ORDERS[2]}{way}@10"] for way in WAYS]
                append(self.results / "rates.csv", {"rate": rate, "validation R@10": round(50 * sum(both), 3)})
        rates = read(self.results / "rates.csv")
        rate = float(rates.loc[rates["validation R@10"].idxmax(), "rate"])
        grit = self.arm(GRIT, size.other, rate, "con-d-start")
        for name, negatives in TUNED.items():
            start = ("--pretrained", grit, "--fusion-pretrained", grit, "--lr", f"{rate / 2:g}")
            self.train(name, (*ARMS[PLAIN], *negatives, *start, "--seed", str(size.other)), size.tuned)
        for name in ("", *TUNED):
            self.twice(name, rate)
        judge = self.best_discriminator()
        for seed in size.seeds:
            for arm in (PLAIN, GRIT, MAFA):
                self.reported(arm, seed, rate, judge)
        for seed in size.seeds:
            self.reported(ITC, seed, rate)
        self.twice("con-d-start", rate)
        self.intervals()

    def start(self) -> str:
        """The checkpoint that all arms start from."""
        seed = self.size.other
        own = ("--seed", str(seed), "--lr", "1e-3")
        random = str(self.data / "start" / f"{seed}.pt")
        itc = self.train(f"itc-{seed}", (*ARMS[ITC], *own, "--pretrained", random), self.size.itc)
        return self.train(f"joint-{seed}", (*ARMS[PLAIN], *own, "--pretrained", itc), self.size.joint)

    def arm(self, arm: str, seed: int, rate: float, name: str, more: Sequence[str] = (), twice: bool = False) -> str:
        """Trains an arm, and gives its checkpoint."""
        start = self.start()
        fusion = () if arm == ITC else ("--fusion-pretrained", start)
        flags = (*ARMS[arm], "--pretrained", start, *fusion, "--lr", f"{rate:g}", "--seed", str(seed), *more)
        return self.train(name, flags, self.size.twice if twice else self.size.epochs, "twice" if twice else "once")

    def reported(self, arm: str, seed: int, rate: float, judge: str = "") -> None:
        """Trains an arm with a seed, and adds its recalls on the test images to recalls.csv, a line for each order."""
        if has(read(self.results / "recalls.csv"), {"arm": arm, "seed": seed}):
            return
        more = self.judged(judge) if arm == MAFA else ()
        found = self.score(self.arm(arm, seed, rate, _run(arm, seed), more), "test", arm != ITC).metrics
        for order in _orders(arm):
            line: dict[str, object] = {"arm": arm, "seed": seed, "order": TITLES[order]}
            for way, title in WAYS.items():
                line |= {f"{title} R@{k}": round(100 * found[f"{order}{way}@{k}"], 3) for k in RECALL_AT}
                if order:
                    line[f"{title} ceiling"] = round(100 * found[f"{way}_ceiling"], 3)
                    line[f"{title} AUC"] = round(100 * found[f"{way}_auc"], 3)
            append(self.results / "recalls.csv", line)

    def judged(self, name: str) -> tuple[str, ...]:
        return ("--discriminator", f"fusion:{self.logs / name}")

    def twice(self, judge: str, rate: float) -> None:
        """Counts false negatives where each photograph is there twice, and which a discriminator finds; "" for none."""
        path, seed = self.results / "negatives.csv", self.size.other
        if has(read(path), {"discriminator": judge or "none"}):
            return
        more = (*(self.judged(judge) if judge else ()), "--class-key", "cls")
        name = f"twice-{judge or 'none'}"
        self.arm(MAFA if judge else GRIT, seed, rate, name, more, twice=True)
        for epoch, found in negatives((self.logs / name / "out.log").read_text()).items():
            append(path, {"discriminator": judge or "none", "epoch": epoch, **found})

    def best_discriminator(self) -> str:
        """That with the highest F1 on what is there twice, in the last epoch."""
        found = read(self.results / "negatives.csv").set_index("discriminator")
        last = found[found["epoch"] == self.size.twice - 1].reindex(columns=["missed", "right"])
        last = last.fillna({"missed": 100.0, "right": 0.0})
        recall, precision = 100 - last["missed"], last["right"]
        f1 = 2 * recall * precision / (recall + precision).clip(lower=1e-9)
        return str(f1[list(TUNED)].idxmax())

    def train(self, name: str, flags: Sequence[str], epochs: int, source: str = "once") -> str:
        """Trains a run unless its last checkpoint is there, and gives that."""
        last = self.logs / name / "checkpoints" / f"epoch_{epochs}.pt"
        if last.exists():
            return str(last)
        shards = tars(self.data / source, "train")
        images = sum(len(_keys(shard)) for shard in shards) // self.size.batch * self.size.batch
        shared: dict[str, object] = {
            "--train-data": "::".join(map(str, shards)),
            "--train-num-samples": images,
            "--dataset-type": "webdataset",
            "--captions-per-image": 5 if source == "once" else 3,
            "--caption-policy": "sample",
            "--model-config": self.data / f"{NAME}.json",
            "--model": NAME,
            "--batch-size": self.size.batch,
            "--epochs": epochs,
            "--warmup": min(63, images // self.size.batch),
            "--wd": 0.1,
            "--aug-cfg": "scale=(0.6,1.0)",
            "--device": "cpu",
            "--precision": "fp32",
            "--workers": 1,
            "--log-every-n-steps": max(images // self.size.batch // 3, 1),
            "--save-frequency": epochs,
            "--logs": self.logs,
        }
        words = [str(word) for pair in shared.items() for word in pair] + list(CAPTIONS)
        began = time.monotonic()
        with Trainer(words, self.logs, epochs, lambda: f"{(time.monotonic() - began) / 60:.0f} min") as trainer:
            run = Run(name, name, tuple(flags))
            trainer.start(run)
            trainer.wait(run)
            line = {"run": name, "epochs": epochs, "seconds": round(trainer.seconds[name]), **right(self.logs / name)}
        append(self.results / "trainings.csv", line)
        return str(last)

    def score(self, checkpoint: str, split: str, fused: bool) -> Score:
        """A run's score on a split, re-ranked where it has a fusion model."""
        run, top = Path(checkpoint).parent.parent, self.size.candidates
        flags = ["--data-root", self.data / "sets", "--datasets", split, "--store", self.store, "--workers", 0]
        more = ["--rerank", top] if fused else []
        if score([str(word) for word in (run, *flags, *more)]):
            raise SystemExit(f"{run} could not be scored on {split}")
        folder = ScoreStore(self.store).find(str(run)).folder
        return read_score(folder / (f"{split}_{RERANKING}{top}" if fused else split))

    def intervals(self) -> None:
        """Writes intervals.csv: means over seeds, their changes, 95 % intervals by a bootstrap over both."""
        arms = list(dict.fromkeys(read(self.results / "recalls.csv")["arm"]))
        found = {
            (arm, seed): self.score(str(self.logs / _run(arm, seed) / "checkpoints" / "_"), "test", arm != ITC).samples
            for arm in arms
            for seed in self.size.seeds
        }
        lines = [
            {"way": title, "k": k, **line}
            for way, title in WAYS.items()
            for k in RECALL_AT
            for line in self._intervals(arms, found, way, k)
        ]
        pd.DataFrame(lines).to_csv(self.results / "intervals.csv", index=False)

    def _intervals(self, arms: Sequence[str], samples: dict, way: str, k: int) -> list[dict]:
        columns = [(arm, order) for arm in arms for order in _orders(arm)]
        seeds = self.size.seeds
        hits = []
        for arm, order in columns:
            for seed in seeds:
                each = samples[arm, seed]
                owner, got = each["image_of_text"], each[f"{order}{way}@{k}"]
                hits.append(got if way == IMAGE_TO_TEXT else np.bincount(owner, weights=got))
        images = len(hits[0])
        trials = np.ones(images) if way == IMAGE_TO_TEXT else np.bincount(owner)
        counts = HitCounts(
            np.stack(hits, axis=1).astype(np.float32), trials.astype(np.float32), np.zeros(images, np.int64)
        )
        draw = np.random.default_rng(SEED)
        value = 100 * figures(counts).reshape(len(columns), len(seeds)).mean(axis=1)
        drawn = 100 * resample(counts, RESAMPLES, draw).reshape(RESAMPLES, len(columns), len(seeds))
        chosen = draw.integers(len(seeds), size=(RESAMPLES, 1, len(seeds)))  # a seed is drawn for all columns at once
        drawn = np.take_along_axis(drawn, np.broadcast_to(chosen, drawn.shape), axis=2).mean(axis=2)
        place = {column: number for number, column in enumerate(columns)}
        lines = []
        for column, number in place.items():
            arm, order = column
            line: dict[str, object] = {"arm": arm, "order": TITLES[order]}
            against: dict[str, Callable] = {"": lambda x, own=number: x[..., own]}
            if order in ORDERS[1:]:
                base = place[arm, ORDERS[0]]
                against["against its ITC "] = lambda x, own=number, base=base: x[..., own] - x[..., base]
            if order and arm != PLAIN:
                base = place[PLAIN, order]
                against["against plain "] = lambda x, own=number, base=base: x[..., own] - x[..., base]
            for name, of in against.items():
                low, high = np.percentile(of(drawn), TAILS)
                line |= {
                    f"{name}{part}": round(float(x), 3)
                    for part, x in zip(("value", "low", "high"), (of(value), low, high), strict=True)
                }
            lines.append(line)
        return lines


def negatives(log: str) -> dict[int, dict[str, float]]:
    """By epoch, shares of the hardest negatives, %: of one photograph, called a match, right ones, missed ones."""
    patterns = {
        "true": r"(?:truly|Hardest of one class:) ([\d.]+)%",
        "match": r"False negatives: ([\d.]+)%",
        "right": r"right ([\d.]+)%",
        "missed": r"missed ([\d.]+)%",
    }
    found: dict[int, dict[str, float]] = {}
    for epoch in sorted({int(number) for number in re.findall(r"FFF Epoch: (\d+)", log)}):
        lines = [line for line in log.splitlines() if f"FFF Epoch: {epoch} " in line]
        shares = {name: re.findall(pattern, "\n".join(lines)) for name, pattern in patterns.items()}
        found[epoch] = {name: round(float(np.mean(list(map(float, x)))), 3) for name, x in shares.items() if x}
    return found


def right(run: Path) -> dict[str, float]:
    """Of a run's last log line, %: pairs and masked tokens that its fusion model gets right, and the like."""
    patterns = {
        "ITM right": r"ITM right: ([\d.]+)%",
        "own": r"\(own ([\d.]+)%",
        "hard": r"hard ([\d.]+)%",
        "converted": r"converted ([\d.]+)%, replaced",
        "replaced": r"replaced ([\d.]+)%(?!\))",
        "MLM right": r"MLM right: ([\d.]+)%",
        "false negatives": r"False negatives: ([\d.]+)%",
    }
    log = (run / "out.log").read_text()
    return {name: float(found[-1]) for name, pattern in patterns.items() if (found := re.findall(pattern, log))}


def _keys(shard: Path) -> set[str]:
    from open_clip_fff.tools.shards.tars import keys_of

    return keys_of(str(shard))


def _run(arm: str, seed: int) -> str:
    return f"{re.sub(r'[^a-z]+', '-', arm.lower())}-{seed}"


def _orders(arm: str) -> tuple[str, ...]:
    return ("",) if arm == ITC else ORDERS
