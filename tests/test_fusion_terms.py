"""A fusion model with one term alone, with features that are not finite, with a tokenizer that pads otherwise."""
# ruff: noqa: F811

import json
import shutil
from argparse import Namespace
from dataclasses import asdict

import open_clip
import pytest
import torch
import torch.nn.functional as F

from open_clip_fff.config.fusion import FusionSettings
from open_clip_fff.errors import UsageError
from open_clip_fff.host.fusion import add_fusion
from open_clip_fff.hub.fusion_files import SavedFusion, write_fusion
from open_clip_fff.mining.hardest import drawn_negatives
from tests.conftest import TINY
from tests.test_fusion import TEXTS, batch, bert_name, prepared, start  # noqa: F401  # a fixture is among them

ARGS = Namespace(rank=0, world_size=1, device="cpu", cache_dir=None, force_context_length=None)


def test_one_term_alone(bert_name, tmp_path):
    """A model trained with both is fine-tuned by ITM alone; what the loss does not reach is fixed, as DDP wants it."""

    def made(**options):
        model = prepared(bert_name)
        return model, add_fusion(model, bert_name, FusionSettings(1, **options), set(), ARGS)

    both = made()[1].network
    write_fusion(SavedFusion(asdict(both.sizes), both.state_dict()), tmp_path)
    (tmp_path / "alone").mkdir()
    matching_alone = made(mlm_weight=0.0)[1].network
    write_fusion(SavedFusion(asdict(matching_alone.sizes), matching_alone.state_dict()), tmp_path / "alone")
    with pytest.raises(UsageError, match=r"--fusion-pretrained .*alone: .* no head for it; use --mlm-weight 0"):
        made(pretrained=str(tmp_path / "alone"))
    captions = batch(bert_name, TEXTS)
    for term, options in (("itm", {"mlm_weight": 0.0}), ("mlm", {"itm_weight": 0.0})):
        model, loss = made(pretrained=str(tmp_path), **options)
        found = loss.network.state_dict()
        assert all(torch.equal(weight, both.state_dict()[name]) for name, weight in found.items())
        assert any("mlm" in name for name in found) == (term == "mlm")
        out = model(torch.randn(3, 3, *model.visual.image_size), captions)
        terms = loss(**out)
        assert list(terms) == [f"{term}_loss"]
        terms[f"{term}_loss"].backward()
        assert all((p.grad is not None) == p.requires_grad for p in loss.network.parameters())


def test_drawn_negatives_of_features_that_are_not_finite():
    """The loss is not finite, either, and the step counts as such a one; multinomial alone would end the process."""
    image, text = (F.normalize(torch.randn(shape), dim=-1) for shape in ((3, 4), (3, 2, 4)))
    image[2] = torch.nan
    found = drawn_negatives(image, text, torch.tensor(3.0), torch.arange(3), torch.ones(3, 2, dtype=torch.bool))
    assert found.caption[2] == -1 and (found.caption[:2] >= 0).all()
    assert (found.image[:2] == -1).all() and (found.image[2] >= 0).all()


def test_a_tokenizer_with_another_padding_is_refused(trainer, bert_clip, tmp_path, capsys):
    folder = tmp_path / "bert"
    shutil.copytree(bert_clip.parent, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": config["pad_token_id"] - 1}))
    text = {**json.loads(bert_clip.read_text())["text_cfg"], "hf_model_name": str(folder)}
    (folder / "other-padding.json").write_text(json.dumps({**TINY, "text_cfg": text}))
    open_clip.add_model_config(folder / "other-padding.json")
    argv = start("other-padding", folder / "other-padding.json", tmp_path)
    assert trainer("--method", "albef", "--fusion-layers", "1", "--name", "refused", *argv) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    padding = config["pad_token_id"]
    assert f"pads with token {padding}, and its text tower leaves out token {padding - 1} as padding" in said


def test_a_mask_token_that_the_text_tower_lacks_is_refused(bert_name):
    model, mask = prepared(bert_name), open_clip.get_tokenizer(bert_name).tokenizer.mask_token_id
    model.text.transformer.set_input_embeddings(torch.nn.Embedding(mask, 32))
    with pytest.raises(UsageError, match=rf"mask token is {mask}, and its text tower knows {mask} .*--mlm-weight 0"):
        add_fusion(model, bert_name, FusionSettings(1), set(), ARGS)
    add_fusion(model, bert_name, FusionSettings(1, mlm_weight=0.0), set(), ARGS)


def test_a_folder_without_a_fusion_model_is_named_with_its_flag(trainer, capsys):
    argv = ["--method", "albef", "--fusion-layers", "1", "--fusion-pretrained", "open_clip_fff", "--name", "x"]
    assert trainer(*argv) == 2
    assert "error: --fusion-pretrained open_clip_fff: holds no fusion model" in capsys.readouterr().err
