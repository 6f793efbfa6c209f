"""The trainings and scores of the study of the fusion model; what is there is not run again.

All arms start from one model, which learnt ITC first and then ITM and MLM on even draws, and go on for the same number
of steps; their seeds differ in the order of the data and in what is drawn.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from cifar.runs import append, has, read, write
from digits.runs import Run, Trainer, words

from flickr.arms import ARMS, GRIT, ITC, MAFA, MAFA_BY_PLAIN, PLAIN, TUNED, UNTUNED, Size
from flickr.data import CAPTIONS, NAME, tars
from flickr.hidden import hidden_negatives
from flickr.logs import at_the_end, negatives
from flickr.scores import WAYS, intervals, recalls, score
from open_clip_fff.evaluation.protocol import ORDERS
from open_clip_fff.evaluation.store import Score
from open_clip_fff.tools.shards.tars import count_samples


class Study:
    """The runs on what `flickr.data.make` made; runs and scores go there, too, and CSVs to `results`."""

    def __init__(self, data: Path, results: Path, size: Size) -> None:
        self.data, self.results, self.size = data, results, size
        self.logs = data / "logs"
        results.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Trains and scores what is missing, in the order of the conditions."""
        size = self.size
        for rate in size.rates:
            if not has(read(self.results / "rates.csv"), {"rate": rate}):
                self.arm(PLAIN, size.other, rate, name := f"rate-{rate:g}")
                found = score(self.logs / name, self.data, "validation", size.candidates)
                both = [found.metrics[f"{ORDERS[2]}{way}@10"] for way in WAYS]
                append(self.results / "rates.csv", {"rate": rate, "validation R@10": round(50 * sum(both), 3)})
        rates = read(self.results / "rates.csv")
        rate = float(rates.loc[rates["validation R@10"].idxmax(), "rate"])
        grit = self.arm(GRIT, size.other, rate, UNTUNED)
        for name, found_by in TUNED.items():
            start = ("--pretrained", grit, "--fusion-pretrained", grit, "--lr", f"{rate / 2:g}")
            self.train(name, (*ARMS[PLAIN], *found_by, *start, "--seed", str(size.other)), size.tuned)
        for name in ("", *TUNED):
            self.twice(name, rate)
        plain, joint = f"rate-{rate:g}", f"joint-{size.other}"
        if not (path := self.results / "hidden.csv").exists():
            names = (UNTUNED, *TUNED, joint, plain)
            write(path, hidden_negatives(self.data, self.logs / joint, size.batch, names))
        discriminators = {MAFA: self.best_discriminator(), MAFA_BY_PLAIN: plain}
        for arms in ((PLAIN, GRIT, MAFA), (MAFA_BY_PLAIN,), (ITC,)):
            for seed in size.seeds:
                for arm in arms:
                    self.reported(arm, seed, rate, discriminators.get(arm, ""))
            self.intervals()
        self.twice(plain, rate)
        self.twice(UNTUNED, rate)

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

    def reported(self, arm: str, seed: int, rate: float, discriminator: str) -> None:
        """Trains an arm with a seed, and adds its recalls on the test images to recalls.csv."""
        path = self.results / "recalls.csv"
        if not has(read(path), {"arm": arm, "seed": seed}):
            self.arm(arm, seed, rate, _name(arm, seed), self.discriminated(discriminator))
            lines = pd.DataFrame(recalls(self.tested(arm, seed), arm, seed))
            write(path, pd.concat([read(path), lines], ignore_index=True))

    def tested(self, arm: str, seed: int) -> Score:
        """A run's score on the test images."""
        return score(self.logs / _name(arm, seed), self.data, "test", None if arm == ITC else self.size.candidates)

    def intervals(self) -> None:
        """Writes intervals.csv."""
        arms = list(dict.fromkeys(read(self.results / "recalls.csv")["arm"]))
        samples = {(arm, seed): self.tested(arm, seed).samples for arm in arms for seed in self.size.seeds}
        write(self.results / "intervals.csv", pd.DataFrame(intervals(samples, arms, self.size.seeds)))

    def discriminated(self, name: str) -> tuple[str, ...]:
        """The flag of a discriminator; none for ""."""
        return ("--discriminator", f"fusion:{self.logs / name}") if name else ()

    def twice(self, discriminator: str, rate: float) -> None:
        """Counts false negatives where each photograph is there twice, and which a discriminator finds; "" for none."""
        path, title = self.results / "negatives.csv", discriminator or "none"
        if has(read(path), {"discriminator": title}):
            return
        arm, more = MAFA if discriminator else GRIT, (*self.discriminated(discriminator), "--class-key", "cls")
        self.arm(arm, self.size.other, rate, name := f"twice-{title}", more, twice=True)
        for epoch, found in negatives((self.logs / name / "out.log").read_text()).items():
            append(path, {"discriminator": title, "epoch": epoch, **found})

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
        images = sum(count_samples(str(shard)) for shard in shards) // self.size.batch * self.size.batch
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
        with Trainer([*words(shared), *CAPTIONS], self.logs, epochs) as trainer:
            run = Run(name, name, tuple(flags))
            trainer.start(run)
            trainer.wait(run)
        line = {"run": name, "epochs": epochs, "seconds": round(trainer.seconds[name])}
        append(self.results / "trainings.csv", {**line, **at_the_end((self.logs / name / "out.log").read_text())})
        return str(last)


def _name(arm: str, seed: int) -> str:
    """Of a run's folder."""
    return f"{re.sub(r'[^a-z]+', '-', arm.lower())}-{seed}"
