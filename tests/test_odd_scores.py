"""Scores and comparisons where logits tie, models are made anew in place, or checkpoints are of an epoch's middle."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from open_clip_fff import FFFLoss, MiningConfig
from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.benchmark import EvalSettings, evaluate
from open_clip_fff.evaluation.compare.columns import OTHER, Column, hits_of
from open_clip_fff.evaluation.compare.rows import read_rows
from open_clip_fff.evaluation.compare.warnings import steps, unequal_evaluation
from open_clip_fff.evaluation.layouts import find_sets
from open_clip_fff.evaluation.rerank import EncodedSet, _reranked
from open_clip_fff.evaluation.scoring import score_set
from open_clip_fff.evaluation.store import Score
from open_clip_fff.hub.loading import load_model
from open_clip_fff.hub.weight_source import WeightSource
from open_clip_fff.models.fusion import Fusion, FusionSizes
from tests.eval_sets import put, webdataset
from tests.test_comparison import Scores

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


def test_where_classes_tie_each_figure_has_its_own_samples(model, tmp_path):
    """Of ten classes with one name, clip-benchmark's two figures take different ones."""
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
