"""The house rules that a machine can see."""

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "open_clip_fff"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Folders in the order in which a caption passes them; one imports from itself and from those named here, which stand
# above it. `tools/` and `commands/` never import `host`: whoever looks at data needs no training loop.
ALLOWED = {
    "config": set(),
    "hub": {"config"},
    "data": {"config", "hub"},
    "models": {"config", "hub", "data"},
    "mining": {"config"},
    "matching": {"config", "data", "models"},
    "grouping": {"config", "data"},
    "losses": {"config", "mining"},
    "hooks": {"config", "data", "models", "matching", "grouping"},
    "tools.pages": set(),
    "evaluation": {"config", "hub", "data", "models", "tools.pages"},
    "host": {"config", "hub", "data", "models", "mining", "grouping", "losses", "hooks", "evaluation"},
    "tools": {"config", "hub", "data", "models", "mining", "matching", "tools.pages"},
    "commands": {"config", "hub", "data", "evaluation", "tools"},
}
COMMON = {
    "atomic_io",
    "devices",
    "distributed",
    "errors",
    "fingerprint",
    "normalised",
    "numerics",
    "patching",
    "plural",
    "progress",
    "registry",
    "renamed",
}


def folder_of(parts: Sequence[str]) -> str:
    """The folder of a module, by the parts of its name; one in another where that has a row of its own."""
    return next(folder for n in (2, 1) if (folder := ".".join(parts[:n])) in ALLOWED or n == 1)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def forbidden(path: Path) -> list[str]:
    """What a file imports and may not."""
    folder, found = folder_of(path.relative_to(PACKAGE).with_suffix("").parts), []
    for module in imports(path):
        parser = folder == "config" and module == "open_clip_train.params"
        if module.startswith("open_clip_train") and folder != "host" and not parser:
            found.append(f"{path} knows OpenCLIP's loop")
        first, *parts = module.split(".")
        if first == "open_clip_fff" and parts and folder in ALLOWED and parts[0] not in COMMON:
            there = folder_of(parts)
            known = there == folder or not {there, parts[0]}.isdisjoint(ALLOWED[folder])
            found += [] if known else [f"{path}: {folder} imports {module}"]
    return found


def test_folders_import_only_what_they_may():
    assert SOURCES and [each for path in SOURCES for each in forbidden(path)] == []


def test_each_folder_has_a_row_which_names_none_below_it():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {folder for folder in ALLOWED if "." not in folder} and len(folders) <= 13
    rows = list(ALLOWED)
    assert [
        (folder, other)
        for folder, others in ALLOWED.items()
        for other in others
        if rows.index(other) >= rows.index(folder)
    ] == []


def test_no_class_name_has_two_meanings():
    where: dict[str, list[Path]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(path)
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}


def test_no_imported_name_has_two_meanings():
    """Functions and constants that modules take from each other, commands aside."""
    where: dict[str, set[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("open_clip_fff."):
                for each in node.names:
                    where.setdefault(each.name, set()).add(str(node.module))
    once_each = {"main", "parse", "run", "seams"}  # of a command, and of a version of OpenCLIP
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES}
    several = {name: found & modules for name, found in where.items() if name not in once_each}
    assert {name: found for name, found in several.items() if len(found) > 1} == {}


def test_nothing_else_is_committed_at_the_top():
    """Such as the folder of a run."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no clone")
    files = {".gitignore", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md", "pyproject.toml"}
    folders = {".ci", "docs", "eval", "open_clip_fff", "patches", "scripts", "tests"}
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} == {*files, *folders, "setup.py"}


def test_files_are_small():
    files = [
        *SOURCES,
        *(path for folder in ("tests", "scripts", "eval", "patches") for path in (ROOT / folder).rglob("*.py")),
    ]
    assert {path: n for path in files if (n := len(path.read_text().splitlines())) > 400} == {}


def test_the_package_imports_neither_open_clip_nor_its_loop_nor_transformers():
    unwanted = {"open_clip", "open_clip_train", "transformers"}
    code = f"import sys, open_clip_fff; sys.exit(bool({unwanted} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_registry_refuses_duplicates():
    from open_clip_fff import register_batch_hook, register_discriminator, register_loss

    with pytest.raises(ValueError, match="registered twice"):
        register_loss("fff")(object)
    with pytest.raises(ValueError, match="registered twice"):
        register_batch_hook("frozen-features")(object)
    with pytest.raises(ValueError, match="registered twice"):
        register_discriminator("blip")(object)
    with pytest.raises(ValueError, match="OpenCLIP's own"):
        register_loss("clip")
