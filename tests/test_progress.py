"""Progress bars: in a terminal while something takes long, in a job's log as a line every half a minute."""

import pty
import sys

import pytest
import torch

from open_clip_fff import progress
from open_clip_fff.cli import main
from open_clip_fff.tools.analyze.similarity import mean_of_nearest
from open_clip_fff.tools.calibrate.all_pairs import AllPairs
from tests.conftest import colour_sample, write_tar
from tests.test_assignment import random_features


def test_a_log_has_a_line_of_what_takes_long(capsys, monkeypatch):
    pairs = AllPairs(random_features(8, 2), torch.full((8,), -1), "pooled")
    text, images = torch.eye(8), torch.arange(8)
    assert list(pairs.tiles("cosines")) and capsys.readouterr().err == ""  # it took no half a minute
    monkeypatch.setattr(progress, "LOG", 0)
    assert list(pairs.tiles("cosines"))
    mean_of_nearest(text, images, text, images)
    lines = capsys.readouterr().err.splitlines()
    assert {line.partition(":")[0] for line in lines if "100%" in line} == {"cosines", "nearest captions"}


def test_both_passes_over_shards_of_classes_are_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG", 0)
    rows = {f"{row}": {"png": colour_sample(row)["png"], "cls": f"class {row % 2}".encode()} for row in range(4)}
    write_tar(tmp_path / "a.tar", rows)
    assert main(["class-set", str(tmp_path / "a.tar"), "--out", str(tmp_path / "set")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert {line.partition(":")[0] for line in lines if "4 images" in line} == {"reading classes", "writing"}


@pytest.mark.parametrize(("terminal", "seconds"), [(True, 1), (False, 30)])
def test_how_often_is_asked_where_it_is_drawn(terminal, seconds, capsys, monkeypatch):
    ours, theirs = pty.openpty()
    with open(ours, "rb"), open(theirs, "w") as there:
        if terminal:
            monkeypatch.setattr(sys, "stderr", there)
        bar = progress.progress(range(3), "mining")
        assert (bar.mininterval, bar.maxinterval, bar.delay, bar.leave) == (seconds, seconds, seconds, not terminal)
        assert not bar.disable and list(bar) == [0, 1, 2]
        assert capsys.readouterr().err == ""
