"""The texts beside a classification set in webdataset form, checked as clip-benchmark will read them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from open_clip_fff.errors import UsageError, as_mistake, printable

SHOWN = 5  # names that a line has
NAMES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"


def check_texts(root: Path) -> None:
    """Checks the class names and the templates of the set in `root`.

    Raises:
        UsageError: for an empty line, which would be a class or a prompt without a text, a byte order mark, or a
            template without a place for the name: all classes would get one prompt.
    """
    _lines(root / NAMES, "name")
    check_templates(str(root / TEMPLATES), _lines(root / TEMPLATES, "template"))


def odd_names(root: Path, one_label: bool) -> list[str]:
    """A warning if classes of the set in `root` share a name, or it has one class; none if the names cannot be read.

    `one_label` is whether an image has one label, and not several.
    """
    try:
        names = _lines(root / NAMES, "name")
    except UsageError:  # scoring the set will raise it
        return []
    line = same_names_line(names)
    if len(names) == 1 and one_label:
        line = f"names one class, {printable(names[0])}, so that its accuracy is 100 % with any model"
    return [f"warning: {root / NAMES}: {line}"] if line else []


def same_names_line(names: Sequence[str]) -> str:
    """Says which names several classes have; empty where each has its own."""
    same = [name for name, count in Counter(map(str.casefold, names)).items() if count > 1]
    return f"several classes have the same name, and no model can tell them apart: {some(same)}" if same else ""


def some(names: Sequence[str]) -> str:
    """The first SHOWN names, and how many there are."""
    more = f", … {len(names):,} in all" if len(names) > SHOWN else ""
    return ", ".join(map(printable, names[:SHOWN])) + more


def check_templates(file: str, templates: Sequence[str]) -> None:
    """Raises UsageError for a template without a place `{c}` for the class's name; `file` is for the error line."""
    for template in templates:
        try:
            fits = template.format(c="") != template
        except (LookupError, ValueError, AttributeError):
            fits = False
        if not fits:
            raise UsageError(f"{file}: {template!r} has no {{c}} for the class's name, or other braces")
        if template.startswith(("[", "lambda")):  # lists as json, and OpenCLIP's in Python
            raise UsageError(f"{file}: {template[:40]!r} is code; write a template a line, without quotes")


def _lines(file: Path, what: str) -> list[str]:
    with as_mistake(f"{file}: cannot be read", OSError, UnicodeDecodeError):
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    if not lines or not all(lines):
        why = f"line {lines.index('') + 1} is empty; delete it" if lines else f"holds no {what}; write one a line"
        raise UsageError(f"{file}: {why}")
    if lines[0].startswith("\ufeff"):
        raise UsageError(f"{file}: a byte order mark would be a part of {lines[0][1:]!r}; save it as UTF-8 without one")
    return lines
