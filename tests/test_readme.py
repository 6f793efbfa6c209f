"""The README does what it says: its loss, its hook, its snippet, and its flags."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from open_clip_fff.settings.flags import flag_parser
from open_clip_fff.settings.methods import METHODS

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_its_loss_and_its_hook_train(trainer, tmp_path, monkeypatch):
    parts = next(block for block in BLOCKS if "register_loss" in block)
    (tmp_path / "readme_parts.py").write_text(parts)
    monkeypatch.syspath_prepend(tmp_path)
    flags = ["--plugin", "readme_parts", "--loss", "hinge", "--batch-hooks", "caption-dropout"]
    argv = [*flags, "--captions-per-image", "3", "--json-text-key", "captions"]
    assert trainer(*argv, "--name", "plugin") == 0
    log = trainer.log("plugin")
    losses = [float(loss) for loss in re.findall(r"Contrastive_loss: ([\d.]+)", log)]
    assert len(losses) == 4 and all(loss > 0 for loss in losses)
    # each part is 15 lines or fewer
    for part in re.split(r"^@", parts, flags=re.MULTILINE)[1:]:
        assert len(part.strip().splitlines()) <= 15


def test_its_snippet_runs():
    snippet = next(block for block in BLOCKS if "similarity_assignment" in block)
    torch.manual_seed(0)
    names = {
        "image": F.normalize(torch.randn(4, 8), dim=-1),
        "text": F.normalize(torch.randn(4, 2, 8), dim=-1),
        "logit_scale": torch.tensor(2.0),
        "logit_bias": torch.tensor(-2.0),
    }
    exec(snippet, names)
    assert names["loss"].isfinite() and names["positives"].shape == (4, 4, 2)


def test_every_flag_of_ours_is_explained():
    for action in flag_parser()._actions:
        assert f"{action.option_strings[0]}" in README, action.option_strings[0]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_in_its_table(method):
    assert f"| `{method}` |" in README
