"""What loader workers' shards can fill, told before training; and where the numbers of rows are from."""

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_clip_fff.data import row_counts as module
from open_clip_fff.data.row_counts import row_counts
from open_clip_fff.data.sidecar import Sidecar
from tests import recorder
from tests.conftest import colour_sample, write_tar
from tests.test_short_epochs import MANY, Launched, shards

FIX = "use fewer --workers, a smaller --batch-size, shards of more equal sizes, or --dataset-resampled"


def test_rows_are_known_from_what_lies_beside_shards(tmp_path, monkeypatch):
    urls = [str(tmp_path / f"{number}.tar") for number in range(6)]
    for number, url in enumerate(urls[:5]):
        rows = {f"a/{row}": colour_sample(row) for row in range(number + 1)}
        write_tar(Path(url), {**rows, "words": {"txt": b"no image"}})
    assert row_counts(urls).rows == {url: number + 1 for number, url in enumerate(urls[:5])}  # the last is not there
    assert row_counts(urls).counted_from == ("tar headers",)
    Path(urls[0]).write_bytes(Path(urls[0]).read_bytes()[:3000])  # its headers cannot be read to the end
    (tmp_path / "sizes.json").write_text(json.dumps({"1.tar": 20, "2.tar": "many"}))
    (tmp_path / "2_stats.json").write_text(json.dumps({"count": 50, "successes": 30}))
    (tmp_path / "3_stats.json").write_text("<html>")
    found = row_counts(urls)
    assert found.rows == {urls[1]: 20, urls[2]: 30, urls[3]: 4, urls[4]: 5}
    assert found.counted_from == ("sizes.json", "img2dataset's stats", "tar headers")
    assert found.total(urls[1:3]) == 50 and found.total(urls[:2]) is None and found.total([]) == 0
    for number, rows in ((0, 7), (1, 3), (2, 99)):
        table = {"key": [str(row) for row in range(rows)], "captions": ["a"] * rows}
        pq.write_table(pa.table(table), tmp_path / f"{number}.parquet")
    (tmp_path / "4.parquet").write_bytes(b"<html>")
    found = row_counts(urls, [Sidecar(str(tmp_path), ("captions",))])
    assert found.rows == {urls[0]: 7, urls[1]: 3, urls[2]: 30, urls[3]: 4, urls[4]: 5}
    assert found.counted_from[-1] == "--caption-sidecar"
    monkeypatch.setattr(module, "HEADERS", sum(Path(urls[number]).stat().st_size for number in (0, 3)))
    assert row_counts(urls).rows == {urls[1]: 20, urls[2]: 30, urls[3]: 4}
    monkeypatch.setattr(module, "FILES", 5)
    assert row_counts(urls).rows == {urls[1]: 20}
    assert row_counts(["pipe:cat 1.tar", "s3://x/1.tar"]).rows == {}


def test_the_plan_says_how_often_rows_are_trained(trainer, tmp_path, capsys):
    data = shards(tmp_path, (20, 20, 20, 10))
    assert trainer(*MANY, *recorder.RECORDED, "--workers", "2", "--name", "x", data=data) == 0
    printed = capsys.readouterr().out
    line = "Rows: 70 in 4 shards (by tar headers); an epoch takes 96, shared among 2 loader workers, each trained"
    assert f"{line} 1.20 to 1.60 times\n" in printed and "warning" not in printed
    twice = ["--train-data", f"{tmp_path}/00.tar::{tmp_path}/00.tar", "--train-num-samples", "40"]
    assert trainer(*MANY, "--name", "y", data=twice) == 0
    line = "Rows: 40 in 2 shards (by tar headers); an epoch takes 48, shared among 1 rank, each trained 1.20 times"
    assert line in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--method", "clip"]], ids=["stock", "clip"])
def test_a_short_epoch_is_told_before_training_and_by_its_counts(trainer, tmp_path, capsys, flags):
    """What is foreseen is what comes, epoch by epoch: each has the worker of the small shard, whichever it is."""
    data = shards(tmp_path, (20, 20, 20, 10))
    argv = ["--workers", "4", "--epochs", "2", "--logs", str(tmp_path / "logs"), "--name", "x"]
    assert trainer(*flags, *argv, data=data) == 0
    [line] = [x for x in capsys.readouterr().out.splitlines() if x.startswith("warning:")]
    assert f"reads 10 rows in epoch 0 ({tmp_path}/03.tar), fewer than --batch-size 16, of which OpenCLIP makes" in line
    assert f"2 of 8 mini-batches will be missing there (such a worker is in 2 of 2 epochs); {FIX}" in line
    for epoch in (0, 1):
        assert f"Epoch {epoch} was short: 6 of 8 mini-batches" in trainer.log("x")


@pytest.mark.slow
def test_a_run_that_goes_on_is_told_of_its_own_epochs(trainer, tmp_path, capsys):
    """One of two workers has two shards of 4 rows, in each epoch others."""
    data = shards(tmp_path, (20, 4, 4, 4))
    argv = ["--workers", "2", "--name", "x", "--method", "clip"]
    assert trainer(*argv, "--epochs", "1", data=data) == 0
    capsys.readouterr()
    assert trainer(*argv, "--epochs", "3", "--resume", "latest", data=data) == 0
    [line] = [x for x in capsys.readouterr().out.splitlines() if x.startswith("warning:")]
    assert "reads 8 rows in epoch 1 (" in line and "2 of 2 epochs" in line


@pytest.mark.slow
def test_ranks_that_would_wait_are_refused_before_training(trainer, tmp_path):
    run = Launched(trainer, tmp_path / "log", "--name", "x", data=shards(tmp_path, (16, 3)))
    code, lines = run.ended(90)
    assert code != 0 and len(lines) == 1, lines
    assert f"worker 0 of rank 0 reads 3 rows in epoch 0 ({tmp_path}/01.tar), fewer than --batch-size 8" in lines[0]
    assert not trainer.run("x").exists()


def test_headers_cost_little(tmp_path):
    """Of 53 MB in 1,600 rows."""
    content = {"jpg": bytes(32_000), "txt": b"a", "json": b"{}"}
    path = write_tar(tmp_path / "0.tar", {f"{row:06d}": content for row in range(1_600)})
    began = time.process_time()
    assert row_counts([str(path)]).rows == {str(path): 1_600}
    assert time.process_time() - began < 5
