"""A user's own hook, loss or discriminator with a mistake in it is named, and one that moves captions has a way to."""

import open_clip
import pytest
import torch
from torch.nn.functional import normalize

from tests import recorder
from tests.test_training import FFF, mining

PARTS = ["--plugin", "tests.own_parts", "--plugin", "tests.recorder", "--name", "x", "--logit-bias-init", "-10"]


def refused(trainer, capsys, *argv: str) -> str:
    assert trainer(*argv, *PARTS) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("hook", "says"),
    {
        "moved": "Hook put captions in other places, and left mining_text_features in theirs; captions.picking(",
        "two-moved": "Hook put captions in other places, and left mining_text_features in theirs",
        "fewer-tokens": "Hook gave tokens, valid and raw of 2 shapes [B, K]; captions.picking(positions) takes",
        "counting": "Hook gave count int: it is a tensor whose dimension 0 stays B = 16",
        "half": "Hook gave ids [8]: it is a tensor whose dimension 0 stays B = 16",
        "forgetful": "Forgetful returned NoneType: a hook returns a Batch",
    }.items(),
)
def test_a_hook_with_a_mistake(trainer, teacher, capsys, hook, says):
    line = refused(trainer, capsys, *FFF, *mining(teacher, "0.2", "0.9", "0.9", "0.0"), "--batch-hooks", hook)
    assert f"--batch-hooks: {says}" in line


@pytest.mark.parametrize("hook", ["picked", "two-picked"])
def test_captions_that_are_picked_take_their_features_along(trainer, teacher, tiny_name, hook):
    argv = [*FFF, *mining(teacher, "0.2", "0.9", "0.9", "0.0"), "--batch-hooks", f"{hook};recorder"]
    assert trainer(*argv, *PARTS) == 0
    model = open_clip.create_model(tiny_name)
    model.load_state_dict(torch.load(teacher, weights_only=True)["state_dict"])
    for batch in recorder.BATCHES:
        captions = batch.captions
        assert captions.tokens.shape[1] == (2 if hook == "two-picked" else 4)
        assert (captions.tokens[captions.raw][:, 0] > 0).all() and not captions.raw[:, 0].any()  # raw ones were first
        with torch.no_grad():
            wanted = normalize(model.encode_text(captions.tokens[captions.valid]), dim=-1)
        torch.testing.assert_close(captions.extras["mining_text_features"][captions.valid], wanted)


def test_tokens_may_be_changed_where_they_are(trainer, teacher):
    argv = [*FFF, *mining(teacher, "0.2", "0.9", "0.9", "0.0"), "--batch-hooks", "blanked"]
    assert trainer(*argv, *PARTS) == 0


@pytest.mark.parametrize(
    ("loss", "says"),
    {
        "vector": "--loss: Own gave contrastive_loss [2]: a term is a scalar tensor",
        "nothing": "--loss: Own gave contrastive_loss NoneType: a term is a scalar tensor",
        "with-accuracy": "--loss: Own gave accuracy, and all that it gives are added up: drop it, or name it accuracy_",
        "learnt": "--loss learnt: its parameters would never be trained (margin), since the optimizer has the model's",
    }.items(),
)
def test_a_loss_with_a_mistake(trainer, capsys, loss, says):
    assert says in refused(trainer, capsys, "--loss", loss)


def test_a_loss_of_several_terms_trains(trainer):
    assert trainer("--loss", "two-terms", *PARTS) == 0
    assert "Own_loss: " in trainer.log("x") and "Other_loss: " in trainer.log("x")


@pytest.mark.parametrize(
    ("discriminator", "says"),
    {
        "logits": "--discriminator: Scoring gave match scores from 7 to 7: they are from 0 to 1",
        "nan": "--discriminator: Scoring gave match scores from nan to nan: they are from 0 to 1",
        "list": "--discriminator: Scoring gave match scores list of ",
    }.items(),
)
def test_a_discriminator_with_a_mistake(trainer, capsys, discriminator, says):
    assert says in refused(trainer, capsys, "--method", "mafa-itc", "--discriminator", discriminator)


def test_scores_are_stored_by_a_string(trainer, tmp_path, capsys):
    argv = ["--method", "mafa-itc", "--discriminator", "logits", "--discriminator-cache", str(tmp_path / "scores")]
    assert "Scoring has no `identity`, a string" in refused(trainer, capsys, *argv)


def test_a_plug_in_is_no_path(trainer, capsys):
    assert trainer("--plugin", "./own_parts", "--name", "x") == 2
    says = "--plugin ./own_parts: is a path; name it as a module, own_parts, with its folder on PYTHONPATH"
    assert says in capsys.readouterr().err
