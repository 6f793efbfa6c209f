"""scripts/faults.py: what goes wrong is done on purpose, and the table tells the truth about it."""

import importlib

import pandas as pd
import pytest

from tests import programs
from tests.programs import ROOT

SCRIPT = "scripts/faults.py"
QUICK = ["pickles in a tar, FFF", "a loss of NaN in one step", "a caption sidecar that holds numbers"]


@pytest.mark.slow
def test_its_quick_rows(tmp_path):
    """The others are one or several trainings each; the tests of what they show are beside the parts."""
    names = "|".join(f": {name}$" for name in QUICK)
    done = programs.run(SCRIPT, "--only", names, "--out", tmp_path)
    assert done.returncode == 0 and f"{len(QUICK)} of {len(QUICK)} as promised" in done.stdout, done
    table = pd.read_csv(tmp_path / "faults.csv").set_index("fault")
    assert set(table.index) == set(QUICK) and table["as promised"].all()
    assert "1 whose gradient was not finite" in table["what happened"][QUICK[1]]
    assert "00.parquet holds int64" in table["what happened"][QUICK[2]]
    assert all(f"| {name} | " in (tmp_path / "faults.md").read_text() for name in QUICK)


@pytest.fixture
def faults(monkeypatch):
    """The program, as a module."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("faults")


def test_rows_have_names_of_their_own_and_are_found_by_them(faults, capsys):
    assert faults.main(["--list"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert len(names) == len(set(names)) == len(faults.FAULTS) and names[0].startswith("data runs no code: ")
    page = (ROOT / "docs" / "faults.md").read_text()
    assert [row.name for row in faults.FAULTS if row.name not in page] == []
    assert faults.main(["--only", "no such row"]) == 2
    assert "no row matches" in capsys.readouterr().err


def test_a_row_that_does_not_go_as_promised_is_told(faults, capsys, monkeypatch, tmp_path):
    rows = importlib.import_module("faulty.rows")

    def wrong(lab):
        rows.require(False, "it went on")

    def mistaken(lab):
        return 1 / 0

    for check in (wrong, mistaken):
        check.__module__ = faults.ORDER[0]
    monkeypatch.setattr(faults, "FAULTS", [rows.Fault("mine", check.__name__, check) for check in (wrong, mistaken)])
    assert faults.main(["--out", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "WRONG: it went on" in out and "WRONG: ZeroDivisionError" in out and "0 of 2 as promised" in out
    assert not pd.read_csv(tmp_path / "faults.csv")["as promised"].any()


def test_two_rows_of_one_name_are_refused(faults, monkeypatch):
    rows = importlib.import_module("faulty.rows")
    monkeypatch.setattr(rows, "FAULTS", [])
    rows.fault("topic", "name")(lambda lab: None)
    with pytest.raises(ValueError, match="two rows are called 'name'"):
        rows.fault("another topic", "name")(lambda lab: None)
