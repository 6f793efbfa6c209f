"""Scores: the paper's 13 sets in both layouts, clip-benchmark's figures, the store, the linear probe."""

import importlib.metadata
import json
import shutil
import sys
import tarfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

import open_clip_fff
from open_clip_fff import UsageError
from open_clip_fff.config.zero_shot import ZeroShotSettings
from open_clip_fff.evaluation.benchmark import EvalSettings, accuracy, evaluate
from open_clip_fff.evaluation.compare.rows import ScoreStore
from open_clip_fff.evaluation.layouts import find_set, find_sets
from open_clip_fff.evaluation.probe import NO_SPLIT, ProbeSettings, draw_shots, probe, training_split
from open_clip_fff.evaluation.protocol import PROTOCOL, RETRIEVAL
from open_clip_fff.evaluation.scoring import Evaluation, score_set
from open_clip_fff.evaluation.store import read_score
from open_clip_fff.host.zero_shot import find_zero_shot_sets
from open_clip_fff.hub.description import describe_model
from open_clip_fff.hub.folder import write_hub_folder
from open_clip_fff.hub.loading import LoadedModel, load_model
from tests import programs
from tests.conftest import open_clip_loads
from tests.eval_sets import IMAGES, TORCHVISION, webdataset

EVAL = Path(__file__).parent.parent / "eval"
QUICK = EvalSettings(batch_size=3, workers=0, progress_bars=False)


@pytest.fixture(scope="module")
def folder(tiny_name, tmp_path_factory) -> Path:
    """A hub-format folder of a tiny model with a bias."""
    torch.manual_seed(3)
    options = {"init_logit_bias": -10.0}
    model = open_clip.create_model(tiny_name, **options)
    out = tmp_path_factory.mktemp("model") / "tiny"
    write_hub_folder(describe_model(tiny_name, model, options), model.state_dict(), out, open_clip_loads)
    return out


SLOW = {"imagenet1k": pytest.mark.slow}  # 80,000 prompts


@pytest.fixture(scope="module")
def loaded(folder) -> LoadedModel:
    return load_model(str(folder))


@pytest.mark.parametrize("layout", ["webdataset", "torchvision"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in PROTOCOL])
def test_every_set_of_the_paper_in_both_layouts(name, layout, loaded, tmp_path, monkeypatch):
    spec = PROTOCOL[name]
    root = tmp_path / name
    root.mkdir()
    if layout == "webdataset":
        webdataset(root, retrieval=spec.task == RETRIEVAL)
    else:
        TORCHVISION[name](root, monkeypatch)
    at = find_set(name, tmp_path)
    assert at is not None and at.layout == layout and at.spec is spec
    score, new = score_set(loaded, at, QUICK, tmp_path / "store")
    assert new and score.meta["set"]["images"] == IMAGES
    samples, metrics = score.samples, score.metrics
    if spec.task == RETRIEVAL:
        assert score.meta["set"]["captions"] == 2 * IMAGES
        assert {name for name in samples if "@" in name} == set(metrics) and len(metrics) == 6
        for recall, value in metrics.items():
            assert value == pytest.approx(samples[recall].mean(), abs=1e-6)
        assert samples["image_of_text"].tolist() == [row for row in range(IMAGES) for _ in range(2)]
    else:
        hits = samples["target"] == samples["predicted"]
        assert metrics["acc1"] == hits.mean()
        by_class = [hits[samples["target"] == label].mean() for label in np.unique(samples["target"])]
        assert metrics["mean_per_class_recall"] == pytest.approx(np.mean(by_class))
        assert spec.metric in metrics


def test_the_hubs_folder_names_and_a_root_that_is_the_set(loaded, tmp_path):
    webdataset(tmp_path / "wds_vtab-pets")
    webdataset(tmp_path / "cifar10")
    assert find_set("pets", tmp_path).dataset == "wds/pets"
    assert find_set("cifar10", tmp_path / "cifar10").root == tmp_path / "cifar10"
    webdataset(tmp_path / "my-own", retrieval=True)
    found, missing = find_sets(["all"], tmp_path)
    assert [at.spec.name for at in found] == ["my-own", "cifar10", "pets"] and len(missing) == 11
    assert found[0].spec.task == RETRIEVAL


def test_braces_and_colons_in_a_folders_name_are_no_pattern(loaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("s{a,b}::[1] 'x' %d ü")
    webdataset(folder / "cifar10")
    score, _ = score_set(loaded, find_set("cifar10", folder), QUICK, tmp_path / "store")
    assert score.meta["set"]["images"] == IMAGES


@pytest.mark.slow
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("retrieval", [False, True])
def test_the_same_figures_as_clip_benchmarks_command_line(loaded, folder, tmp_path, amp, retrieval):
    name = "flickr8k" if retrieval else "cifar10"
    root = webdataset(tmp_path / name, retrieval=retrieval, images=40)
    command = [Path(sys.executable).with_name("clip_benchmark"), "eval", "--model", f"local-dir:{folder}"]
    command += ["--dataset", f"wds/{name}", "--dataset_root", root, "--num_workers", "1", "--recall_k", "1", "5", "10"]
    command += ["--batch_size", "16", "--output", tmp_path / "cb.json", *([] if amp else ["--no_amp"])]
    done = programs.run(*command)
    assert done.returncode == 0, done
    theirs = json.loads((tmp_path / "cb.json").read_text())
    score, _ = score_set(
        loaded,
        find_set(name, tmp_path),
        EvalSettings(amp=amp, batch_size=16, workers=1, progress_bars=False),
        tmp_path / "s",
    )
    ours = json.loads(json.dumps(score.result["metrics"]))
    assert {key: None if value != value else value for key, value in theirs["metrics"].items()} == {
        key: None if value != value else value for key, value in ours.items()
    }
    assert set(theirs) == set(score.result) and theirs["task"] == score.result["task"]


def test_the_package_may_be_on_the_path_and_not_installed(loaded, tmp_path, monkeypatch):
    version = importlib.metadata.version

    def installed(name: str) -> str:
        if name == "open_clip_fff":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", installed)
    webdataset(tmp_path / "cifar10")
    score, _ = score_set(loaded, find_set("cifar10", tmp_path), QUICK, tmp_path / "store")
    assert score.meta["versions"]["open_clip_fff"] == open_clip_fff.__version__


def test_fewer_images_than_k_and_fewer_classes_than_five(loaded, tmp_path):
    webdataset(tmp_path / "few", retrieval=True, images=4)
    outcome = evaluate(loaded.model, loaded.preprocess, loaded.tokenizer, find_set("few", tmp_path), QUICK)
    assert outcome.metrics["image_retrieval_recall@5"] == outcome.metrics["image_retrieval_recall@10"] == 1.0
    webdataset(tmp_path / "cifar10")
    score, _ = score_set(loaded, find_set("cifar10", tmp_path), QUICK, tmp_path / "store")
    stored = next((tmp_path / "store").glob("*/cifar10/result.json")).read_text()
    assert json.loads(stored)["metrics"]["acc5"] is None and np.isnan(score.metrics["acc5"])


def test_our_accuracy_is_theirs():
    torch.manual_seed(0)
    logits, target = torch.randn(301, 7), torch.randint(7, (301,))
    top1, top5 = accuracy(logits, target, (1, 5))
    assert top1 == (logits.argmax(1) == target).double().mean().item()
    ranks = (logits > logits.gather(1, target[:, None])).sum(1)
    assert top5 == (ranks < 5).double().mean().item()


@pytest.mark.slow
def test_a_checkpoint_its_run_and_its_export_share_their_scores(trainer, tmp_path, export_here):
    flags = ["--method", "fff", "--captions-per-image", "4", "--json-text-key", "captions", "--mining-features", "off"]
    assert trainer(*flags, "--name", "run") == 0
    export_here(trainer.run("run"), tmp_path / "model")
    checkpoint = trainer.run("run") / "checkpoints" / "epoch_1.pt"
    given = [trainer.run("run"), checkpoint, tmp_path / "model", f"local-dir:{tmp_path / 'model'}"]
    models = [load_model(str(each)) for each in given]
    assert len({each.weights for each in models}) == 1
    assert [each.name for each in models] == ["run-epoch_1", "run-epoch_1", "model", "model"]
    webdataset(tmp_path / "cifar10")
    at = find_set("cifar10", tmp_path)
    assert [score_set(each, at, QUICK, tmp_path / "store")[1] for each in models] == [True, False, True, False]
    first, second = [read_score(path) for path in (tmp_path / "store").glob("*/cifar10")]
    assert first.metrics["acc1"] == second.metrics["acc1"]
    run = first if first.meta["model"]["run"] else second
    assert run.meta["model"]["params"]["captions_per_image"] == "4" and run.meta["model"]["epoch"] == 1


@pytest.mark.slow
def test_the_program_resumes_and_names_what_is_missing(program, folder, tmp_path):
    webdataset(tmp_path / "data" / "cifar10")
    webdataset(tmp_path / "data" / "flickr30k", retrieval=True)
    common = [folder, "--data-root", tmp_path / "data", "--store", tmp_path / "store"]
    first = programs.run(EVAL / "zero_shot.py", *common)
    assert first.returncode == 0, first
    assert "1 of the paper's 11" in first.stdout and "clip-benchmark/wds_imagenet1k" in first.stdout
    assert "R@1/5/10" in first.stdout and "from the store" not in first.stdout
    assert " captions (papers: 1,000 images with 5 captions each)" in first.stdout
    assert "Image → text counts the images with any own caption among the first k" in first.stdout
    again = program("zero_shot", *common)
    assert again.out.count("from the store") == 2
    shutil.rmtree(next((tmp_path / "store").glob("*/cifar10")))
    assert program("zero_shot", *common).out.count("from the store") == 1
    built = [Path(sys.executable).with_name("clip_benchmark"), "build", *(tmp_path / "store").glob("*/*/result.json")]
    assert programs.run(*built, "--output", tmp_path / "all.csv").returncode == 0
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 3


def test_mistakes_and_damage_cost_one_line_and_nothing_else(program, folder, tmp_path):
    data = tmp_path / "data"
    webdataset(data / "cifar10")
    webdataset(data / "pets")
    tar = data / "pets" / "test" / "1.tar"
    tar.write_bytes(tar.read_bytes()[:3000])  # cut in the middle
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    (half / "open_clip_model.safetensors").write_bytes(b"half")
    common = ["--data-root", data, "--store", tmp_path / "store"]
    done = program("zero_shot", half, folder, *common, expect=1)
    errors = [line.strip() for line in done.err.splitlines() if "error:" in line]
    assert len(errors) == 2 and str(half) in errors[0] and "pets" in errors[1], done.err
    assert "acc1" in done.out and len(list((tmp_path / "store").glob("*/*/meta.json"))) == 1
    for arguments, named in (
        ([folder, *common, "--datasets", "ciphar10"], "--datasets ciphar10"),
        ([folder, *common, "--datasets", "dtd"], "--datasets dtd"),
        ([tmp_path / "nothing", *common], str(tmp_path / "nothing")),
        ([folder, "--data-root", tmp_path / "no"], "--data-root"),
        ([folder, *common, "--batch-size", "0"], "--batch-size 0"),
        ([folder, *common, "--model-config", tmp_path / "no.json"], "--model-config"),
    ):
        done = program("zero_shot", *arguments, expect=2)
        assert len(done.err.strip().splitlines()) == 1 and named in done.err, done.err


def test_classes_with_one_name_are_told_once(program, folder, tmp_path, capsys):
    for name in ("mine", "cifar10"):  # of the paper's sets ImageNet has such, too
        (webdataset(tmp_path / "data" / name) / "classnames.txt").write_text("red\nRed\nblue\nyellow\n")
    done = program("zero_shot", folder, "--data-root", tmp_path / "data", "--store", tmp_path / "store")
    says = "mine/classnames.txt: several classes have the same name, and no model can tell them apart: red"
    assert says in done.out and done.out.count("same name") == 1 and done.out.count("acc1") == 2
    find_zero_shot_sets(ZeroShotSettings(str(tmp_path / "data"), ("all",)))
    assert f"warning: {tmp_path / 'data'}/{says}" in capsys.readouterr().out


def test_another_precision_is_not_taken_from_the_store(loaded, tmp_path):
    webdataset(tmp_path / "cifar10")
    at = find_set("cifar10", tmp_path)
    score_set(loaded, at, QUICK, tmp_path / "store")
    with pytest.raises(UsageError, match="precision fp32, not amp: --again"):
        score_set(loaded, at, EvalSettings(amp=True, progress_bars=False), tmp_path / "store")
    assert score_set(
        loaded, at, EvalSettings(amp=True, workers=0, progress_bars=False), tmp_path / "store", again=True
    )[1]


def test_a_store_that_cannot_be_written_is_refused_before_the_work(loaded, tmp_path):
    webdataset(tmp_path / "cifar10")
    with pytest.raises(UsageError, match="--store /proc: cannot be written"):
        score_set(loaded, find_set("cifar10", tmp_path), QUICK, Path("/proc"), way=Evaluation(lambda *_: pytest.fail()))


def test_a_set_that_changed_is_not_taken_from_the_store(loaded, tmp_path):
    folder = webdataset(tmp_path / "cifar10")
    at = find_set("cifar10", tmp_path)
    assert (
        score_set(loaded, at, QUICK, tmp_path / "store")[1] and not score_set(loaded, at, QUICK, tmp_path / "store")[1]
    )
    names = folder / "classnames.txt"
    names.write_text(names.read_text().splitlines()[0])
    with pytest.raises(UsageError, match="has changed since it was scored; --again"):
        score_set(loaded, at, QUICK, tmp_path / "store")
    with pytest.raises(UsageError, match=r"an image has the class .* of 1 class with a name"):
        score_set(loaded, at, QUICK, tmp_path / "store", again=True)
    (folder / "zeroshot_classification_templates.txt").write_text("")
    with pytest.raises(UsageError, match="holds no template"):
        score_set(loaded, at, QUICK, tmp_path / "store", again=True)


def test_labels_that_changed_in_tars_of_equal_size_are_seen(loaded, tmp_path):
    folder = webdataset(tmp_path / "cifar10")
    at, store = find_set("cifar10", tmp_path), tmp_path / "store"
    score_set(loaded, at, QUICK, store)
    meta = next(store.glob("*/cifar10/meta.json"))
    older = json.loads(meta.read_text())
    older["set"]["contents"] = older["set"]["contents"][:16]
    meta.write_text(json.dumps(older))  # as it was written before there was a second half
    assert not score_set(loaded, at, QUICK, store)[1]
    score_set(loaded, at, QUICK, store, again=True)
    tar = folder / "test" / "0.tar"
    content = tar.read_bytes()
    with tarfile.open(tar) as members:
        at_label = next(member.offset_data for member in members if member.name.endswith(".cls"))
    tar.write_bytes(content[:at_label] + b"3" + content[at_label + 1 :])
    with pytest.raises(UsageError, match="has changed since it was scored; --again"):
        score_set(loaded, at, QUICK, store)


def test_a_probe_of_other_training_images_is_not_taken_from_the_store(program, folder, tmp_path):
    webdataset(tmp_path / "sets" / "cifar10")
    webdataset(tmp_path / "sets" / "cifar10", split="train", images=16)
    common = [folder, "--data-root", tmp_path / "sets", "--store", tmp_path / "store", "--workers", "0"]
    common += ["--datasets", "cifar10"]
    assert "16 images to fit" in program("linear_probe", *common).out
    done = program("linear_probe", *common, "--shots", "1", expect=1)
    assert "scored with shots -1, not 1: --again" in done.err
    meta = next((tmp_path / "store").glob("*/*/meta.json"))
    older = json.loads(meta.read_text())
    del older["conditions"]
    meta.write_text(json.dumps(older))  # older scores know the shots by their metrics
    assert "seed 0, not 3" in program("linear_probe", *common, "--seed", "3", expect=1).err
    assert "4 images to fit" in program("linear_probe", *common, "--shots", "1", "--again").out
    shutil.rmtree(tmp_path / "sets" / "cifar10" / "train")
    webdataset(tmp_path / "sets" / "cifar10", split="train", images=12)
    assert "training images" in program("linear_probe", *common, "--shots", "1", expect=1).err


def test_a_model_that_was_moved_is_found_by_its_new_name(folder, tmp_path, monkeypatch):
    """And not by the name that it has in its own folder, where another model has that name."""
    webdataset(tmp_path / "cifar10")
    webdataset(tmp_path / "pets")
    (tmp_path / "a").mkdir()
    before, after = shutil.copytree(folder, tmp_path / "a" / "tiny"), tmp_path / "b" / "tiny"
    for name in ("cifar10", "pets"):
        assert score_set(load_model(str(before)), find_set(name, tmp_path), QUICK, tmp_path / "store")[1]
    after.parent.mkdir()
    before.rename(after)
    monkeypatch.chdir(after.parent)
    assert not score_set(load_model("tiny"), find_set("pets", tmp_path), QUICK, tmp_path / "store")[1]
    assert ScoreStore(tmp_path / "store").find(str(after)).given == "tiny"
    before.mkdir()
    monkeypatch.chdir(before.parent)
    with pytest.raises(UsageError, match="tiny: no scores of this model"):
        ScoreStore(tmp_path / "store").find("tiny")


def test_a_set_that_is_there_in_part(tmp_path):
    folder = webdataset(tmp_path / "cifar10")
    (folder / "test" / "1.tar").unlink()
    with pytest.raises(UsageError, match=r"1\.tar: missing"):
        find_set("cifar10", tmp_path)


@pytest.mark.parametrize("layout", ["webdataset", "torchvision"])
def test_a_linear_probe_learns_colours(layout, loaded, tmp_path, monkeypatch):
    name = "cifar100"
    if layout == "webdataset":
        webdataset(tmp_path / name)
        webdataset(tmp_path / name, split="train", images=40)
    else:
        TORCHVISION[name](tmp_path / name, monkeypatch)
    at = find_set(name, tmp_path)
    fit = partial(probe, train=training_split(at), probing=ProbeSettings())
    score, _ = score_set(loaded, at, QUICK, tmp_path / "s", way=Evaluation(fit, "linear_probe"))
    assert score.metrics["lp_acc1"] == (score.samples["target"] == score.samples["predicted"]).mean() > 0.9
    assert next((tmp_path / "s").glob(f"*/{name}_linear_probe")).is_dir()


def test_scikit_learns_warnings_do_not_reach_the_terminal(loaded, tmp_path):
    """A regression that stops early, and classes that no image was taken for; the probe's line reports the first."""
    webdataset(tmp_path / "cifar100")
    webdataset(tmp_path / "cifar100", split="train", images=40)
    at = find_set("cifar100", tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome = probe(loaded, at, QUICK, train=training_split(at), probing=ProbeSettings(max_iter=1))
        evaluate(loaded.model, loaded.preprocess, loaded.tokenizer, at, QUICK)
    assert outcome.metrics["converged"] is False
    assert not [warning for warning in caught if "sklearn" in str(warning.filename)]


def test_a_linear_probe_needs_training_images(tmp_path, monkeypatch):
    webdataset(tmp_path / "cifar10")
    with pytest.raises(UsageError, match=r"no train/nshards\.txt"):
        training_split(find_set("cifar10", tmp_path))
    webdataset(tmp_path / "flickr30k", retrieval=True)
    with pytest.raises(UsageError, match="one class per image"):
        training_split(find_set("flickr30k", tmp_path))
    for name in NO_SPLIT:
        (tmp_path / name).mkdir()
        TORCHVISION[name](tmp_path / name, monkeypatch)
        with pytest.raises(UsageError, match="has no split"):
            training_split(find_set(name, tmp_path))


def test_a_few_shots_are_drawn_once():
    labels = np.repeat([0, 1, 2], [5, 9, 4])
    rows = draw_shots(labels, 3, seed=1)
    assert np.bincount(labels[rows]).tolist() == [3, 3, 3] and len(set(rows)) == 9
    assert (rows == draw_shots(labels, 3, seed=1)).all()
    with pytest.raises(UsageError, match="--shots 5: class 2 has 4"):
        draw_shots(labels, 5, seed=1)
