#!/usr/bin/env python3
"""Applies the numbered patches of a folder beside this file to a copy of OpenCLIP, or says whether they apply.

    python patches/apply.py --check DIR      # a line per patch: applies, is applied, or conflicts, and where
    python patches/apply.py DIR [--upto N]   # applies them in order; nothing is written where one conflicts

DIR is a clone of OpenCLIP's repository, or a folder that holds the packages open_clip and open_clip_train, as
site-packages does. `git` does the work, in a scratch folder; DIR need not be a repository.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "open_clip_torch-3.3.0"
VERSION = FOLDER.name.rpartition("-")[2]
APPLIES, APPLIED, CONFLICTS = "applies", "is applied", "conflicts"
_STAT = re.compile(r" src/(\S+) +\| +(\d+) [+-]+")
_FILE = re.compile(r"diff --git a/src/(\S+) b/src/\1")
_INDEX = re.compile(r"index ([0-9a-f]+)\.\.([0-9a-f]+) \d+")
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@.*")


class PatchError(Exception):
    """What the user can fix, in one line."""


@dataclass
class Hunk:
    """A place that a patch changes."""

    file: str
    number: int  # in its file, from 1
    old: int  # first line before the patch
    new: int  # and after it


@dataclass
class Patch:
    """A patch file; `damage` says why it cannot be one, with file and hunk."""

    path: Path
    hunks: list[Hunk] = field(default_factory=list)
    blobs: dict[str, tuple[str, str]] = field(default_factory=dict)  # git's hashes before and after, shortened
    damage: str = ""

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(hunk.file for hunk in self.hunks))

    def count(self, file: str) -> int:
        """How many hunks a file has."""
        return sum(hunk.file == file for hunk in self.hunks)


def read_patch(path: Path) -> Patch:
    """A patch as `git format-patch` writes it; its lines are compared with what its head and its hunks count."""
    patch, name, left_old, left_new = Patch(path), "", 0, 0
    stat, changed = dict[str, int](), Counter[str]()
    for number, line in enumerate(path.read_bytes().decode(errors="replace").removesuffix("\n").split("\n"), 1):
        if left_old > 0 or left_new > 0:
            sign = line[:1]
            if sign not in ("+", "-", " ", "\\", ""):
                break
            left_old -= sign in ("-", " ", "")
            left_new -= sign in ("+", " ", "")
            changed[name] += sign in ("+", "-")
        elif found := _FILE.fullmatch(line):
            name = found[1]
        elif not name:
            if found := _STAT.fullmatch(line):
                stat[found[1]] = int(found[2])
        elif found := _INDEX.fullmatch(line):
            patch.blobs[name] = found[1], found[2]
        elif found := _HUNK.fullmatch(line):
            old, old_count, new, new_count = found.groups()
            left_old, left_new = int(old_count or 1), int(new_count or 1)
            patch.hunks.append(Hunk(name, patch.count(name) + 1, int(old), int(new)))
        elif line == "-- ":
            break
        elif line not in (f"--- a/src/{name}", f"+++ b/src/{name}") and not line.startswith("\\"):
            patch.damage = f"{name}, hunk {patch.count(name) + 1}: it is damaged in line {number}, {line[:40]!r}"
            return patch
    wrong = next((file for file in {**stat, **changed} if changed[file] != stat.get(file, 0)), None)
    if left_old or left_new:
        patch.damage = f"{name}, hunk {patch.count(name)}: it is damaged: its header counts other lines than it has"
    elif not patch.hunks or set(patch.blobs) != set(patch.files):
        patch.damage = "it is damaged: no patch as git format-patch writes it"
    elif wrong is not None:
        patch.damage = (
            f"{wrong}, hunk {patch.count(wrong) + 1}: it is damaged: up to here {changed[wrong]} lines of the file "
            f"change, and its head says {stat.get(wrong, 0)}"
        )
    return patch


def find_packages(folder: Path) -> Path:
    """Where the packages are in DIR.

    Raises:
        PatchError: if they are nowhere.
    """
    if not folder.is_dir():
        raise PatchError(f"{folder}: no such folder")
    for packages in (folder / "src", folder):
        if (packages / "open_clip").is_dir() and (packages / "open_clip_train").is_dir():
            return packages
    raise PatchError(
        f"{folder}: no OpenCLIP with its training code: it holds neither open_clip/ and open_clip_train/ nor src/ "
        f"with the two"
    )


def read_version(packages: Path) -> str:
    """The version of OpenCLIP. Raises PatchError if there is none."""
    path = packages / "open_clip" / "version.py"
    try:
        found = re.search(r"__version__\s*=\s*['\"]([^'\"]+)", path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = None
    if found is None:
        raise PatchError(f"{path}: says no version of OpenCLIP")
    return found[1]


class Scratch:
    """A copy of the files that patches change, to try them on.

    Args:
        packages: the folder that holds open_clip and open_clip_train.
        patches: that may be tried.
        folder: an empty one.
    """

    def __init__(self, packages: Path, patches: Sequence[Patch], folder: Path) -> None:
        self.packages, self.folder = packages, folder
        self.files = sorted({file for patch in patches for file in patch.files})
        for file in self.files:
            if (packages / file).is_file():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(packages / file, folder / file)

    def git_apply(self, patch: Patch, *options: str) -> str:
        """Runs `git apply`; returns what it complains of, empty where all is well.

        Raises:
            PatchError: if there is no git.
        """
        # Inside of a repository, git would silently pass over files that are not below the folder it is run in.
        environment = {**os.environ, "GIT_DIR": os.devnull, "LC_ALL": "C"}
        command = ["git", "apply", "-p2", "--whitespace=nowarn", *options, os.fspath(patch.path)]
        try:
            done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        except FileNotFoundError:
            raise PatchError("git is not installed, and does the work: install it, or use patch -p2 < PATCH") from None
        return "" if done.returncode == 0 else done.stderr.strip() or f"git apply: exit code {done.returncode}"

    def apply(self, patch: Patch) -> str:
        """Applies a patch; returns why it cannot be applied as it was made, and then changes nothing."""
        before = {file: self._blob(file) for file in patch.blobs}
        if complaint := self.git_apply(patch):
            return explain(patch, complaint)
        for file, (old, new) in patch.blobs.items():
            if before[file].startswith(old) and not self._blob(file).startswith(new):
                self.git_apply(patch, "--reverse")
                hunks = "hunk 1" if patch.count(file) == 1 else f"one of hunks 1 to {patch.count(file)}"
                return f"{file}, {hunks}: it is damaged: the file it makes is not the one on its index line"
        return ""

    def _blob(self, file: str) -> str:
        """Git's hash of a file; empty if it does not exist."""
        if not (self.folder / file).is_file():
            return ""
        content = (self.folder / file).read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def find_applied(self, patches: Sequence[Patch]) -> set[Path]:
        """Which are applied. The last one first: it stands on those before it, which are found once it is undone."""
        undone = [p for p in reversed(patches) if not p.damage and not self.git_apply(p, "--reverse")]
        for patch in reversed(undone):
            if complaint := self.git_apply(patch):
                raise PatchError(f"{patch.path.name}: cannot be put back: {explain(patch, complaint)}")
        return {patch.path for patch in undone}

    def write_back(self) -> None:
        """Replaces the files that have changed, once all of them are written beside; else nothing of them stays."""
        written = {}
        try:
            for file in self.files:
                target, new = self.packages / file, self.folder / file
                if new.is_file() and new.read_bytes() != target.read_bytes():
                    beside = written[target] = target.with_name(f".{target.name}.patching")
                    shutil.copyfile(new, beside)
                    shutil.copymode(target, beside)
            for target, beside in written.items():
                os.replace(beside, target)
        finally:
            for beside in written.values():
                beside.unlink(missing_ok=True)


def explain(patch: Patch, complaint: str) -> str:
    """Git's complaint about a patch: of each file that does not fit, the first hunk."""
    places = []
    for line in complaint.splitlines():
        if found := re.fullmatch(r"error: patch failed: (.+):(\d+)", line):
            number = next(
                (h.number for h in patch.hunks if h.file == found[1] and int(found[2]) in (h.old, h.new)), "?"
            )
            places.append(f"{found[1]}, hunk {number}: not the lines it changes, near line {found[2]}")
        elif found := re.fullmatch(r"error: (.+): No such file or directory", line):
            places.append(f"{found[1]}, hunk 1: no such file")
    return "; ".join(places) or complaint.splitlines()[0].removeprefix("error: ")


def try_patches(
    packages: Path, patches: Sequence[Patch], upto: int | None, write: bool
) -> list[tuple[Patch, str, str]]:
    """Tries patches in order, each on top of those before it that apply.

    Args:
        packages: the folder that holds open_clip and open_clip_train.
        patches: all that there are, in order.
        upto: how many of them are tried; None for all.
        write: whether the files are changed, if none conflicts.

    Returns:
        Of each patch: APPLIES, APPLIED or CONFLICTS, and where and why it conflicts.
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch, found = Scratch(packages, patches, Path(folder)), []
        applied = scratch.find_applied(patches)
        for patch in patches[:upto]:
            if patch.path in applied:
                found.append((patch, APPLIED, ""))
            elif why := patch.damage or scratch.apply(patch):
                found.append((patch, CONFLICTS, why))
            else:
                found.append((patch, APPLIES, ""))
        if write and all(state != CONFLICTS for _, state, _ in found):
            scratch.write_back()
        return found


def run(folder: Path, check: bool, upto: int | None) -> int:
    """The program; returns its exit code.

    Raises:
        PatchError: for what keeps it from trying.
    """
    packages = find_packages(folder)
    paths = sorted(FOLDER.glob("[0-9]*.patch"))
    if not paths:
        raise PatchError(f"{FOLDER}: holds no patches")
    if upto is not None and not 1 <= upto <= len(paths):
        raise PatchError(f"--upto {upto}: there are patches 1 to {len(paths)}")
    version = read_version(packages)
    if version != VERSION and not check:
        raise PatchError(f"{folder}: holds OpenCLIP {version}, and the patches are for {VERSION}; --check still tries")
    if version != VERSION:
        print(f"{folder} holds OpenCLIP {version}; the patches are for {VERSION}.")
    found = try_patches(packages, [read_patch(path) for path in paths], upto, write=not check)
    conflicts = [state for _, state, _ in found].count(CONFLICTS)
    for patch, state, why in found:
        now = "applied" if state == APPLIES and not check and not conflicts else state
        print(f"{patch.path.stem}: {now}" + (f" ({why})" if why else ""))
    if conflicts:
        first = next(patch.path.stem for patch, state, _ in found if state == CONFLICTS)
        lacking = f"; what comes behind {first} may lack just that" if conflicts > 1 else ""
        print(f"{conflicts} of {len(found)} conflict{lacking}{'' if check else '; nothing was written'}.")
    return int(conflicts > 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 1 where a patch conflicts; 2 for what keeps it from trying."""
    parser = argparse.ArgumentParser(description=f"Applies the patches for OpenCLIP {VERSION}, in order.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="a clone of OpenCLIP, or a folder of its two packages")
    parser.add_argument("--check", action="store_true", help="only say of each whether it applies; write nothing")
    parser.add_argument("--upto", type=int, metavar="N", help="only the first N (default: all)")
    args = parser.parse_args(argv)
    try:
        return run(args.folder, args.check, args.upto)
    except (PatchError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
