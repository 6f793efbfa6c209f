"""The house rules that a machine can see."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "open_clip_fff"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Rooms from the ground up; a room imports from itself and from those below it. `data`, `grouping`, `towers` and
# `connection` share a floor with `assignment`; the exceptions name themselves.
FLOORS = [
    *("settings", "hub", "data", "shardwise", "packing", "grouping", "towers", "connection", "captioning", "pages"),
    *("assignment", "sampling", "calibration", "losses", "hooks", "gallery", "analysis", "report", "evaluation"),
    "comparison",
    "host",
]
ALLOWED = {
    "settings": set(),
    "hub": {"settings"},
    "data": {"settings", "hub"},
    "shardwise": {"data"},
    "packing": {"settings", "data", "shardwise"},
    "grouping": {"settings", "data"},
    "towers": {"settings", "hub", "data"},
    "connection": {"settings", "data", "towers"},
    "captioning": {"settings", "data", "shardwise", "connection"},
    "assignment": {"settings"},
    "sampling": {"settings", "data", "towers", "assignment"},
    "calibration": {"settings", "data", "connection", "assignment", "sampling"},
    "gallery": {"settings", "data", "connection", "assignment", "sampling", "pages"},
    "analysis": {"settings", "data", "sampling", "pages"},
    "losses": {"settings", "assignment"},
    "hooks": {"settings", "data", "towers", "grouping", "connection"},
    "report": {"settings", "assignment"},
    "evaluation": {"settings", "hub", "data"},
    "comparison": {"settings", "hub", "evaluation", "pages"},
    "pages": set(),
    "host": set(FLOORS) - {"comparison", "gallery", "packing", "captioning", "analysis", "pages"},
}
COMMON = {
    "devices",
    "errors",
    "fingerprint",
    "lazy",
    "normalised",
    "numerics",
    "plural",
    "ranks",
    "registry",
    "scope",
    "whole",
}


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
    room, found = path.relative_to(PACKAGE).parts[0], []
    for module in imports(path):
        if module.startswith("open_clip_train") and room != "host":
            found.append(f"{path} knows OpenCLIP's loop")
        parts = module.split(".")
        if parts[0] == "open_clip_fff" and len(parts) > 1 and room in ALLOWED:
            allowed = ALLOWED[room] | {room} | COMMON
            found += [] if parts[1] in allowed else [f"{path}: {room} imports {module}"]
    return found


def test_rooms_import_only_what_they_may():
    assert SOURCES and [each for path in SOURCES for each in forbidden(path)] == []


def test_files_are_small():
    assert {path: n for path in SOURCES if (n := len(path.read_text().splitlines())) > 400} == {}


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
