"""Questions about the scanned digits in VQAv2's and NLVR2's forms, and a small fusion model with random weights."""

import json
import re
from pathlib import Path

import pytest

from open_clip_fff.cli import main
from scripts.digits.questions import write_questions, write_start

SMALL = ["--batch-size", "8", "--workers", "0", "--lr", "1e-3", "--min-crop", "1"]


@pytest.fixture(scope="session")
def quiz(tmp_path_factory) -> Path:
    """A folder with both tasks' files."""
    folder = tmp_path_factory.mktemp("quiz")
    write_questions(folder, {"train": 30, "val": 8, "test": 6}, {"train": 40, "val": 12, "test": 16}, captions=True)
    return folder


def make_fused(name: str, out: Path) -> Path:
    """An exported model with a fusion model, as training writes it, but for its random weights."""
    return write_start(name, out, layers=1, width=32)


@pytest.fixture(scope="session")
def fused(tmp_path_factory, tiny_name) -> Path:
    """That of the tiny architecture."""
    return make_fused(tiny_name, tmp_path_factory.mktemp("fused") / "model")


def files(task: str, quiz: Path, *splits: str) -> list[str]:
    """The flags that name a task's files."""
    if task == "nlvr2":
        return ["--images", f"{quiz}/pairs", *(x for s in splits for x in (f"--{s}-data", f"{quiz}/{s}.json"))]
    names = ("questions", "annotations")
    return ["--images", f"{quiz}/images"] + [
        x for split in splits for name in names for x in (f"--{split}-{name}", f"{quiz}/{split}-{name}.json")
    ]


def refused(capsys, *argv: object) -> str:
    """The one line of a call that is refused."""
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.strip() and not re.search(r"\d%\|", line)]
    assert len(err) == 1, err
    return err[0]


def ok(*argv: object) -> None:
    assert main([str(word) for word in argv]) == 0


def read(path: Path):
    return json.loads(path.read_text())
