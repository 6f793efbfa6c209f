"""Comparisons of odd models: names that mean something to a shell's pattern or to matplotlib, and missing scores."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.compare.curves import RunCurves
from open_clip_fff.evaluation.compare.plots import draw_change, draw_training_curves
from open_clip_fff.evaluation.compare.rows import read_rows
from open_clip_fff.evaluation.compare.run import compare
from open_clip_fff.evaluation.compare.training import TrainingCurves
from tests.test_comparison import Scores
from tests.test_curves import STOCK


@pytest.fixture
def scores(tmp_path) -> Scores:
    return Scores(tmp_path / "store")


def test_commas_and_brackets_may_be_part_of_a_path(scores, tmp_path):
    for name in ("run[1]", "run1", "a,b,c"):
        (tmp_path / name).mkdir()
        scores.model(name, run=tmp_path / name, given=str(tmp_path / name))
    rows = read_rows([str(tmp_path / "run[1]")], [str(tmp_path / "a,b,c")], scores.folder)
    assert [row.label for row in rows] == ["run[1]", "a,b,c"]
    (tmp_path / "run[2]").mkdir()
    (tmp_path / "run2").mkdir()
    with pytest.raises(UsageError, match=r"run\[2\]: no scores of this model"):
        read_rows([str(tmp_path / "run[2]")], [], scores.folder)


def train_again(run: Path, *epochs: int) -> Path:
    """A new run in the place of another, with checkpoints of these epochs."""
    shutil.rmtree(run, ignore_errors=True)
    (run / "checkpoints").mkdir(parents=True)
    for epoch in epochs:
        (run / "checkpoints" / f"epoch_{epoch}.pt").touch()
    return run


def test_a_run_is_the_one_that_is_there_now(scores, tmp_path, monkeypatch, capsys):
    """And not a longer one that had its name: deleted since, or another project's."""
    monkeypatch.chdir(tmp_path)
    run, other = train_again(tmp_path / "logs" / "run", 1, 2), train_again(tmp_path / "other" / "logs" / "run", 1, 2, 3)
    before, theirs = scores.model("run", run=run), scores.model("run", run=other, given="logs/run", epoch=3)

    def found(name: str) -> Path:
        return read_rows([name], [], scores.folder)[0].models[0].folder

    assert found("logs/run") == before and found(str(other)) == theirs
    train_again(run, 1)
    with pytest.raises(UsageError, match=rf"is not scored as it is now, and of {before} .* or give such"):
        found("logs/run")
    assert found(str(before)) == before
    after = scores.model("run", run=run, epoch=1)
    assert not capsys.readouterr().out
    assert found("logs/run") == after
    told = f"warning: logs/run does not have the checkpoint of {before} any more: {after} is compared\n"
    assert capsys.readouterr().out == told
    shutil.rmtree(run)
    with pytest.raises(UsageError, match=r"logs/run: may be .* or .* or .*; give one of these"):
        found("logs/run")


def test_labels_are_drawn_as_they_are(scores, tmp_path, monkeypatch):
    """No mathematics between dollars, and in the legend even with an underscore first."""
    run = tmp_path / "logs" / "clip"
    run.mkdir(parents=True)
    (run / "out.log").write_text(STOCK)
    scores.model("clip", run=run, epoch=2)
    scores.model("fff", run=run, epoch=1)
    legends, savefig = [], Figure.savefig

    def recorded(figure, *arguments, **options):
        legends.append([text.get_text().strip() for legend in figure.legends for text in legend.get_texts()])
        return savefig(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", recorded)
    settings = (["_a $\\frac$=clip-epoch_2*"], ["$x_{=fff*"], scores.folder, tmp_path / "out", 100)
    compare(*settings)
    assert ["_a $\\frac$", "$x_{"] in legends


def test_a_model_that_shares_no_set_with_the_baseline_has_no_change_to_draw(scores):
    scores.model("a"), scores.model("b"), scores.model("c", sets=("pets",))
    figure = draw_change(scores.table(["logs/a"], ["logs/b", "logs/c"]))
    assert figure.axes[0].get_legend_handles_labels()[1] == ["b"]


def test_a_run_without_time_leaves_the_others_theirs(scores):
    scores.model("a"), scores.model("b")
    steps = pd.DataFrame(columns=["step", "minutes"])
    curves = {
        label: [RunCurves(steps, pd.DataFrame({"epoch": [1], "step": [10], "minutes": [minutes], "acc": [0.5]}), 1)]
        for label, minutes in (("a", float("nan")), ("b", 600.0))
    }
    figure = draw_training_curves(
        scores.table(["logs/a"], ["logs/b"]), TrainingCurves(curves, {"accuracy": ["acc"]}, ())
    )
    assert figure.axes[1].get_xlabel() == "hours of training"
