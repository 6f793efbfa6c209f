"""The commands of README and docs: programs and flags are there, and the tutorial runs from end to end."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from string import Template

import pytest

from tests import programs

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
TRAIN = ("-m", "open_clip_fff.train")
STUDIES = (("scripts/study.py",), ("scripts/fusion_study.py",))  # their flags are those of a step
STARTS = {"python": [], "open-clip-fff": ["-m", "open_clip_fff"]}
FEWER = {  # of the tutorial's pictures and steps
    **{"digits.images,": "digits.images[:300],", "i < 1100": "i < 200", "i < 1400": "i < 260", "275": "50"},
    **{"--steps 600": "--steps 4", "--epochs 12": "--epochs 1", "--train-num-samples 1100": "--train-num-samples 200"},
    **{"--images 1000": "--images 200", "--warmup 22": "--warmup 2"},
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a bash block as words, variables filled in, without comments."""
    variables: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        if assignment := re.fullmatch(r'([A-Z]+)="(.*)"', line):
            variables[assignment[1]] = Template(assignment[2]).safe_substitute(variables)
        elif words := shlex.split(Template(line).safe_substitute(variables), comments=True):
            yield words


def python_commands(page: Path) -> Iterator[list[str]]:
    """What `python` is given in the blocks and in the text of a page, by itself, by torchrun or by our command."""
    spans = re.findall(r"(?<!`)`((?:python|open-clip-fff) [a-z-][^`]+)`(?!`)", page.read_text())
    for text in (*blocks(page, "bash"), *(" ".join(span.split()) for span in spans)):
        for words in commands(text):
            if words[0] == "torchrun":
                yield [word for word in words[words.index("-m") :] if word != "--"]
            elif words[0] in STARTS:
                yield [*STARTS[words[0]], *words[1:]]


@cache
def flags(program: tuple[str, ...]) -> frozenset[str]:
    """Every flag that a program's --help names."""
    done = programs.run(*program, "--help")
    assert done.returncode == 0, done.stderr
    return frozenset(re.findall(r"--[a-z0-9][\w-]*", done.stdout))


def unknown(words: list[str]) -> list[str]:
    """The flags of a command that its program, or training behind `--`, does not have."""
    program = tuple(words[: 1 if words[0] != "-m" else 3 if words[1] == "open_clip_fff" else 2])
    if program in STUDIES:
        program = (*program, words[1])
    rest = words[len(program) :]
    own, behind = (rest[: rest.index("--")], rest[rest.index("--") :]) if "--" in rest else (rest, [])
    typed = [word.partition("=")[0] for word in own if word.startswith("--")]
    missing = {flag for flag in typed if flag not in flags(program)}
    missing = missing if behind else {flag for flag in missing if flag not in flags(TRAIN)}
    missing |= {flag for flag in behind[1:] if flag.startswith("--") and flag not in flags(TRAIN)}
    return sorted(missing)


@pytest.mark.slow
def test_every_program_and_flag_is_there():
    found = [words for page in PAGES for words in python_commands(page)]
    theirs = [words for words in found if words[0] == "-m" or "/" in words[0]]
    assert len(theirs) > 20
    assert {shlex.join(words): missing for words in theirs if (missing := unknown(words))} == {}


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path, monkeypatch):
    page = ROOT / "docs" / "tutorial.md"
    monkeypatch.chdir(tmp_path)
    make, load = blocks(page, "python")
    text = "\n".join(blocks(page, "bash"))
    for many, few in FEWER.items():
        assert many in make + text
        make, text = make.replace(many, few), text.replace(many, few)
    Path("pictures.py").write_text(make)
    for words in commands(text):
        done = programs.run(*STARTS[words[0]], *words[1:], cwd=tmp_path)
        assert done.returncode == 0, (shlex.join(words), done.stdout[-1000:], done.stderr[-1000:])
    exec(load, names := {})
    assert names["model"] is not None
