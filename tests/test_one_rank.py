"""After the first step: what only one of several ranks meets is told by that rank, as it is; what all meet, once."""

import pytest

from tests.failing_plugin import FAILS
from tests.test_short_epochs import MANY, Launched

pytestmark = pytest.mark.slow  # two ranks each, from their start to their end
ERROR = "open_clip_fff.train: error: "
DIVERGES = [*MANY, "--lr", "1e30", "--on-nonfinite", "stop", "--epochs", "20"]


@pytest.mark.parametrize(
    ("failing", "flags", "says"),
    [
        ("1:2:fewer", FAILS, "rank 1: --batch-hooks: Failing gave images [7, 3, 32, 32]: "),
        ("0:2:fewer", FAILS, "--batch-hooks: Failing gave images [7, 3, 32, 32]: "),
        ("", DIVERGES, "--on-nonfinite stop: 5 steps in a row had a gradient that is not finite"),
    ],
    ids=["rank 1", "rank 0", "all"],
)
def test_a_mistake_is_one_line(trainer, tmp_path, monkeypatch, failing, flags, says):
    monkeypatch.setenv("FAILING", failing)
    code, lines = Launched(trainer, tmp_path / "log", *flags, "--name", "x", data=trainer.tars).ended(60)
    told = [line for line in lines if "another rank has ended, whose own line says why" not in line]
    assert code != 0 and len(told) == 1 and told[0].startswith(ERROR + says), lines
    assert "Train Epoch: 0" in trainer.log("x")


@pytest.mark.parametrize("error", ["refused", "timeout"])
def test_an_error_of_a_ranks_own_is_no_other_ranks(trainer, tmp_path, monkeypatch, error):
    monkeypatch.setenv("FAILING", f"1:2:{error}")
    code, lines = Launched(trainer, tmp_path / "log", *FAILS, "--name", "x", data=trainer.tars).ended(60)
    text = (tmp_path / "log").read_text()
    assert code != 0 and not [line for line in lines if line.startswith(f"{ERROR}rank 1")], lines  # rank 0 may miss it
    assert "raise self.error" in text and "RuntimeError: " in text and "whose own line says why (feature" not in text
