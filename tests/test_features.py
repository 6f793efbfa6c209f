"""Features that are not made in the step, but stored beside the image; and classes, by which mined pairs are judged."""

import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from open_clip_fff import sample_id
from open_clip_fff.commands.embed import main
from open_clip_fff.config.mining import StoredBy
from open_clip_fff.data.caption_rows import CaptionRow, RowBytes, deserialize
from open_clip_fff.data.features import (
    FEATURE_COLUMN,
    MEMBER,
    FeatureReader,
    MissingFeatures,
    normalised_features,
    pack_features,
    unpack_features,
)
from open_clip_fff.data.shards import read_samples
from open_clip_fff.errors import OneRankError
from tests import recorder
from tests.conftest import colour_sample, write_tar
from tests.recorder import RECORDED
from tests.test_training import FFF, mining

EVERYTHING = ["--p1", "0.2", "--p2", "0.9", "--p3", "0.9", "--p1-prime", "0.0"]
STILL = ["--aug-cfg", "scale=(1.0,1.0)"]  # the model then sees in training nearly what was embedded


def embed(*argv: str) -> int:
    return main(list(argv))


@pytest.fixture
def stored(trainer, teacher, tmp_path) -> Path:
    """Features of the colour shards, by the teacher."""
    flags = ["--json-text-key", "captions", "--mining-model", "tiny-clip", "--mining-pretrained", str(teacher)]
    flags += ["--model-config", str(trainer.config), "--batch-size", "4"]  # what training alone needs is passed over
    assert embed("--out", str(tmp_path / "features"), "--", *trainer.tars, *flags) == 0
    return tmp_path / "features"


def members_of(shards: list[Path]) -> list[tuple[str, dict[str, bytes]]]:
    """Key and members of each sample."""
    samples = read_samples([str(path) for path in shards], 1000)
    return [(x["__key__"], {name: y for name, y in x.items() if not name.startswith("__")}) for x in samples]


def test_a_key_that_is_there_twice_is_embedded_once(trainer, teacher, tmp_path, capsys):
    samples = [("x", colour_sample(0)), ("y", colour_sample(1)), ("x", colour_sample(2))]
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for key, sample in samples:
            for name, content in sample.items():
                member = tarfile.TarInfo(f"{key}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    argv = ["--", "--train-data", str(tmp_path / "0.tar"), "--json-text-key", "captions", "--mining-model", "tiny-clip"]
    argv += ["--mining-pretrained", str(teacher), "--model-config", str(trainer.config)]
    for into in ("sidecar", "tars"):
        assert embed("--out", str(tmp_path / into), "--into", into, *argv) == 0
        out = capsys.readouterr().out
        assert "2 images" in out and "1 × its key was there before" in out
    table = pq.read_table(tmp_path / "sidecar" / "0.parquet")
    (x, first), (y, second), (again, none) = members_of([tmp_path / "tars" / "0.tar"])
    assert table["key"].to_pylist() == ["x", "y"] == [x, y] and again == "x"
    assert table["features"].to_pylist() == [first[MEMBER], second[MEMBER]] and MEMBER not in none


def mined(log: str) -> list[str]:
    return re.findall(r"Mined/image: ([\d.]+)", log)


# --- precomputed -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stored_features_mine_what_the_model_mines_in_the_step(trainer, teacher, stored, capsys):
    """From a sidecar, and from members of the tars: the same pairs as the frozen model itself finds."""
    assert trainer(*FFF, *mining(teacher, "0.2", "0.9", "0.9", "0.0"), *STILL, "--name", "frozen") == 0
    sidecar = ["--mining-features", "precomputed", *EVERYTHING, *STILL]
    assert trainer(*FFF, *sidecar, "--feature-sidecar", str(stored), "--name", "sidecar") == 0
    assert re.search(r"features of tiny-clip/.*teacher.pt in 100.00% of the first 16 rows", capsys.readouterr().out)
    tars = stored.parent / "tars"
    tars.mkdir()
    for shard in sorted(trainer.shards.glob("*.tar")):
        table = pq.read_table(stored / f"{shard.stem}.parquet").to_pylist()
        files = {row["key"]: row[FEATURE_COLUMN] for row in table}
        rows = members_of([shard])
        write_tar(tars / shard.name, {key: {**row, MEMBER: files[key]} for key, row in rows})
    data = ["--train-data", str(tars / "{00..03}.tar"), "--train-num-samples", "64"]
    assert trainer(*FFF, *sidecar, "--name", "tars", data=data) == 0
    frozen, by_sidecar, by_tars = (np.array(mined(trainer.log(name)), float) for name in ("frozen", "sidecar", "tars"))
    assert np.array_equal(by_sidecar, by_tars) and len(frozen) == 4
    assert (frozen > 0).all() and by_sidecar == pytest.approx(frozen, rel=0.1)


def test_embedding_does_what_is_missing(trainer, teacher, stored, capsys):
    before = {path: path.read_bytes() for path in stored.glob("*.parquet")}
    assert len(before) == 4
    (stored / "02.parquet").unlink()
    settings = json.loads((stored / "settings.json").read_text())
    settings["captions"] |= {"class_key": "cls", "min_coverage": 0.0}  # an earlier version kept all of them
    (stored / "settings.json").write_text(json.dumps(settings))
    flags = ["--json-text-key", "captions", "--mining-model", "tiny-clip", "--mining-pretrained", str(teacher)]
    assert embed("--out", str(stored), "--", *trainer.tars, *flags, "--caption-words", "2:") == 2
    assert "was made with captions: words [0, None] and not [2, None]; name another" in capsys.readouterr().err
    new = stored.with_name("new")  # a model or device that cannot be used leaves no folder with its settings
    assert embed("--out", str(new), "--device", "nothing", "--", *trainer.tars, *flags) == 2 and not new.exists()
    assert embed("--out", str(new), "--batch-size", "0", "--", *trainer.tars, *flags) == 2 and not new.exists()
    capsys.readouterr()
    assert embed("--out", str(stored), "--", *trainer.tars, *flags, "--positive-key", "txt") == 0
    assert "1 of 4 shards to do" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in stored.glob("*.parquet")} == before


@pytest.mark.slow
def test_stored_features_know_what_is_in_a_models_files(trainer, teacher, tmp_path, capsys):
    """A run that goes on is another model under the same path; a copy is the same one under another."""

    def reads(*miner: object) -> str:
        flags = ["--mining-features", "precomputed", "--feature-sidecar", str(tmp_path / "features"), *EVERYTHING]
        capsys.readouterr()
        code = trainer(*FFF, *flags, "--mining-model", *map(str, miner), "--name", "x", "--train-num-samples", "16")
        shutil.rmtree(trainer.run("x"), ignore_errors=True)
        return capsys.readouterr().err.strip().splitlines()[-1] if code else "read"

    assert trainer("--method", "clip", "--name", "run") == 0
    run, first = trainer.run("run"), trainer.run("run") / "checkpoints" / "epoch_1.pt"
    flags = ["--json-text-key", "captions", "--mining-model", str(run)]
    assert embed("--out", str(tmp_path / "features"), "--", *trainer.tars, *flags) == 0
    assert f"features of {first}, on cpu" in capsys.readouterr().out
    shutil.copy(first, tmp_path / "copy.pt")
    for same in ((run,), (first,), ("tiny-clip", "--mining-pretrained", tmp_path / "copy.pt")):
        assert reads(*same) == "read"
    assert "its features are of" in reads("tiny-clip", "--mining-pretrained", teacher)
    assert trainer("--method", "clip", "--name", "run", "--resume", "latest", "--epochs", "2") == 0
    assert re.search(r"its features are of .*epoch_1\.pt#\w{16}, not of .*epoch_2\.pt#\w{16}", reads(run))
    assert embed("--out", str(tmp_path / "features"), "--", *trainer.tars, *flags) == 2  # nor is a folder filled by two
    assert reads(first) == "read"
    # features of before there were hashes have a path
    for old, wanted in ((str(first), "read"), ("tiny-clip/elsewhere.pt", "its features are of tiny-clip/elsewhere.pt")):
        for path in (tmp_path / "features").glob("*.parquet"):
            rows = pq.read_table(path).to_pylist()
            for row in rows:
                was = np.load(io.BytesIO(row[FEATURE_COLUMN]))
                np.savez(file := io.BytesIO(), **{**was, "model": np.array(old)})
                row[FEATURE_COLUMN] = file.getvalue()
            pq.write_table(pq.read_table(path).from_pylist(rows), path)
        assert wanted in reads(first)


def test_a_file_and_its_reading_back():
    image, texts = np.eye(4, dtype=np.float32)[0], np.eye(4, dtype=np.float32)[1:3]
    content = pack_features(image, texts, ["a dog", "a cat"], "some/model")
    stored = unpack_features(content)
    assert stored.model == "some/model" and np.array_equal(stored.texts, texts) and stored.image.dtype == np.float16
    sample = {"__url__": "x/00.tar", "__key__": "k7", MEMBER: content}
    # by the caption and not by its place; any number of them
    found = FeatureReader(None).read(sample, ["a cat"])
    assert np.array_equal(found.image, image) and np.array_equal(found.texts, texts[1:])
    with pytest.raises(OneRankError, match=r"x/00.tar: k7: no feature of its caption 'a cow'"):
        FeatureReader(None).read(sample, ["a cat", "a cow"])
    with pytest.raises(OneRankError, match=r"k7: its features are of some/model, not of another"):
        FeatureReader(None, "another").read(sample, ["a cat"])
    for damaged in (
        content[:40],
        content[:-1],
        content[:-30],
        content[:90] + b"!" + content[91:],
        b"",
        pack_features(image, texts[:, :2], ["a", "b"], "m"),
        pack_features(None, texts, ["a"], "m"),
    ):
        with pytest.raises(MissingFeatures):
            unpack_features(damaged)


def test_a_file_that_another_program_wrote_holds_the_same():
    """Compressed, in another order, or with more in it: what zipfile reads is read."""
    arrays = np.load(io.BytesIO(pack_features(np.ones(4), np.ones((1, 4)), ["a dog"], "m")))
    contents = {name: arrays[name] for name in reversed(arrays.files)}
    for save, more in ((np.savez_compressed, {}), (np.savez, {}), (np.savez, {"more": np.ones(1)})):
        save(file := io.BytesIO(), **contents, **more)
        stored = unpack_features(file.getvalue())
        assert stored.model == "m" and all(np.array_equal(stored._asdict()[n], contents[n]) for n in ("image", "texts"))


def test_features_of_captions_alone():
    """A sentence model's: read back, in a row and serialized, and not mixed with others of that name."""
    texts = np.eye(4, dtype=np.float32)[:3]
    sample = {"__url__": "x/00.tar", "__key__": "k7", MEMBER: pack_features(None, texts, ["a", "b", "c"], "some/model")}
    reader = FeatureReader(None)
    assert reader.made_by is None
    found = reader.read(sample, ["c", "a"])
    assert found.image.shape == (0,) and np.array_equal(found.texts, texts[[2, 0]])
    assert reader.made_by == StoredBy("some/model", images=False)
    row = deserialize(RowBytes.of(CaptionRow(1, ["c", "a"], features=found)).decode()).only([1])
    assert row.captions == ["a"] and row.features.image.shape == (0,) and np.array_equal(row.features.texts, texts[:1])
    image, text = normalised_features(torch.zeros(1, 0).half(), 0.5 * torch.from_numpy(texts)[None].half())
    assert image is None and text.dtype == torch.float32 and torch.equal(text, torch.from_numpy(texts)[None])
    other = {**sample, MEMBER: pack_features(texts[0], texts, ["a", "b", "c"], "some/model")}
    with pytest.raises(OneRankError, match=r"k7: its features are of widths \(4, 4\), not of widths \(0, 4\)"):
        reader.read(other, ["a"])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_features_of_other_captions_stop_the_run_and_name_the_sample(trainer, stored, capsys, workers):
    """In the first shard before training; in a later one when it comes, without a worker's traceback."""
    argv = [*FFF, "--mining-features", "precomputed", "--feature-sidecar", str(stored), "--workers", workers]
    for shard in ("00", "03"):
        right = (stored / f"{shard}.parquet").read_bytes()
        table = pq.read_table(stored / f"{shard}.parquet")
        rows = table.to_pylist()
        rows[5][FEATURE_COLUMN] = rows[6][FEATURE_COLUMN]
        pq.write_table(table.from_pylist(rows), stored / f"{shard}.parquet")
        capsys.readouterr()
        assert trainer(*argv, "--name", f"wrong-{shard}") == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert re.search(rf"error: .*{shard}.tar: \w+: no feature of its caption '", last), last
        (stored / f"{shard}.parquet").write_bytes(right)


def test_rows_without_features_are_skipped_and_counted(trainer, stored):
    table = pq.read_table(stored / "02.parquet")
    rows = table.to_pylist()[:-3]
    rows[0][FEATURE_COLUMN] = b"damaged"
    pq.write_table(table.from_pylist(rows), stored / "02.parquet")
    argv = [*FFF, "--mining-features", "precomputed", "--feature-sidecar", str(stored), "--workers", "1"]
    assert trainer(*argv, "--name", "gaps") == 0
    skipped = int(re.search(r"(\d+) without stored features that can be read", trainer.log("gaps"))[1])
    assert skipped and skipped % 4 == 0  # the loader reads its shard again where an epoch wants more rows than it has


def test_features_that_are_not_finite_are_left_out_counted_and_named(trainer, stored):
    table = pq.read_table(stored / "02.parquet")
    rows = {row["key"]: row for row in table.to_pylist()}
    for key, value in (("0003", np.nan), ("0007", np.inf)):
        found = unpack_features(rows[key][FEATURE_COLUMN])
        found.image[1 if key == "0003" else 0] = value
        file = io.BytesIO()
        np.savez(file, **found._asdict())
        rows[key][FEATURE_COLUMN] = file.getvalue()
    pq.write_table(table.from_pylist(list(rows.values())), stored / "02.parquet")
    argv = [*FFF, "--mining-features", "precomputed", *EVERYTHING, "--feature-sidecar", str(stored)]
    assert trainer(*argv, *RECORDED, "--name", "x") == 0
    log, left_out = trainer.log("x"), {sample_id(colour_sample(32 + row)["png"]) for row in (3, 7)}
    assert re.search(r"epoch 0: \d+ with stored features that are not finite\n", log)
    for key in ("0003", "0007"):
        assert f"02.tar: {key}: its stored features are not finite. Going on without it." in log
    assert not left_out & set(recorder.ids()) and len(set(recorder.ids())) == 62
    assert "nan" not in log


def test_features_that_overflow_are_not_stored(trainer, teacher, tmp_path, capsys):
    """The image tower's, which are infinite before they are normalised; its weights are finite."""
    stored = torch.load(teacher, weights_only=True)
    for name in ("visual.ln_post.weight", "visual.proj"):
        stored["state_dict"][name] *= 1e30
    torch.save(stored, tmp_path / "loud.pt")
    flags = ["--json-text-key", "captions", "--mining-model", "tiny-clip", "--model-config", str(trainer.config)]
    flags += ["--mining-pretrained", str(tmp_path / "loud.pt")]
    embed("--out", str(tmp_path / "out"), "--", "--train-data", str(trainer.shards / "00.tar"), *flags)
    record = json.loads((tmp_path / "out" / "records" / "00.json").read_text())
    assert [entry["why"] for entry in record["left_out"]] == ["features are not finite"] * 16
    assert pq.read_table(tmp_path / "out" / "00.parquet").num_rows == 0


@pytest.mark.parametrize("content", [b"<html>", "text", None], ids=["html", "text", "missing"])
def test_a_later_feature_sidecar_that_is_none_is_named_once(trainer, stored, content):
    path = stored / "01.parquet"
    if isinstance(content, str):
        pq.write_table(pa.table({"key": [f"{row:04d}" for row in range(16)], FEATURE_COLUMN: [content] * 16}), path)
    elif content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    argv = [*FFF, "--mining-features", "precomputed", "--feature-sidecar", str(stored)]
    assert trainer(*argv, "--name", "x") == 0
    lines = re.findall(r"01\.parquet cannot be read \((.*)\)\. Going on", trainer.log("x"))
    assert lines and (content != "text" or lines[0].startswith("its column 'features' holds string, and not bytes"))
    counted = int(re.search(r"epoch 0: (\d+) without stored features that can be read", trainer.log("x"))[1])
    assert counted >= 16 and len(lines) <= counted // 16 + 1  # a pass over the shards tells it once


def test_features_that_cannot_serve(trainer, stored, teacher, capsys):
    def refused(*argv: str, data: list[str] | None = None) -> str:
        capsys.readouterr()
        keys = [] if data else FFF[-2:]
        assert trainer(*FFF[:-2], *keys, "--mining-features", "precomputed", *argv, data=data) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    error = refused()
    assert "none of the first 16 rows of 00.tar has any that can be used (" in error
    assert "00.tar: 0000 has no stored features); make them with open-clip-fff embed" in error
    other = ["--feature-sidecar", str(stored), "--mining-model", "other", "--mining-pretrained", "tag"]
    assert re.search(r"00.tar: \w+: its features are of tiny-clip/.*, not of other/tag", refused(*other))
    assert "does not exist" in refused("--feature-sidecar", str(stored / "nowhere"))
    assert "go with tars" in refused(data=trainer.table)


# --- the class of an image, by which mined pairs are judged ----------------------------------------------------------


@pytest.mark.slow
def test_classes_judge_what_was_mined(trainer, teacher, tmp_path, capsys):
    """Each colour is a class; it changes nothing in training."""
    for number, shard in enumerate(sorted(trainer.shards.glob("*.tar"))):
        colours = {key: re.search(rb"red|green|blue|yellow|$", row["json"])[0] for key, row in members_of([shard])}
        write_tar(tmp_path / f"{number}.tar", {key: {**row, "cls": colours[key]} for key, row in members_of([shard])})
    data = ["--train-data", str(tmp_path / "{0..3}.tar"), "--train-num-samples", "64"]
    flags = [*FFF, *mining(teacher, "off", "-1", "off", "off")]  # everything is mined
    assert trainer(*flags, "--class-key", "cls", "--name", "judged", data=data) == 0
    shares = [float(x) for x in re.findall(r"Right: ([\d.]+)%", trainer.log("judged"))]
    assert len(shares) == 4 and all(10 < share < 40 for share in shares)  # chance is a quarter, less the image itself
    assert trainer(*flags, "--name", "unjudged", data=data) == 0
    a, b = (trainer.checkpoint(name)["state_dict"] for name in ("judged", "unjudged"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    capsys.readouterr()
    assert trainer(*flags, "--class-key", "species", data=data) == 2
    assert "--class-key species: no row of 0.tar has a class there" in capsys.readouterr().err
