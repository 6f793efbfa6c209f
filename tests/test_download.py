"""--download: the hub's own client brings the paper's sets, from whichever of two names the hub has them under."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.eval_sets import webdataset
from tests.hub_server import serving

FETCH = """
import sys
from pathlib import Path
from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.layouts import download, find_set
for name in sys.argv[2:]:
    try:
        download(name, Path(sys.argv[1]))
        print(name, find_set(name, Path(sys.argv[1])).shards)
    except UsageError as error:
        print(error)
"""


def fetched(address: str, root: Path, *names: str) -> list[str]:
    """The lines that a process printed which knows the hub at `address`."""
    hub = {"HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", FETCH, str(root), *names]
    ended = subprocess.run(command, env={**os.environ, **hub}, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stdout.strip().splitlines()


@pytest.mark.slow
def test_sets_come_from_the_hub(tmp_path):
    theirs = webdataset(tmp_path / "theirs")
    files = {str(path.relative_to(theirs)): path.read_bytes() for path in theirs.rglob("*") if path.is_file()}
    with serving() as hub:
        hub.datasets["clip-benchmark/wds_vtab-pets"] = {**files, "train/0.tar": b"much more", "README.md": b"card"}
        hub.datasets["clip-benchmark/wds_cars"] = files
        lines = fetched(hub.address, tmp_path / "sets", "pets", "cars", "dtd")
    assert lines[:2] == ["pets 2", "cars 2"]
    assert "wds_vtab-dtd, clip-benchmark/wds_dtd" in lines[2] and len(lines) == 3
    brought = tmp_path / "sets" / "pets"
    assert (brought / "test" / "1.tar").read_bytes() == files["test/1.tar"] and not (brought / "train").exists()
    assert (brought / "classnames.txt").is_file()


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    (line,) = fetched("http://127.0.0.1:9", tmp_path, "pets")
    assert line.startswith("--download: clip-benchmark/wds_vtab-pets cannot be downloaded")
