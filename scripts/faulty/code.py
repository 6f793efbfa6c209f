"""Data that would run code, or start other programs."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import torch

from .inputs import colour_image, colour_sample, write_tar
from .lab import CLIP, MANY, SCRIPTS, Ended, Lab
from .rows import Outcome, fault, require

TOPIC = "data runs no code"
ROWS = 32
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n0 0 moveto showpage\n%%EOF\n"


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def trap(path: Path) -> dict[str, bytes]:
    """Members of a tar that make a folder when webdataset's own decoders read them."""
    saved = io.BytesIO()
    torch.save(Payload(path), saved)
    pickled = pickle.dumps(Payload(path))
    return {"pyd": pickled, "pickle": pickled, "more.pyd": pickled, "pth": saved.getvalue()}


def trained_on_traps(lab: Lab, *flags: str) -> Outcome:
    """Training and validation with these members in every row."""
    data, ran = lab.shards(ROWS), lab.folder / "ran"
    write_tar(lab.tar(0), {str(row): {**trap(ran), **colour_sample(row)} for row in range(ROWS)})
    ended = lab.train(*flags, "--val-data", str(lab.tar(0)), data=data).succeeded()
    return nothing_ran(ended, ran, rf"\[{ROWS}/{ROWS} \(100%\)\]")


def nothing_ran(ended: Ended, ran: Path, trained: str) -> Outcome:
    require(not ran.exists(), "a member's code ran")
    return Outcome(f"not decoded; {ended.line(trained).strip('[]')}", "nothing")


@fault(TOPIC, "pickles in a tar, OpenCLIP's own loss and data")
def stock(lab: Lab) -> Outcome:
    return trained_on_traps(lab)


@fault(TOPIC, "pickles in a tar, FFF")
def ours(lab: Lab) -> Outcome:
    return trained_on_traps(lab, *MANY)


@fault(TOPIC, "pickles in a webdataset that eval/zero_shot.py scores")
def scored(lab: Lab) -> Outcome:
    lab.train(*CLIP, data=lab.shards(ROWS)).succeeded()
    folder, ran = lab.folder / "sets" / "mine" / "test", lab.folder / "ran"
    folder.mkdir(parents=True)
    (folder.parent / "classnames.txt").write_text("red\ngreen")
    (folder.parent / "zeroshot_classification_templates.txt").write_text("a {c} square")
    rows = {str(n): {"png": colour_image(("red", "green")[n % 2], n), "cls": b"%d" % (n % 2)} for n in range(8)}
    write_tar(folder / "0.tar", {key: {**trap(ran), **members} for key, members in rows.items()})
    (folder / "nshards.txt").write_text("1")
    command = [SCRIPTS.parent / "eval" / "zero_shot.py", lab.logs / "x", "--model-config", lab.config]
    command += ["--data-root", lab.folder / "sets", "--datasets", "mine", "--device", "cpu", "--workers", "0"]
    command += ["--store", lab.folder / "store"]
    return nothing_ran(lab.run(command).succeeded(), ran, r"mine .* 8 images.*")


@fault(TOPIC, "a member whose name leaves the folder, through pack.py")
def leaves(lab: Lab) -> Outcome:
    write_tar(lab.folder / "given.tar", {"../../out": colour_sample(0), "good": colour_sample(1)})
    out = lab.folder / "a" / "b" / "packed"
    ended = lab.run([SCRIPTS / "pack.py", lab.folder / "given.tar", "--out", out]).succeeded()
    (written,) = out.glob("*.tar")
    with tarfile.open(written) as tar:
        names = tar.getnames()
    require(names and not any(".." in name for name in names), f"it wrote {names}")
    return Outcome(ended.line(r"[^\n]*leaves the folder[^\n]*|[^\n]*left out[^\n]*").strip(), "the row")


@fault(TOPIC, "an EPS called .jpg, which Pillow hands to Ghostscript")
def postscript(lab: Lab) -> Outcome:
    data = lab.shards(ROWS)
    write_tar(lab.tar(0), {str(n): colour_sample(n) if n else {"txt": b"x", "jpg": EPS} for n in range(ROWS + 1)})
    ended = lab.train(*MANY, data=data).succeeded()
    return Outcome("not opened", ended.line(r"Rows skipped or damaged in epoch 0: .+").split(": ")[1])
