"""The study's trainings: a learning rate for each loss first, then each arm with each seed; a line of a CSV per run."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from digits.runs import Run, Trainer, command, words
from digits.sentences import by_captions_alone, needed_sentence_model
from digits.study import checkpoint
from flickr.noisy import alike

from cifar.arms import ARMS, GRIDS, RATES, TUNED, Arm, Condition
from cifar.benches import CIFAR, FLICKR, bench_of
from cifar.data import BLIP, shards
from cifar.recalls import MEASURES, recalls
from cifar.teacher import CONFIG as TEACHER
from cifar.teacher import image_tower
from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.benchmark import EvalSettings, evaluate
from open_clip_fff.evaluation.layouts import find_sets
from open_clip_fff.hub.loading import load_model
from open_clip_fff.tools.shards.tars import count_samples

MODEL = CIFAR.model
TUNING_SEED = 100  # of no run that is reported
IN_WORDS = "test-in-words"  # the test images, with the prompts of the validation images
MEASURED_IN_WORDS = {"top-1 in words": "acc1", "mean per class in words": "mean_per_class_recall"}
# In `tailed` the class of label l has 1 / (l + 1) of the images that the first has.
BY_FREQUENCY = {"3 frequent classes in words": range(3), "5 rare classes in words": range(5, 10)}


def run_grid(
    data: Path,
    test: Path | None,
    name: str,
    results: Path,
    shares: str | None = None,
    seeds: Sequence[int] | None = None,
) -> None:
    """Trains and scores what the CSVs of `results` lack.

    Args:
        data: what `cifar.data.make` made.
        test: the test set in clip-benchmark's layout; None to choose rates only.
        name: of the grid.
        results: the folder of rates.csv and runs.csv.
        shares, seeds: of the grid's, to run these alone.

    Raises UsageError if the data or the test set are not there, RunFailed if a training fails.
    """
    grid = GRIDS[name]
    of_grid = [each for each in grid.conditions if shares in (None, each.shares)]
    if not of_grid:
        raise UsageError(f"--shares {shares}: no condition of --grid {name} has them")
    for folder in (data / f"{each.shares}-{each.noise}" for each in of_grid):
        if not any(folder.glob("*.tar")):
            raise UsageError(f"--data {data}: no {folder.name}/*.tar there; `scripts/study.py data` makes them")
    if test is not None and not any((test / "test").glob("*.tar")):
        raise UsageError(f"--test {test}: no test/*.tar there")
    results.mkdir(parents=True, exist_ok=True)
    if CIFAR in [bench_of(each.name) for each in of_grid]:
        link_sets(data, test)
    for condition in of_grid:
        arms = [ARMS[arm] for arm in grid.arms]
        used = {arm.miner for arm in arms if arm.miner}
        miners = {miner: miner_flags(data, condition, miner) for miner in sorted(used)}
        losses = sorted({arm.loss for arm in arms})
        bench = bench_of(condition.name)
        own = results / bench.folder
        own.mkdir(exist_ok=True)
        tune(data, condition, losses, own / "rates.csv")
        if test is not None or bench is FLICKR:
            train(data, condition, arms, [seed for seed in grid.seeds if seed in (seeds or grid.seeds)], miners, own)
    if test is not None:
        score_more(data, results / "runs.csv")


def link_sets(data: Path, test: Path | None) -> None:
    """CIFAR-10's sets in DATA/sets: validation, test, and test with the prompts of validation."""
    sets = data / "sets"
    sets.mkdir(exist_ok=True)
    for kind, folder in (("validation", data / "validation"), ("test", test)):
        if folder is not None and not (sets / kind).is_symlink():
            (sets / kind).symlink_to(folder.resolve())
    if test is not None and not (sets / IN_WORDS).exists():
        (sets / IN_WORDS).mkdir()
        (sets / IN_WORDS / "test").symlink_to((test / "test").resolve())
        for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
            (sets / IN_WORDS / name).symlink_to((data / "validation" / name).resolve())


def tune(data: Path, condition: Condition, losses: Iterable[str], path: Path) -> None:
    """Adds to rates.csv the score on validation images of each loss at each rate."""
    known, bench = read(path), bench_of(condition.name)
    runs = {}
    for loss in losses:
        for rate in RATES:
            row = {"condition": condition.name, "loss": loss, "rate": rate}
            if not has(known, row):
                arm = ARMS[TUNED[loss]]
                runs[_run(condition, arm, TUNING_SEED, rate, [])] = row
    for run, folder, _ in trained(data, condition, list(runs), bench.sets[:1]):
        append(path, {**runs[run], **bench.scores(scores(folder))})


def best_rate(results: Path, condition: Condition, loss: str) -> float:
    """The rate at which the loss did best on validation images."""
    rates = read(results / "rates.csv")
    of_loss = rates[(rates["condition"] == condition.name) & (rates["loss"] == loss)]
    return float(of_loss.loc[of_loss[bench_of(condition.name).chosen_by].idxmax(), "rate"])


def train(
    data: Path,
    condition: Condition,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    miners: dict[str, list[str]],
    results: Path,
) -> None:
    """Adds to runs.csv a line for each arm and seed."""
    known, bench = read(results / "runs.csv"), bench_of(condition.name)
    runs = {}
    for seed in seeds:
        for arm in arms:
            row = {"condition": condition.name, "arm": arm.name, "seed": seed}
            if not has(known, row):
                rate = best_rate(results, condition, arm.loss)
                run = _run(condition, arm, seed, rate, miners[arm.miner] if arm.miner else [])
                runs[run] = {**row, "loss": arm.loss, "rate": rate, "epochs": condition.epochs}
    for run, folder, seconds in trained(data, condition, list(runs), bench.sets):
        found = bench.scores(scores(folder))
        append(results / "runs.csv", {**runs[run], **found, "seconds": seconds and round(seconds), **logged(folder)})


def score_more(data: Path, path: Path) -> None:
    """Adds to runs.csv, where they are missing, the test images' scores in the captions' words, and recalls."""
    for columns, measure in ((tuple(MEASURED_IN_WORDS), in_words), (MEASURES, recalls)):
        runs = read(path).reindex(columns=list(dict.fromkeys([*read(path).columns, *columns])))
        for place, row in runs[runs[columns[0]].isna()].iterrows():
            folder = data / "logs" / run_name(row["condition"], row["arm"], row["rate"], row["seed"])
            if folder.exists():
                found = measure(folder, data)
                print(folder.name, *(f"{name} {value:.2f} %" for name, value in found.items()), flush=True)
                runs.loc[place, list(found)] = list(found.values())
                write(path, runs)


def in_words(run: Path, data: Path) -> dict[str, float]:
    """Zero-shot scores of the test images, with prompts in the captions' words; with long tails also by frequency."""
    (local,), _ = find_sets([IN_WORDS], data / "sets")
    loaded = load_model(str(run), "cpu")
    found = evaluate(loaded.model, loaded.preprocess, loaded.tokenizer, local, EvalSettings(workers=0))
    scores = {name: 100 * found.metrics[metric] for name, metric in MEASURED_IN_WORDS.items()}
    if run.name.startswith("tailed"):
        classes = found.samples["target"]
        right = found.samples["predicted"] == classes
        scores |= {name: 100 * float(right[np.isin(classes, labels)].mean()) for name, labels in BY_FREQUENCY.items()}
    return scores


def run_name(condition: str, arm: str, rate: float, seed: int) -> str:
    """Of a run's folder."""
    return re.sub(r"\W+", "-", f"{condition}-{arm}-{rate:g}-{seed}")


def _run(condition: Condition, arm: Arm, seed: int, rate: float, miner: list[str]) -> Run:
    name = run_name(condition.name, arm.name, rate, seed)
    return Run(name, arm.name, (*arm.flags, *miner, "--lr", f"{rate:g}", "--seed", str(seed)))


def shared_flags(data: Path, condition: Condition, sets: Sequence[str]) -> list[str]:
    """What all runs of a condition have."""
    folder, bench = data / f"{condition.shares}-{condition.noise}", bench_of(condition.name)
    images = count(folder)
    flags: dict[str, object] = {
        "--train-data": shards(folder),
        "--train-num-samples": images - images % condition.batch,
        "--dataset-type": "webdataset",
        "--model-config": bench.model,
        "--model": bench.model.stem,
        "--batch-size": condition.batch,
        "--epochs": condition.epochs,
        "--warmup": images // condition.batch,
        "--wd": 0.1,
        "--device": "cpu",
        "--precision": "fp32",
        "--workers": 1,
        "--log-every-n-steps": 10,
        "--save-frequency": condition.epochs,
        "--zeroshot-data": data / "sets",
        "--zeroshot-sets": ";".join(sets),
        "--zeroshot-frequency": condition.epochs,
        "--logs": data / "logs",
    }
    if condition.start == "CLIP":
        flags["--pretrained"] = clean_clip(data)
    return [*bench.flags, *words(flags)]


def count(folder: Path) -> int:
    """Images in a folder of shards."""
    return sum(count_samples(str(tar)) for tar in folder.glob("*.tar"))


def trained(
    data: Path, condition: Condition, runs: Sequence[Run], sets: Sequence[str]
) -> Iterable[tuple[Run, Path, float | None]]:
    """Trains two at a time, and yields each run with its folder and seconds as soon as those before it have ended.

    One that an earlier start finished is not trained again; its seconds are None.
    """
    if not runs:
        return
    flags = shared_flags(data, condition, sets)
    todo = [run for run in runs if not checkpoint(data / "logs" / run.name, condition.epochs).exists()]
    with Trainer(flags, data / "logs", condition.epochs) as trainer:
        for run in todo:
            trainer.start(run)
        for run in runs:
            if run in todo:
                trainer.wait(run)
            yield run, data / "logs" / run.name, trainer.seconds.get(run.name)


def miner_flags(data: Path, condition: Condition, miner: str) -> list[str]:
    """The flags by which a miner's features mine; makes them where they are not there yet."""
    if miner == "minilm":
        folder = data / f"{condition.shares}-{condition.noise}"
        model, out = needed_sentence_model(), data / "minilm" / folder.name
        command(
            *("embed", "--out", out, "--train-data", shards(folder), "--text-key", ""),
            *("--json-text-key", "captions", "--mining-features", "text", "--mining-model", model),
        )
        return by_captions_alone(out)
    if miner == "teacher":
        folder = data / f"{condition.shares}-{condition.noise}"
        checkpoint, out = teacher(data), data / "teacher" / folder.name
        command(
            *("embed", "--out", out, "--train-data", shards(folder), "--text-key", "", "--json-text-key", "captions"),
            *("--mining-features", "frozen", "--mining-model", TEACHER.stem, "--mining-pretrained", checkpoint),
            *("--model-config", TEACHER),
        )
        return ["--mining-features", "precomputed", "--feature-sidecar", str(out)]
    if miner == "list":
        return ["--positives", str(alike(data))]
    if miner == "blip":
        return ["--discriminator", f"blip:{discriminator(data)}"]
    return ["--mining-features", "frozen", "--mining-model", MODEL.stem, "--mining-pretrained", str(clean_clip(data))]


def clean_clip(data: Path) -> Path:
    """The CLIP that learnt from the captioner's images and their true captions; trained where it is not there yet."""
    return trained_on_clean(data, "clean", MODEL, 10)


def teacher(data: Path) -> Path:
    """The same with a locked image tower of ImageNet's."""
    return trained_on_clean(data, "teacher", TEACHER, 6, "--pretrained", image_tower(data), "--lock-image")


def trained_on_clean(data: Path, name: str, config: Path, epochs: int, *more: object) -> Path:
    """A checkpoint of a CLIP of the captioner's images and their true captions, trained where it is not there yet."""
    checkpoint = data / "logs" / name / "checkpoints" / f"epoch_{epochs}.pt"
    images = count(data / "clean") // 256 * 256
    if not checkpoint.exists():
        command(
            *("train", "--method", "clip", "--caption-policy", "sample", "--captions-per-image", 5),
            *("--text-key", "txt", "--json-text-key", "captions"),
            *("--train-data", shards(data / "clean"), "--train-num-samples", images),
            *("--model-config", config, "--model", config.stem, "--batch-size", 256, "--epochs", epochs, "--lr", 2e-3),
            *("--warmup", 39, "--wd", 0.1, "--device", "cpu", "--precision", "fp32", "--workers", 1),
            *("--save-frequency", epochs, "--logs", data / "logs", "--name", name, *more),
        )
    return checkpoint


def discriminator(data: Path) -> Path:
    """A small BLIP that learnt which true captions match the captioner's images; trained where it is not there yet."""
    folder = data / "discriminator"
    if not folder.exists():
        command(  # negatives at random: of the most similar captions many are as true of the image as its own
            *("train-discriminator", "--from-config", BLIP, "--out", folder, "--steps", 3_000, "--batch-size", 64),
            *("--lr", 2e-3, "--hard-negatives", 0, "--workers", 1, "--seed", 0, "--train-data", shards(data / "clean")),
            *("--text-key", "", "--json-text-key", "captions"),
        )
    return folder


def scores(run: Path) -> dict[str, float]:
    """What the run's last evaluation found."""
    found: dict[str, float] = {}
    for line in (run / "checkpoints" / "fff_results.jsonl").read_text().splitlines():
        found |= json.loads(line)
    return found


def logged(run: Path) -> dict[str, float]:
    """Of the run's log: the mean of what was mined and how much of it was right, and the scalars at the end."""
    log = (run / "out.log").read_text()
    patterns = {
        "mined/image": r"Mined/image: ([\d.]+)",
        "given/image": r"Given/image: ([\d.]+)",
        "right %": r"Right: ([\d.]+)%",
        "hardest of one class %": r"(?:Hardest of one class:|truly) ([\d.]+)%",
        "matched %": r"False negatives: ([\d.]+)%",
        "matched right %": r"False negatives: .*?right ([\d.]+)%",
    }
    found = {name: [float(x) for x in re.findall(pattern, log)] for name, pattern in patterns.items()}
    means = {name: round(sum(values) / len(values), 3) for name, values in found.items() if values}
    last = {"scale": r"Logit Scale: ([\d.]+)", "bias": r"(?:Logit )?Bias: (-?[\d.]+)"}
    ends = {name: re.findall(pattern, log) for name, pattern in last.items()}
    return {**means, **{name: float(values[-1]) for name, values in ends.items() if values}}


def read(path: Path) -> pd.DataFrame:
    """A CSV; without rows where there is none yet."""
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def has(table: pd.DataFrame, row: dict[str, object]) -> bool:
    """Whether a table has a row with these values."""
    return len(table) > 0 and bool((table[list(row)] == pd.Series(row)).all(axis=1).any())


def append(path: Path, row: dict[str, object]) -> None:
    """Adds a line to a CSV, with columns of its own where they are new."""
    write(path, pd.concat([read(path), pd.DataFrame([row])], ignore_index=True))


def write(path: Path, table: pd.DataFrame) -> None:
    """A CSV, completely or not at all."""
    temporary = path.with_suffix(".tmp")
    table.to_csv(temporary, index=False)
    temporary.replace(path)
