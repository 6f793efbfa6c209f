"""What cannot be read of a sample, or beside the shards, is told by the commands that do not train, too."""

import io
import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from open_clip_fff.data.features import FEATURE_COLUMN, unpack_features
from tests.conftest import colour_sample, write_tar
from tests.test_features import stored  # noqa: F401

COMMANDS = {  # by program: its own flags, and what it writes
    "analyze_captions": (["--batch", "4"], "analysis"),
    "calibrate": (["--mined-per-image", "2", "--global-batch", "8"], "calibration"),
    "mined_gallery": ([], "gallery.html"),
}


@pytest.fixture
def model(trainer, teacher) -> list[str]:
    """Training's flags, but the data: the tiny model mines."""
    mining = ["--mining-model", "tiny-clip", "--mining-pretrained", str(teacher), "--model-config", str(trainer.config)]
    return [*mining, "--json-text-key", "captions"]


@pytest.mark.parametrize("name", COMMANDS)
def test_stored_features_that_cannot_be_used_are_told_by_kind(name, program, trainer, stored, tmp_path):  # noqa: F811
    """A sidecar that is none is named, once, and costs exit code 1, as a shard does."""
    table = pq.read_table(stored / "02.parquet")
    rows = table.to_pylist()[1:]
    infinite = unpack_features(rows[1][FEATURE_COLUMN])
    infinite.image[0] = np.inf
    np.savez(file := io.BytesIO(), **infinite._asdict())
    rows[0][FEATURE_COLUMN], rows[1][FEATURE_COLUMN] = b"damaged", file.getvalue()
    pq.write_table(table.from_pylist(rows), stored / "02.parquet")
    (stored / "01.parquet").write_bytes(b"no parquet")
    own, out = COMMANDS[name]
    argv = ["--out", tmp_path / out, *own, "--", *trainer.tars, "--json-text-key", "captions"]
    argv += ["--mining-features", "precomputed", "--feature-sidecar", stored]
    done = program(name, *argv, expect=1, folder="scripts")
    assert len(re.findall(rf"^{stored}/01.parquet cannot be read \(.*\)$", done.err, re.M)) == 1
    if name == "analyze_captions":
        told = pd.read_csv(tmp_path / out / "left-out.csv")["reason"].value_counts().to_dict()
        assert told == {"features cannot be read": 17, "no features": 1, "features are not finite": 1}
    else:
        told = done.out if name == "calibrate" else (tmp_path / out).read_text()
        kinds = ("17 {}features cannot be read", "1 {}no features", "1 {}features are not finite")
        assert all(kind.format("left out: " if name == "calibrate" else "× ") in told for kind in kinds)


@pytest.mark.parametrize("name", COMMANDS)
def test_captions_that_are_lost_beside_others_are_told(name, program, model, tmp_path):
    samples = {f"{row:02d}": colour_sample(row) for row in range(40)}
    samples["03"]["json"] = samples["05"]["json"] = b"{broken"
    tar = write_tar(tmp_path / "a.tar", samples)
    own, out = COMMANDS[name]
    done = program(name, "--out", tmp_path / out, *own, "--", "--train-data", tar, *model, folder="scripts")
    assert f"2 images with captions that cannot be read, first {tar}: 03.json cannot be read (" in done.err


def test_captions_that_are_not_embedded_or_in_a_set_are_told(program, model, tmp_path):
    samples = {f"{row:02d}": colour_sample(row) for row in range(4)}
    samples["03"]["json"] = b"{broken"
    tar = write_tar(tmp_path / "a.tar", samples)
    done = program("embed", "--out", tmp_path / "out", "--", "--train-data", tar, *model, folder="scripts")
    assert "4 images, 10 captions, 1 image with captions that cannot be read" in done.out
    done = program("retrieval_set", tar, "--out", tmp_path / "set", "--json-text-key", "captions")
    assert f"1 sample with captions that cannot be read, first {tar}: 03.json cannot be read (" in done.out
