"""Models side by side: rows from what a person types, figures with intervals, and what stands beside them."""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.compare.columns import AVERAGE
from open_clip_fff.evaluation.compare.footnotes import footnotes
from open_clip_fff.evaluation.compare.plots import COLOURS, line_style
from open_clip_fff.evaluation.compare.rows import read_rows
from open_clip_fff.evaluation.compare.run import compare
from open_clip_fff.evaluation.compare.table import make_table
from open_clip_fff.evaluation.compare.training import read_training
from open_clip_fff.evaluation.compare.warnings import comparison_warnings, unequal_training
from open_clip_fff.evaluation.store import Score, model_folder, write_score
from tests import programs
from tests.full_disk import full_disk
from tests.test_curves import STOCK, result

ROOT = Path(__file__).parent.parent
METRICS = {"cifar10": "acc1", "pets": "mean_per_class_recall", "mine": "acc1"}
CLIP = {"captions_per_image": "1", "caption_policy": "first"}
DRAWN = {"captions_per_image": "5", "caption_policy": "sample"}
FFF = {"captions_per_image": "5", "caption_policy": "all", "method": "fff"}
TRAINED = {"batch_size": "8", "world_size": "1", "accum_freq": "1", "train_num_samples": "64", "train_data": "a.tar"}


class Scores:
    """A store of small scores: a model's hits are an image's luck, which all models share, and some of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def model(self, name, rate=0.5, sets=("cifar10",), params=None, seed=0, epoch=2, run=None, given=None, **meta):
        """Scores a model of that hit rate and returns its folder."""
        weights = f"{zlib.crc32(f'{name} {seed} {epoch}'.encode()):08x}"
        about = {"given": given or f"logs/{name}", "name": f"{name}-epoch_{epoch}" if epoch else name, "epoch": epoch}
        about |= {"run": run and str(run), "weights": weights, "params": params and TRAINED | params}
        folder = model_folder(self.folder, about["name"], weights)
        shared = {"model": about, "precision": "fp32", "batch_size": 4, "workers": 1, **meta}
        shared |= {"device": "cpu", "seconds": 1.0, "versions": {"clip-benchmark": "1.6.2"}, "date": "2026-01-01"}
        for name in sets:
            rng = np.random.default_rng([int(weights, 16), len(name)])
            write_score(
                folder / name, flickr(rate, rng, shared) if "flickr" in name else digits(name, rate, rng, shared)
            )
        return folder

    def table(self, baselines, models, resamples=300):
        """The comparison of what is here."""
        return make_table(read_rows(baselines, models, self.folder), resamples)


def digits(name: str, rate: float, rng, meta: dict, images: int = 300, classes: int = 5) -> Score:
    """A classification, or the linear probe of one."""
    probe = name.endswith("-probe")
    luck, target = np.random.default_rng(7).random(images), np.arange(images) % classes
    hit = 0.9 * luck + 0.1 * rng.random(images) < rate
    metric = "lp_acc1" if probe else METRICS[name]
    recall = np.mean([hit[target == each].mean() for each in range(classes)])
    values = {metric.removesuffix("acc1") + "acc1": hit.mean(), "acc5": np.nan, "mean_per_class_recall": recall}
    about = {"name": name, "title": name, "task": "zeroshot_classification", "metric": metric}
    about |= {"name": "cifar10_linear_probe", "title": "x, linear probe", "task": "linear_probe"} if probe else {}
    about |= {"location": "data", "layout": "webdataset", "images": images, "classes": classes, "templates": 1}
    summary = {"task": about["task"], "metrics": {key: float(value) for key, value in values.items()}}
    return Score(summary, meta | {"set": about}, {"target": target, "predicted": np.where(hit, target, target + 1)})


def flickr(rate: float, rng, meta: dict, images: int = 100) -> Score:
    """A retrieval with one to three captions per image."""
    owner = np.repeat(np.arange(images), 1 + np.arange(images) % 3)
    samples: dict[str, np.ndarray] = {}
    for k in (1, 5, 10):
        samples[f"text_retrieval_recall@{k}"] = rng.random(images) < rate + k / 50
        samples[f"image_retrieval_recall@{k}"] = rng.random(len(owner)) < rate + k / 50
    metrics = {key: float(value.mean()) for key, value in samples.items()}
    about = {"name": "flickr30k", "title": "Flickr30k", "task": "zeroshot_retrieval", "images": images}
    about |= {"metric": "text_retrieval_recall@1", "location": "data", "layout": "webdataset"}
    samples["image_of_text"] = owner
    return Score({"task": about["task"], "metrics": metrics}, meta | {"set": about}, samples)


@pytest.fixture
def scores(tmp_path) -> Scores:
    return Scores(tmp_path / "store")


def cell(table, label, name, metric=None):
    return next(
        value
        for (row, column), value in table.cells.items()
        if (row, column.key[1]) == (label, name) and metric in (None, column.metric)
    )


# --- the bootstrap


def test_pairing_narrows_the_interval_and_its_lack_is_told(scores):
    scores.model("a", 0.5), scores.model("b", 0.55)
    scores.model("c", 0.55, seed=1, workers=3)  # webdataset gives another order
    table = scores.table(["logs/a"], ["logs/b", "logs/c"])
    paired, unpaired = (cell(table, label, "cifar10").changes["a"] for label in "bc")
    assert paired.paired and not unpaired.paired
    assert paired.high - paired.low < 0.6 * (unpaired.high - unpaired.low)
    assert any("Unpaired (c: CIFAR-10)" in note for note in footnotes(table))
    # the numbers are those of the store
    assert cell(table, "b", "cifar10").mean == pytest.approx(100 * 0.55, abs=6)
    assert paired.value == pytest.approx(cell(table, "b", "cifar10").mean - cell(table, "a", "cifar10").mean)


def test_the_average_is_over_the_sets_of_all_and_says_so(scores):
    scores.model("a", 0.5, ["cifar10", "pets", "mine"]), scores.model("b", 0.6, ["cifar10", "mine", "flickr30k"])
    table = scores.table(["logs/a"], ["logs/b"])
    average = next(column for column in table.columns if column.metric == AVERAGE)
    assert average.sets == ("cifar10",) and average.detail == "1 of 11"
    assert cell(table, "a", AVERAGE).mean == cell(table, "a", "cifar10").mean
    groups = {column.key[1]: column.group for column in table.columns}
    assert "outside" in groups["mine"] and ("b", average) in table.cells
    told = " ".join(comparison_warnings(table.rows, table.columns))
    assert "a lacks Flickr30k; b lacks Oxford Pets." in told and "mine" not in told


def test_a_set_of_ones_own_is_named_before_those_of_the_paper(scores):
    scores.model("a", 0.5, ["cifar10", "pets", "mine"]), scores.model("b", 0.6, ["cifar10"])
    table = scores.table(["logs/a"], ["logs/b"])
    assert "b lacks mine and Oxford Pets." in " ".join(comparison_warnings(table.rows, table.columns))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_equal_curves_are_all_seen(count):
    figure = Figure(dpi=130)
    axes = figure.subplots()
    for place in range(count):
        axes.plot([0, 1, 2], [0, 3, 1], color=COLOURS[place], **line_style(place, count))
    figure.canvas = FigureCanvasAgg(figure)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].reshape(-1, 3)
    for colour in COLOURS[:count]:
        assert (abs(pixels - np.array(to_rgb(colour)) * 255).max(axis=1) < 2).sum() > 100, colour


def test_the_average_of_two_sets(scores):
    scores.model("a", 0.5, ["cifar10", "pets"]), scores.model("b", 0.6, ["cifar10", "pets"])
    table = scores.table(["logs/a"], ["logs/b"])
    both = [cell(table, "b", name) for name in ("cifar10", "pets")]
    average = cell(table, "b", AVERAGE)
    assert average.mean == pytest.approx(np.mean([each.mean for each in both]))
    widths = [each.changes["a"].high - each.changes["a"].low for each in (*both, average)]
    assert widths[2] < min(widths[:2])  # independent sets
    assert any("2 of 11 sets of the paper (CIFAR-10, Oxford Pets)" in note for note in footnotes(table))


def test_recall_and_linear_probe_have_columns_of_their_own(scores):
    for name, rate in {"a": 0.3, "b": 0.5}.items():
        scores.model(name, rate, ["cifar10", "cifar10-probe", "flickr30k"])
    table = scores.table(["logs/a"], ["logs/b"])
    assert [group for group, _ in table.groups()] == ["Zero-shot classification", "Zero-shot retrieval", "Linear probe"]
    assert table.columns[-1].name == "CIFAR-10 (linear probe)"
    details = [column.detail for column in table.columns if column.key[1] == "flickr30k"]
    assert details[0] == "image → text R@1" and details[-1] == "text → image R@10" and len(details) == 6
    change = cell(table, "b", "flickr30k", "image_retrieval_recall@1").changes["a"]
    assert change.low < change.value < change.high and change.excludes_zero


def test_seeds_have_a_spread_and_are_drawn(scores):
    for seed in range(3):
        scores.model(f"a-{seed}", 0.5 + 0.05 * seed, params={"seed": str(seed), **CLIP}, seed=seed)
        scores.model(f"b-{seed}", 0.7 - 0.05 * seed, params={"seed": str(seed), **CLIP}, seed=seed)
    in_order = scores.table(["a=logs/a-0,logs/a-1,logs/a-2"], ["b=logs/b-0,logs/b-1,logs/b-2"])
    shuffled = scores.table(["a=logs/a-2,logs/a-0,logs/a-1"], ["b=logs/b-0,logs/b-1,logs/b-2"])
    one, other = (cell(table, "b", "cifar10") for table in (in_order, shuffled))
    assert one == other and one.seeds == 3 and one.spread == pytest.approx(5, abs=1.5)
    assert one.changes["a"].seeds
    single = cell(scores.table(["a=logs/a-0"], ["b=logs/b-0"]), "b", "cifar10").changes["a"]
    assert one.changes["a"].high - one.changes["a"].low > 1.5 * (single.high - single.low)
    assert any("paired by --seed" in note for note in footnotes(in_order))
    alone = footnotes(scores.table(["a=logs/a-0"], ["b=logs/b-0,logs/b-1"]))
    assert any("One seed (a): the interval does not include training noise" in note for note in alone)


def test_the_same_scores_give_the_same_intervals(scores):
    scores.model("a", 0.5, ["cifar10"]), scores.model("b", 0.6, ["cifar10"])
    first, again = (cell(scores.table(["logs/a"], ["logs/b"]), "b", "cifar10") for _ in range(2))
    assert first == again


# --- what must be known


def test_a_gain_from_more_captions_is_not_taken_for_the_methods(scores):
    (
        scores.model("clip", 0.5, params=CLIP),
        scores.model("fff", 0.6, params=FFF),
        scores.model("one", 0.55, params=DRAWN),
    )
    scores.model("elsewhere", 0.55, params=DRAWN | {"train_data": "b.tar"})
    lacking = scores.table(["logs/clip"], ["logs/fff"])
    flags = "--method clip --captions-per-image 5 --caption-policy sample"
    assert any(flags in notice for notice in comparison_warnings(lacking.rows, lacking.columns))
    other = scores.table(["logs/clip", "logs/elsewhere"], ["logs/fff"])
    assert any(flags in notice for notice in comparison_warnings(other.rows, other.columns))
    having = scores.table(["logs/clip", "logs/one"], ["logs/fff"])
    assert comparison_warnings(having.rows, having.columns) == []
    assert set(cell(having, "fff", "cifar10").changes) == {"clip", "one"}


def test_unequal_training_and_scoring_is_told(scores):
    scores.model("a", params=CLIP, epoch=2), scores.model("b", params=CLIP | {"batch_size": "16"}, precision="bf16")
    scores.model("c", given="ViT-B-32,openai", epoch=None)
    for name, shots in (("a", 5), ("b", -1)):  # as a linear probe's result has them
        file = next(scores.folder.glob(f"{name}-*/cifar10/result.json"))
        result = json.loads(file.read_text())
        file.write_text(json.dumps(result | {"metrics": result["metrics"] | {"fewshot_k": shots}}))
    table = scores.table(["logs/a"], ["logs/b", "ViT-B-32,openai"])
    told = comparison_warnings(table.rows, table.columns)
    assert any("different training images per class: a: 5; b: all; c: unknown (cifar10)" in notice for notice in told)
    assert any("different steps: a: 16; b: 8" in notice for notice in told)
    assert any("different batch size: a: 8; b: 16" in notice for notice in told)
    assert any("The training of c is unknown" in notice for notice in told)
    assert any("different precision: a, c: fp32; b: bf16 (cifar10)" in notice for notice in told)


# --- names


def test_models_are_found_by_what_was_typed_for_them(scores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "logs" / "run"
    scores.model("run", run=run, epoch=1, given="logs/run/checkpoints/epoch_1.pt")
    last = scores.model("run", run=run, epoch=2)
    scores.model("clip", given="ViT-B-32,openai", epoch=None)
    scores.model("hub", given="local-dir:exported/", epoch=None)

    def found(*words):
        return [[model.folder.name for model in row.models] for row in read_rows(words[:1], words[1:], scores.folder)]

    assert found("logs/run") == found(str(run)) == found(str(last)) == found(last.name) == [[last.name]]
    assert found("logs/run/checkpoints/epoch_1.pt")[0][0].startswith("run-epoch_1")
    assert found("./exported")[0][0].startswith("hub")
    both = found("x=ViT-B-32,openai,logs/run")
    assert [name.split("-")[0] for name in both[0]] == ["clip", "run"]
    assert found(f"x={scores.folder}/run-epoch_2-*") == found("x=run-epoch_2*") == [[last.name]]
    labels = [row.label for row in read_rows(["logs/run"], ["name=exported"], scores.folder)]
    assert labels == ["run", "name"]


def test_seeds_get_the_name_they_share(scores):
    for seed in (10, 12):
        scores.model(f"fff-s{seed}", seed=seed)
    assert read_rows(["logs/fff-s10,logs/fff-s12"], [], scores.folder)[0].label == "fff"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["logs/none"], "logs/none: no scores of this model in .*open-clip-fff score logs/none"),
        (["logs/a", "logs/a"], "a: 2 rows have this label"),
        (["logs/a", "x=logs/a"], "compared 2 times"),
        (["x=nothing-*"], "nothing-\\*: matches neither"),
        (["=logs/a"], "give LABEL=NAME"),
        (["logs/a,logs/none"], "logs/none: no scores"),
        (["ViT-B-16,mine"], "ViT-B-16,mine: no scores"),
        (["x=logs/e,e-epoch_1-*"], "x: 2 epochs of run are no seeds"),
        (["twice"], "may be .* or .*; give one of these"),
    ],
)
def test_mistakes_are_one_line(scores, words, told):
    scores.model("e", epoch=1, run="run"), scores.model("e", run="run")
    scores.model("a"), scores.model("t", given="twice", epoch=None), scores.model("u", given="twice", epoch=None)
    with pytest.raises(UsageError, match=told) as error:
        read_rows(words[:1], words[1:], scores.folder)
    assert "\n" not in str(error.value)


def test_scores_that_cannot_be_compared_are_refused(scores):
    scores.model("a"), scores.model("b")
    c = scores.model("c", seed=3)
    meta = json.loads((c / "cifar10/meta.json").read_text())
    short = digits("cifar10", 0.5, np.random.default_rng(0), meta, images=200)
    write_score(c / "cifar10", short)
    with pytest.raises(UsageError, match="cifar10: scored on different numbers of images"):
        scores.table(["logs/a"], ["logs/c"])
    b = next(scores.folder.glob("b-*")) / "cifar10"
    meta = json.loads((b / "meta.json").read_text())
    damages = ("set", "task", None), ("set", "images", "9"), ("model", "run", 3), ("model", "epoch", "")
    for part, name, value in damages:
        (b / "meta.json").write_text(json.dumps(meta | {part: meta[part] | {name: value}}))
        with pytest.raises(UsageError, match=rf"cannot be read as a score \(its meta.json has no {name} of the {part}"):
            scores.table(["logs/a"], [str(b.parent)])
    (b / "meta.json").write_text(json.dumps(meta))
    (b / "samples.npz").write_bytes(b"PK")
    with pytest.raises(UsageError, match="cannot be read as a score"):
        scores.table(["logs/a"], ["logs/b"])
    b.rename(b.with_name(".cifar10.x"))  # what a killed process left
    scores.model("b")
    scores.table(["logs/a"], ["logs/b"])
    before = (b / "samples.npz").read_bytes()
    with full_disk(100), pytest.raises(UsageError, match=rf"--store {b}: cannot be written .*File too large"):
        write_score(b, short)
    with full_disk(100), pytest.raises(UsageError, match=r"--out .*: cannot be written .*File too large"):
        compare(["logs/a"], [], scores.folder, scores.folder / "out", 200)
    assert (b / "samples.npz").read_bytes() == before


# --- what is written


@pytest.mark.slow
def test_the_whole_program(scores, tmp_path):
    for name, rate, params in [("clip", 0.4, CLIP), ("fff <1>", 0.5, FFF)]:
        scores.model(name, rate, ["cifar10", "pets", "flickr30k"], params, run=tmp_path / "gone")
    out = tmp_path / "out"
    out.mkdir()
    (out / "theirs.txt").write_text("kept")
    argv = ["--baseline", "logs/clip", "logs/fff <1>", "--store", scores.folder, "--out", out, "--resamples", "200"]
    command = [ROOT / "eval" / "compare.py", *argv]
    done = programs.run(*command)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 120
    assert "WARNING: fff <1> had 5 captions" in done.stdout and "2 of 11" in done.stdout
    page = (out / "index.html").read_text()
    assert "fff &lt;1&gt;" in page and "clip (baseline)" in page and "--caption-policy</code> sample" in page
    assert not re.search(r"(src|href)=(?!.data:)|https?://|url\(", page)
    markdown = (out / "table.md").read_text()
    assert "| CIFAR-10 |" in markdown and "**Warning.**" in markdown
    table = pd.read_csv(out / "table.csv")
    assert {"value", "spread", "change", "low", "high", "seeds", "paired"} <= set(table)
    assert len(table[table["against"] == "clip"]) == 9
    index = json.loads((out / "comparison.json").read_text())
    assert [model["baseline"] for model in index["models"]] == [True, False] and index["resamples"] == 200
    assert index["sets"] == ["cifar10", "pets", "flickr30k"] and (out / "theirs.txt").read_text() == "kept"
    assert (out / "change.png").stat().st_size > 5_000 and not (out / "curves.png").exists()
    done = programs.run(*command, "logs/none")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "open-clip-fff score" in done.stderr


def test_curves_are_drawn_by_what_all_runs_measured(scores, tmp_path):
    recall, stock, ours = {"image_to_text_R@5": 0.2}, tmp_path / "stock", tmp_path / "ours"
    for run in (stock, ours):
        (run / "checkpoints").mkdir(parents=True)
        (run / "out.log").write_text(STOCK)
        accuracy = {"imagenet-zeroshot-val-top1": 0.1} if run is stock else {}
        (run / "checkpoints" / "results.jsonl").write_text(result(1, **recall, **accuracy))
    more = {"zeroshot/imagenet1k/acc1": 0.2, "zeroshot/pets/mean_per_class_recall": 0.3, "zeroshot/pets/acc5": 0.4}
    more |= {"all_captions_image_to_text_R@5": 0.3, "zeroshot/mine/text_retrieval_recall@5": 0.6}
    (ours / "checkpoints" / "fff_results.jsonl").write_text(result(1, **more))
    for name in ("stock", "ours", "gone"):
        scores.model(name, run=tmp_path / name, epoch=1)
    training = read_training(read_rows(["logs/stock"], ["logs/ours", "logs/gone"], scores.folder))
    assert training.measures == {
        "Recall@5 image → text, mine": ["zeroshot/mine/text_retrieval_recall@5"],
        "Zero-shot accuracy, ImageNet": ["zeroshot/imagenet1k/acc1"],
        "Recall@5 image → text, validation, first captions": ["image_to_text_R@5"],
    }
    assert len(training.notes) == 2 and "gone: no out.log" in training.notes[0] and "pets" in training.notes[1]
    alone = read_training(read_rows(["logs/ours"], [], scores.folder))
    assert alone.measures == {
        "Zero-shot accuracy, mean of 2 sets": ["zeroshot/imagenet1k/acc1", "zeroshot/pets/mean_per_class_recall"],
        "Recall@5 image → text, mine": ["zeroshot/mine/text_retrieval_recall@5"],
        "Recall@5 image → text, validation, all captions": ["all_captions_image_to_text_R@5"],
    }
    out = tmp_path / "out"
    text = compare(["logs/stock"], ["logs/ours", "logs/gone"], scores.folder, out, 200)
    assert "No curves for gone" in text and not (out / "mining.png").exists()
    assert all((out / name).stat().st_size > 5_000 for name in ("curves.png", "scalars.png"))
    assert (out / "index.html").read_text().count("data:image/png;base64,") == 3


def test_files_of_others_are_not_written_over(scores, tmp_path):
    scores.model("a"), scores.model("b")
    out = tmp_path / "out"
    wanted = ["logs/a"], ["logs/b"], scores.folder, out, 200
    compare(*wanted)
    assert (out / "change.png").exists()
    compare(["logs/a"], [], scores.folder, out, 200)  # ours are, and what is no longer drawn goes
    assert not (out / "change.png").exists()
    (out / "comparison.json").unlink()
    with pytest.raises(UsageError, match=r"index.html, table.csv, table.md, not of an earlier comparison"):
        compare(*wanted)


def test_the_training_of_a_frozen_miner_is_told(scores):
    scores.model("plain", params=CLIP)
    scores.model("mined", params=FFF | {"mining_features": "frozen", "mining_model": "ViT-L-14"})
    text = " ".join(unequal_training(read_rows(["logs/plain"], ["logs/mined"], scores.folder)))
    assert "their own training is not counted: for mined, ViT-L-14." in text
    scores.model("judged", params=FFF | {"mining_features": "text", "mining_model": "m", "discriminator": "blip:x"})
    text = " ".join(unequal_training(read_rows(["logs/plain"], ["logs/judged"], scores.folder)))
    assert "their own training is not counted: for judged, blip:x and m." in text
    assert "not counted" not in " ".join(unequal_training(read_rows(["logs/plain"], [], scores.folder)))
