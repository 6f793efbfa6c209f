"""Retrieval re-ranked by a fusion model: against every pair scored by itself, and in the comparison's table."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from open_clip_fff.cli import main
from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation import rerank as rerank_module
from open_clip_fff.evaluation.benchmark import EvalSettings
from open_clip_fff.evaluation.layouts import find_sets
from open_clip_fff.evaluation.rerank import EncodedSet, _reranked, rerank
from open_clip_fff.hub.fusion_files import read_fusion
from open_clip_fff.hub.loading import load_model
from open_clip_fff.matching.fusion import load_fused
from open_clip_fff.models.fusion import Fusion, FusionSizes
from tests.conftest import write_tar
from tests.eval_sets import NAMES, jpeg, put

pytestmark = pytest.mark.slow  # a training


def texts_of(row: int) -> tuple[str, str]:
    """No two images have the same, whose order would be that of rounding."""
    return f"a {NAMES[row % 4]} square, {row}", f"{NAMES[row % 4]} {row} all over"


@pytest.fixture
def exported(trainer, tmp_path, export_here):
    argv = ["--method", "albef", "--fusion-layers", "1", "--lr", "0.01", "--epochs", "2", "--name", "albef"]
    assert trainer(*argv, "--json-text-key", "captions", "--text-key", "") == 0
    export_here(trainer.run("albef"), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def retrieval(tmp_path):
    """24 images with two captions each, of different lengths."""
    rows = {f"s{row:04d}": {"jpg": jpeg(row), "txt": "\n".join(texts_of(row)).encode()} for row in range(24)}
    folder = tmp_path / "data" / "flickr8k"
    (folder / "test").mkdir(parents=True)
    write_tar(folder / "test" / "0.tar", rows)
    put(folder / "test" / "nshards.txt", "1")
    put(folder / "dataset_type.txt", "retrieval")
    return folder


def test_recalls_are_those_of_every_pair_scored_by_itself(exported, retrieval):
    loaded = load_model(str(exported), "cpu")
    (local,), _ = find_sets(["flickr8k"], retrieval.parent)
    settings = EvalSettings(batch_size=5, workers=0, progress_bars=False)
    outcome = rerank(loaded, local, settings, candidates=12)
    fused = load_fused(str(exported), "--discriminator")
    import io

    images = torch.stack([loaded.preprocess(Image.open(io.BytesIO(jpeg(row)))) for row in range(24)])
    texts = [text for row in range(24) for text in texts_of(row)]
    owner = torch.arange(24).repeat_interleave(2)
    with torch.no_grad():
        tokens, mask = fused.tokens(texts)
        states = fused.encode(images)
        itm = torch.stack([fused.match(state.expand(48, -1, -1), tokens, mask)[:, 1] for state in states])
        of_images = F.normalize(loaded.model.encode_image(images), dim=-1)
        itc = of_images @ F.normalize(loaded.model.encode_text(tokens), dim=-1).T
    assert outcome.sizes == {"images": 24, "captions": 48} and outcome.metrics["candidates"] == 12
    for way, cosines, logits, right in (
        ("text_retrieval_recall", itc, itm, owner == torch.arange(24)[:, None]),
        ("image_retrieval_recall", itc.T, itm.T, (owner == torch.arange(24)[:, None]).T),
    ):
        for order, score in (("itc_", cosines), ("itm_", logits), ("itc_itm_", cosines + logits)):
            for k in (1, 5, 10):
                hits = []
                for row in range(len(cosines)):
                    near = cosines[row].argsort(descending=True, stable=True)[:12]
                    best = near[score[row, near].argsort(descending=True, stable=True)][:k]
                    hits.append(bool(right[row, best].any()))
                assert outcome.samples[f"{order}{way}@{k}"].tolist() == hits, (order, way, k)
                assert outcome.metrics[f"{order}{way}@{k}"] == pytest.approx(sum(hits) / len(hits))
        order = cosines.argsort(dim=1, descending=True, stable=True)[:, :12]
        scored, matches = logits.gather(1, order).flatten(), right.gather(1, order).flatten()
        wins = (scored[matches][:, None] > scored[~matches]).double().mean()
        assert outcome.metrics[f"{way}_auc"] == pytest.approx(wins.item(), abs=0.02)
        near = [cosines[row].argsort(descending=True, stable=True)[:12] for row in range(len(cosines))]
        ceiling = sum(bool(right[row, places].any()) for row, places in enumerate(near)) / len(cosines)
        assert outcome.metrics[f"{way}_ceiling"] == pytest.approx(ceiling)


@torch.no_grad()
@pytest.mark.parametrize("area", [1, 120, rerank_module.AREA])  # rows that are sorted at a time: 1, 3, all
def test_where_cosines_tie_itc_does_not_depend_on_the_candidates(area, monkeypatch):
    """Four features for 40 images: the first of equals come first, however many are re-ranked."""
    monkeypatch.setattr(rerank_module, "AREA", area)
    torch.manual_seed(0)
    features, owner = torch.eye(4)[torch.arange(40) % 4], torch.arange(40)
    tokens = [torch.randn(3, 8) for _ in range(40)]
    encoded = EncodedSet(features, features, owner, tokens, [(x, 0) for x in tokens])
    fusion, settings = Fusion(FusionSizes(1, 8, 8, 8)), EvalSettings(progress_bars=False)
    found = [_reranked(fusion, encoded, candidates, settings, "ties").samples for candidates in (10, 17, 40)]
    for name in (name for name in found[0] if name.startswith("itc_") and not name.startswith("itc_itm")):
        first = owner // 4 < int(name.rpartition("@")[2])  # of the ten with its feature
        assert all(each[name].tolist() == first.tolist() for each in found), name


def test_the_command_and_the_comparison(exported, retrieval, trainer, tmp_path, capsys):
    argv = ["--data-root", str(retrieval.parent), "--store", str(tmp_path / "store"), "--workers", "0"]
    assert main(["score", str(exported), *argv, "--rerank", "12"]) == 0
    printed = capsys.readouterr().out
    assert (
        "ITC: image to text R@1/5/10" in printed
        and "\n    ITC+ITM: image to text" in printed
        and "right ones are among" in printed
    )
    assert main(["score", str(exported), *argv]) == 0
    assert main(["score", str(exported), *argv, "--rerank", "12"]) == 0
    assert "(from the store)" in capsys.readouterr().out
    assert main(["score", str(exported), *argv, "--rerank", "24"]) == 0
    assert "(from the store)" not in capsys.readouterr().out
    weights = load_file(exported / "fusion.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, exported / "fusion.safetensors")
    assert main(["score", str(exported), *argv, "--rerank", "24"]) == 1  # of the same towers
    assert "was scored with fusion model " in (error := capsys.readouterr().err) and "--again" in error
    out = tmp_path / "table"
    assert main(["compare", "--store", str(tmp_path / "store"), "--baseline", str(exported), "--out", str(out)]) == 0
    table = (out / "table.md").read_text()
    assert "12 re-ranked" in table and "24 re-ranked" in table and "R@1, ITC+ITM" in table


def test_mistakes_are_answered(exported, retrieval, trainer, tmp_path, capsys):
    argv = ["--data-root", str(retrieval.parent), "--store", str(tmp_path / "store"), "--workers", "0"]
    assert main(["score", str(exported), *argv, "--rerank", "9"]) == 2
    assert "--rerank 9: recalls are up to the 10th; raise it" in capsys.readouterr().err
    (exported / "fusion.json").unlink()
    assert main(["score", str(exported), *argv, "--rerank", "10"]) == 1
    assert "holds no fusion model" in capsys.readouterr().err


def test_a_fusion_model_that_is_not_beside_its_checkpoint_is_told(exported, trainer, tmp_path, export_here):
    checkpoints = trainer.run("albef") / "checkpoints"
    (checkpoints / "epoch_2.extra").unlink()
    for given in (checkpoints.parent, checkpoints / "epoch_2.pt"):
        with pytest.raises(UsageError, match=r"epoch_2\.pt: has no fusion model beside it \(epoch_2\.extra\)"):
            read_fusion(given)
    notes = export_here(checkpoints.parent, tmp_path / "without").notes
    assert "the fusion model is left out: it is not beside" in notes[-1] and "epoch_2.extra" in notes[-1]
    shutil.copy(checkpoints / "epoch_2.pt", tmp_path / "alone.pt")
    with pytest.raises(UsageError, match=r"alone\.pt: has no fusion model beside it"):
        read_fusion(tmp_path / "alone.pt")
    (checkpoints.parent / "params.txt").write_text("model: x\nfusion_layers: 0\n")
    with pytest.raises(UsageError, match="was trained without a fusion model"):
        read_fusion(checkpoints.parent)
