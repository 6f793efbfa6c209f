"""Scores and comparisons where logits tie, models are made anew in place, or checkpoints are of an epoch's middle."""

import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import clip_benchmark.metrics.zeroshot_classification as classification
import numpy as np
import open_clip
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from open_clip_fff import FFFLoss, MiningConfig
from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.benchmark import EvalSettings, _retrieval, evaluate, mean_per_class_recall
from open_clip_fff.evaluation.compare.bootstrap import HitCounts, figures
from open_clip_fff.evaluation.compare.columns import OTHER, Column, hits_of
from open_clip_fff.evaluation.compare.estimate import estimate
from open_clip_fff.evaluation.compare.rows import read_rows
from open_clip_fff.evaluation.compare.warnings import steps, unequal_evaluation
from open_clip_fff.evaluation.layouts import find_sets
from open_clip_fff.evaluation.rerank import EncodedSet, _reranked
from open_clip_fff.evaluation.scoring import score_set
from open_clip_fff.evaluation.store import Score
from open_clip_fff.hub.loading import load_model
from open_clip_fff.hub.weight_source import WeightSource
from open_clip_fff.models.fusion import Fusion, FusionSizes
from scripts.bench.memory import AliveBytes
from tests.eval_sets import put, webdataset
from tests.test_comparison import CLIP, Scores, cell

QUICK = EvalSettings(workers=0, progress_bars=False)


@pytest.fixture
def model(tmp_path, tiny_config, tiny_name):
    """A hub folder of random weights."""
    torch.manual_seed(0)
    (tmp_path / "model").mkdir()
    torch.save(open_clip.create_model(tiny_name).state_dict(), tmp_path / "model" / "open_clip_pytorch_model.bin")
    config = {"model_cfg": json.loads(tiny_config.read_text()), "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "model" / "open_clip_config.json").write_text(json.dumps(config))
    return tmp_path / "model"


def birds(tmp_path: Path):
    (local,), _ = find_sets(["birds"], tmp_path / "sets")
    return local


def test_where_classes_tie_each_figure_has_its_own_samples(model, tmp_path, monkeypatch):
    """Of ten classes with one name, clip-benchmark's two figures take different ones."""
    monkeypatch.setattr(classification, "balanced_accuracy_score", None)  # grows with the square of the classes
    folder = webdataset(tmp_path / "sets" / "birds", images=16)
    put(folder / "classnames.txt", "\n".join(["a"] * 10))
    loaded = load_model(str(model), "cpu")
    found = evaluate(loaded.model, loaded.preprocess, loaded.tokenizer, birds(tmp_path), QUICK)
    for metric in ("acc1", "mean_per_class_recall"):
        about = {"set": {"task": "zeroshot_classification", "name": "birds", "images": 16}}
        score = Score({"metrics": found.metrics}, about, found.samples)
        column = Column(OTHER, ("zeroshot_classification", "birds"), "birds", metric)
        hit, _, group = hits_of(score, column)
        means = [hit[group == each].mean() for each in np.unique(group)]
        assert found.metrics[metric] == pytest.approx(np.mean(means), abs=1e-6), metric


@pytest.mark.slow
def test_whose_caption_it_is_takes_no_copy_of_all_pairs(tmp_path):
    """Of each image and caption clip-benchmark holds a cosine and whether they belong together: 5 bytes."""
    webdataset(tmp_path / "sets" / "birds", retrieval=True)
    images = [(torch.randn(1, 2), [["a"] * 2]) for _ in range(400)]
    towers = SimpleNamespace(encode_image=lambda pixels: pixels, encode_text=lambda tokens: tokens)
    with AliveBytes() as counted:
        found = _retrieval(towers, lambda texts: torch.randn(len(texts), 2), images, birds(tmp_path), QUICK)
    assert found.sizes == {"images": 400, "captions": 800} and counted.peak < 6 * 400 * 800


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_the_mean_recall_of_classes_is_scikit_learns_in_memory_linear_in_the_classes():
    """Classes without images, such as no image was taken for, one without number (-1), and one class alone."""
    generator = np.random.default_rng(0)
    for classes in (1, 2, 10, 300, 3000):
        target, predicted = generator.integers(-1, classes, (2, 2000))
        predicted = np.where(generator.random(2000) < 0.6, target, predicted)
        expected = balanced_accuracy_score(target, predicted)
        tracemalloc.start()
        assert mean_per_class_recall(torch.from_numpy(target), torch.from_numpy(predicted)) == expected
        assert tracemalloc.get_traced_memory()[1] < 400_000  # scikit-learn's: 8 * classes**2
        tracemalloc.stop()


def test_a_folder_that_was_made_anew_is_not_scored_from_the_store(model, tmp_path):
    webdataset(tmp_path / "sets" / "birds")
    store, local = tmp_path / "store", birds(tmp_path)
    assert score_set(load_model(str(model), "cpu"), local, QUICK, store)[1]
    assert not score_set(load_model(str(model), "cpu"), local, QUICK, store)[1]
    config = json.loads((model / "open_clip_config.json").read_text())
    for change in ({"preprocess_cfg": {"mean": [0.1] * 3}}, {"model_cfg": config["model_cfg"] | {"quick_gelu": True}}):
        (model / "open_clip_config.json").write_text(json.dumps(config | change))
        with pytest.raises(UsageError, match=r"architecture or preprocessing of .* have changed .*--again"):
            score_set(load_model(str(model), "cpu"), local, QUICK, store)
    assert score_set(load_model(str(model), "cpu"), local, QUICK, store, again=True)[1]


def test_one_worker_reads_one_shard_however_many_are_asked_for(model, tmp_path):
    webdataset(tmp_path / "sets" / "birds", shards=1)
    settings = EvalSettings(workers=3, progress_bars=False)
    score, _ = score_set(load_model(str(model), "cpu"), birds(tmp_path), settings, tmp_path / "store")
    assert score.meta["workers"] == 1


def checkpoint(run: Path, stem: str, **more) -> Path:
    path = run / "checkpoints" / f"{stem}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 1, **more, "name": "r", "state_dict": {"a": torch.zeros(1)}}, path)
    return path


def test_a_checkpoint_in_an_epochs_middle_has_a_name_of_its_own(tmp_path):
    run, scores = tmp_path / "logs" / "r", Scores(tmp_path / "store")
    whole, middle = checkpoint(run, "epoch_1"), checkpoint(run, "epoch_1_step_500", step=500)
    assert WeightSource((middle,)).description() == "the weights after epoch 1 and 500 steps"
    assert WeightSource((whole,)).description() == "the weights after epoch 1"
    names = {}
    for path in (whole, middle):
        folder = scores.model(f"r-{path.stem}", epoch=None, run=run, given=str(path))
        names[path] = folder
    for given, found in ((str(whole), whole), (str(middle), middle), (str(run), middle)):
        (row,) = read_rows([given], [], scores.folder)
        assert row.models[0].folder == names[found] and row.label == "r"


def test_a_checkpoint_that_was_written_over_is_not_compared_by_its_old_scores(tmp_path):
    run, scores = tmp_path / "logs" / "r", Scores(tmp_path / "store")
    latest = checkpoint(run, "epoch_latest", epoch=2)
    folder = scores.model("r", run=run, given=str(latest))
    for given in (str(latest), str(run)):
        assert read_rows([given], [], scores.folder)[0].models[0].folder == folder
    checkpoint(run, "epoch_latest", epoch=3)
    with pytest.raises(UsageError, match="r: is not scored as it is now"):
        read_rows([str(run)], [], scores.folder)
    with pytest.raises(UsageError, match=r"latest\.pt: no scores of this model"):
        read_rows([str(latest)], [], scores.folder)


def test_other_contents_of_a_set_are_told(tmp_path):
    scores = Scores(tmp_path / "store")
    for name, contents in (("a", "0" * 64), ("b", "0" * 64), ("c", "1" * 64)):
        about = scores.model(name) / "cifar10" / "meta.json"
        found = json.loads(about.read_text())
        about.write_text(json.dumps(found | {"set": found["set"] | {"contents": contents}}))
    told = unequal_evaluation(read_rows(["logs/a"], ["logs/b", "logs/c"], scores.folder))
    assert told == [f"Scored with different contents of the data: a, b: {'0' * 16}; c: {'1' * 16} (cifar10)."]


@pytest.mark.parametrize(
    ("workers", "accumulated", "expected"),
    [("0", "1", 67), ("1", "1", 67), ("6", "1", 72), ("1", "2", 33), ("4", "4", 17)],
)
def test_steps_are_those_of_open_clips_loader(tmp_path, workers, accumulated, expected):
    params = {"batch_size": "100", "train_num_samples": "6700", "workers": workers, "accum_freq": accumulated}
    scores = Scores(tmp_path / "store")
    scores.model("a", params=params, epoch=1)
    (row,) = read_rows(["logs/a"], [], scores.folder)
    assert steps(row.models[0]) == expected


def test_re_ranking_begins_with_cosines_in_float32():
    """In bfloat16 most of these would tie."""
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(1 + 0.02 * torch.randn(40, 16, generator=generator), dim=-1)
    texts = torch.nn.functional.normalize(images + 0.02 * torch.randn(40, 16, generator=generator), dim=-1)
    tokens = [torch.randn(3, 8, generator=generator) for _ in range(40)]
    encoded = EncodedSet(images, texts, torch.arange(40), tokens, [(each, 0) for each in tokens])
    torch.manual_seed(0)
    fusion = Fusion(FusionSizes(layers=1, width=64, image_width=8, text_width=8)).eval()
    found = []
    for amp in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
            outcome = _reranked(fusion, encoded, 10, EvalSettings(progress_bars=False), "x")
        found.append({name: value for name, value in outcome.samples.items() if name.startswith("itc_text")})
    assert all((found[0][name] == found[1][name]).all() for name in found[0])


def test_a_scale_may_be_a_number_and_features_that_mine_have_to_fit():
    torch.manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(*shape), dim=-1) for shape in ((4, 8), (4, 2, 8)))
    image.requires_grad_()
    by_number = FFFLoss()(image, text, 10.0, -8.0)
    by_number.backward()
    torch.testing.assert_close(by_number, FFFLoss()(image, text, torch.tensor(10.0), torch.tensor(-8.0)))
    loss = FFFLoss(mining=MiningConfig(p1=0.5, p2=None, p3=None))
    with pytest.raises(ValueError, match=r"mining_text_features is \[4, 1, 4\], not \[B, K, D'\] = \[4, 2, 4\]"):
        loss(image, text, 10.0, -8.0, mining_image_features=image[:, :4], mining_text_features=text[:, 0, :4])
    with pytest.raises(ValueError, match="mining_image_features is"):
        loss(image, text, 10.0, -8.0, mining_image_features=image[:, :4], mining_text_features=text)


def test_the_spread_over_seeds_is_that_of_a_sample(tmp_path):
    scores = Scores(tmp_path / "store")
    for seed in range(3):
        scores.model(f"a-{seed}", 0.5 + 0.05 * seed, params={"seed": str(seed), **CLIP}, seed=seed)
    alone = [cell(scores.table([f"logs/a-{n}"], []), f"a-{n}", "cifar10").mean for n in range(3)]
    found = cell(scores.table(["a=logs/a-0,logs/a-1,logs/a-2"], []), "a", "cifar10")
    assert found.spread == pytest.approx(np.std(alone, ddof=1)) and found.mean == pytest.approx(np.mean(alone))


def test_intervals_are_of_95_percent(tmp_path):
    scores = Scores(tmp_path / "store")
    scores.model("a", 0.5), scores.model("b", 0.55)
    table, rows = scores.table(["logs/a"], ["logs/b"]), read_rows(["logs/a"], ["logs/b"], scores.folder)
    (column,) = [column for column in table.columns if column.key[1] == "cifar10"]
    found = estimate(rows, [column], 300).found
    theirs, ours = (found[row.models[0], column].draws for row in rows)
    change = cell(table, "b", "cifar10").changes["a"]
    assert (change.low, change.high) == pytest.approx(tuple(np.percentile(ours - theirs, (2.5, 97.5))))


@pytest.mark.parametrize(
    ("task", "metric", "figure"),
    [
        ("zeroshot_classification", "mean_per_class_recall", 0.5),
        ("zeroshot_classification", "acc1", 0.75),
        ("zeroshot_retrieval", "image_retrieval_recall@1", 0.5),
    ],
)
def test_a_figure_by_hand(task, metric, figure):
    """Three images of one class and one of another, all taken for the first; three captions of one image, two found."""
    classes = {"target": np.array([0, 0, 0, 1]), "predicted": np.array([0, 0, 0, 0])}
    texts = {"image_of_text": np.array([0, 0, 0, 1]), metric: np.array([True, True, False, False])}
    samples, images = (texts, 2) if task.endswith("retrieval") else (classes, 4)
    score = Score({"metrics": {}}, {"set": {"task": task, "name": "x", "images": images}}, samples)
    hits, trials, group = hits_of(score, Column(OTHER, (task, "x"), "x", metric))
    assert figures(HitCounts(hits[:, None], trials, group))[0] == pytest.approx(figure)


def test_a_stored_figure_that_its_samples_do_not_give_is_told(tmp_path):
    scores = Scores(tmp_path / "store")
    folder = scores.model("a", 0.5, ["cifar10", "pets", "flickr30k"])
    assert scores.table(["logs/a"], []).contradicted == ()
    file = folder / "cifar10" / "result.json"
    result = json.loads(file.read_text())
    result["metrics"]["acc1"] += 0.01
    file.write_text(json.dumps(result))
    (line,) = scores.table(["logs/a"], []).contradicted
    assert "cifar10: acc1 is" in line
