"""Captions that flags name, in the commands that fine-tune: all are looked for before a model is loaded."""

import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from open_clip_fff.cli import main
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.tools.finetune.pairs import TrainingPairs
from tests.captioning_models import make_captioner
from tests.conftest import colour_sample, write_tar
from tests.matching_models import make

MODELS = {"train-captioner": make_captioner, "train-discriminator": make}


@pytest.fixture(params=MODELS)
def program(request, shards, tmp_path, capsys):
    """Fine-tunes on the colour shards for a step, and gives the code and what was printed."""

    def run(*argv, model="nowhere"):
        capsys.readouterr()
        data = ["--train-data", shards / "{00..03}.tar", "--held-out", "0.5", "--out", tmp_path / "out"]
        steps = ["--steps", "1", "--batch-size", "4", "--workers", "0", "--model", model]
        code = main([str(word) for word in (request.param, *data, *steps, *argv)])
        return code, capsys.readouterr()

    run.command = request.param
    return run


def test_captions_that_are_not_there_are_refused(program, tmp_path):
    """In one line, and before the model, which is not there, either."""
    for argv, line in (
        (["--json-text-key", "nofield"], "--json-text-key nofield: no row of 00.tar has text there; the first json is"),
        (["--caption-sidecar", tmp_path / "nowhere", "--sidecar-text-key", "x"], "00.parquet does not exist"),
        (["--text-key", "caption"], "--text-key caption: no row of 00.tar has text there"),
        (["--caption-words", "99:"], "--text-key txt: no row of 00.tar has text there (--caption-words 99:)"),
    ):
        code, printed = program(*argv)
        assert code == 2 and line in printed.err and len(printed.err.splitlines()) == 1, printed
    assert "--model nowhere: there is no folder of that name" in program("--json-text-key", "captions")[1].err


def test_captions_that_are_there_in_part_are_told(program, shards, tmp_path, caplog):
    side = tmp_path / "side"
    side.mkdir()
    keys = [f"{row:04d}" for row in range(64)]
    for number in range(3):
        table = pa.table({"key": keys, "captions": [[f"a {key}"] for key in keys]})
        pq.write_table(table, side / f"0{number}.parquet")
    argv = ["--text-key", "", "--caption-sidecar", side, "--sidecar-text-key", "captions"]
    model = MODELS[program.command](tmp_path / "model", "blip")
    code, printed = program(*argv, model=model)
    missing = f"warning: --caption-sidecar: 1 of 4 shards have no parquet there (first {side / '03.parquet'})"
    assert code == 0 and f"{missing}: their rows have no captions from there" in printed.out
    # what cannot be read is found as its turn comes
    (side / "01.parquet").write_bytes(b"no parquet")
    captions = CaptionSettings(per_image=9, policy="all", text_keys=(), sidecar=str(side), sidecar_keys=("captions",))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        urls = [str(shards / f"0{number}.tar") for number in range(2)]
        stream = iter(TrainingPairs(urls, CaptionReader(captions), lambda image: torch.zeros(1), 0.1, seed=0))
        assert len({next(stream).id for _ in range(10)}) == 10
    (record,) = caplog.records
    assert f"--train-data: {side / '01.parquet'} cannot be read (" in record.message


def test_json_that_cannot_be_read_is_told(program, tmp_path):
    samples = {f"{row:02d}": colour_sample(row) for row in range(40)}
    samples["03"]["json"] = b"{no json"
    tar = write_tar(tmp_path / "0.tar", samples)
    model = MODELS[program.command](tmp_path / "model", "blip")
    code, printed = program("--json-text-key", "captions", "--train-data", tar, model=model)
    line = f"warning: 0.tar: 1 row with captions that cannot be read, first {tar}: 03.json cannot be read ("
    assert code == 0 and line in printed.out
