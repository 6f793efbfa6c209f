"""Mistakes a user can make: one clear line each, before training, exit code 2."""

import io
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from open_clip_fff.atomic_io import atomic_file, atomic_folder, check_new_folder
from open_clip_fff.cli import main
from open_clip_fff.commands.program import as_program
from open_clip_fff.errors import UsageError
from tests.conftest import colour_sample, write_tar


@pytest.fixture
def refused(trainer, capsys):
    """Runs the trainer, expects a refusal, and gives its one line."""

    def run(*argv: str, data: list[str] | None = None) -> str:
        assert trainer(*argv, data=data) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("open_clip_fff.train: error: ") and len(error.splitlines()) == 1, error
        assert not (trainer.logs / "x").exists()  # nothing was written
        return error

    return lambda *argv, data=None: run("--name", "x", *argv, data=data)


FFF = ("--method", "fff", "--captions-per-image", "2", "--json-text-key", "captions", "--mining-features", "off")


def test_an_unknown_flag_with_a_suggestion(refused):
    line = refused("--caption-per-image", "5")
    assert "--caption-per-image" in line and "did you mean --captions-per-image" in line
    assert "did you mean --batch-size" in refused("--batchsize", "5")


def test_names_that_the_shell_has_expanded(refused, tmp_path, capsys):
    fix = "where the shell has expanded braces or *, quote them, as in 'data/{00000..00099}.tar'\n"
    shards = [f"d/{number:05d}.tar" for number in range(500)]
    line = refused("--epochs", "1", data=["--train-data", *shards, "--caption-per-image", "5"])
    assert line.endswith(f"error: unrecognized arguments: d/00001.tar and 500 more; {fix}"[:-1])
    assert main(["pack", *shards[:2], "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.endswith(f"error: unrecognized arguments: d/00001.tar; {fix}")
    assert main(["embed", "--out", str(tmp_path / "out"), "--train-data", *shards[:3]]) == 2
    assert capsys.readouterr().err.endswith(f"error: unrecognized arguments: d/00001.tar and 1 more; {fix}")
    assert "(did you mean --train-data?)" in refused("--traindata", shards[0])


def test_what_sigterm_ends_leaves_nothing_unfinished(tmp_path, capsys):
    """A second one, as timeout and Slurm send, does not end the removal."""

    def body() -> int:
        with atomic_folder(tmp_path / "set") as folder, atomic_file(tmp_path / "00.tar"):
            (folder / "0.tar").write_text("half")
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
        return 0

    for shared, kept in ((True, "complete files stay, and a second"), (False, "what is not written yet is lost")):
        assert as_program("open-clip-fff pack", body, shared) == 143
        assert f"open-clip-fff pack: interrupted; {kept}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()) and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_output_folder_is_tried_before_the_work(tmp_path, monkeypatch):
    """And leaves no trace of that; a link to an empty folder is written through."""
    new, linked, link = tmp_path / "below" / "new", tmp_path / "linked", tmp_path / "link"
    linked.mkdir()
    link.symlink_to(linked)
    for out in (new, link):
        check_new_folder(out)
        assert not [*out.parent.glob(".*"), *out.glob("*")] and new.exists() == (out == link)
        with atomic_folder(out) as folder:
            (folder / "weights").touch()
    assert (linked / "weights").exists() and link.is_symlink()
    for bad in ("/proc/none", "/proc/none/below", tmp_path / ("x" * 300), tmp_path / "linked" / "weights" / "below"):
        with pytest.raises(UsageError, match=rf"--out {bad}: cannot be written"):
            check_new_folder(Path(bad))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for here in (".", "../here", str(tmp_path / "here")):
        with pytest.raises(UsageError, match=rf"--out {here}: is the current folder, .*; name one in it"):
            check_new_folder(Path(here))


def test_a_value_that_a_flag_does_not_take(refused):
    assert "--method: invalid choice: 'ffff'" in refused("--method", "ffff")
    assert "--batch-size: invalid int value: 'many'" in refused("--batch-size", "many")
    assert "--logit-bias-init: invalid 'auto' or a number value: 'high'" in refused("--logit-bias-init", "high")


@pytest.mark.parametrize("flag", ["--p1", "--p2", "--p3", "--p1-prime"])
def test_a_threshold_out_of_range(refused, flag):
    line = refused(*FFF, flag, "1.2")
    assert flag in line and "1.2" in line and "from -1 to 1, or 'off'" in line


def test_k_larger_than_any_row(refused):
    line = refused(*FFF, "--captions-per-image", "7")
    assert "--captions-per-image 7" in line and "no row of 00.tar has more than 5" in line and "--json-text-key" in line


def test_a_caption_field_that_does_not_exist(refused):
    line = refused(*FFF, "--json-text-key", "captions;blip2")
    assert "--json-text-key blip2: no row of 00.tar has text there" in line
    assert "separated by ; and not" in refused(*FFF, "--json-text-key", "captions,title")
    assert refused(*FFF, "--json-text-key", "re:^capt").endswith("takes the pattern of a whole name, as in re:cap.*")
    assert "--text-key caption: no row of 00.tar" in refused(*FFF, "--text-key", "caption")
    assert "json, png, txt, and json has captions, title, width; without it: --text-key ''" in refused(
        *FFF, "--text-key", "caption"
    )
    # a number is no caption
    assert "--json-text-key width" in refused(*FFF, "--json-text-key", "width")


def test_a_sidecar_that_cannot_serve(refused, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    beside = (*FFF, "--caption-sidecar", str(tmp_path))
    assert "00.parquet does not exist" in refused(*beside)
    (tmp_path / "00.parquet").write_bytes(b"half")
    assert "00.parquet cannot be read as parquet" in refused(*beside)
    pq.write_table(pa.table({"key": ["0001"], "blip": ["a"]}), tmp_path / "00.parquet")
    assert "--sidecar-text-key" in refused(*beside) and "it has key, blip" in refused(*beside)
    pq.write_table(pa.table({"key": ["none"], "captions": ["a"]}), tmp_path / "00.parquet")
    assert "00.parquet, where the first is 'none' and not '0000' as in the tar" in refused(*beside)
    assert "--sidecar-text-key does nothing" in refused(*FFF, "--sidecar-text-key", "x")


def test_a_source_below_the_least_coverage(refused, trainer, tmp_path, capsys):
    samples = {f"{row:02d}": colour_sample(row) for row in range(16)}
    for row in range(4):
        del samples[f"{row:02d}"]["txt"]
    write_tar(tmp_path / "00.tar", samples)
    write_tar(tmp_path / "01.tar", {key: {**sample, "txt": b""} for key, sample in samples.items()})
    data = ["--train-data", str(tmp_path / "00.tar"), "--train-num-samples", "16"]
    assert "--min-coverage 0.9: txt has text in 75.00%" in refused(*FFF, "--min-coverage", "0.9", data=data)
    # a later shard is noticed at the epoch's end
    data = ["--train-data", str(tmp_path / "{00..01}.tar"), "--train-num-samples", "32"]
    assert "--raw-weight does nothing" in refused(*FFF, "--raw-weight", "2")
    later = [*FFF, "--min-coverage", "0.7", "--name", "later"]
    assert trainer(*later, data=data) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "--min-coverage 0.7: in epoch 0, txt has text in" in line and line.endswith("--resume latest")
    assert trainer(*later, "--resume", "latest", data=data) == 0
    assert "after step 2 of 2" in trainer.log("later") and trainer.checkpoint("later")["epoch"] == 1


def test_a_kernel_without_its_gpu_or_without_triton(refused, monkeypatch):
    kernel = pytest.importorskip("open_clip_fff.losses.sigmoid_triton", exc_type=ImportError)
    monkeypatch.setattr(kernel, "INTERPRETED", False)
    line = refused(*FFF, "--loss-impl", "triton")
    assert line.endswith("--loss-impl triton: its kernel runs on cuda, not on cpu; use --loss-impl tiled")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, kernel.__name__)
    monkeypatch.delattr("open_clip_fff.losses.sigmoid_triton")
    line = refused(*FFF, "--loss-impl", "triton")
    assert line.endswith("--loss-impl triton: Triton is not installed; use --loss-impl tiled")


def test_a_rate_that_no_batch_can_hold(refused):
    online = ["--method", "fff", *FFF[2:], "--mining-features", "online", "--mining-warmup", "1", "--mined-cap", "80"]
    many = ["--captions-per-image", "4", "--mined-per-image"]
    line = refused(*online, *many, "60")
    assert "--mined-per-image 60: in a global batch of 16 an image meets at most 60 captions of others" in line
    assert "and the cap leaves at most 80: raise the cap" in refused(*online, *many, "81")


def test_bounds_of_words_hold_for_a_csv_too(refused, trainer):
    # titles have two words, pseudo-captions three
    data = [*trainer.table[:-1], "title;pseudo"]
    line = refused("--loss", "fff", "--caption-words", "3:", data=data)
    assert "title: no row of train.csv has text there (--caption-words 3:); the first title is img 0" in line
    data[-1] = "pseudo"
    assert "--csv-caption-key pseudo" in refused("--loss", "fff", "--caption-words", "4:", data=data)
    assert trainer("--loss", "fff", "--caption-words", "3:", "--name", "three", data=data) == 0


def test_bounds_and_patterns_that_mean_nothing(refused):
    assert "--caption-words: invalid MIN:MAX value: '3'" in refused(*FFF, "--caption-words", "3")
    assert "nothing fits" in refused(*FFF, "--caption-words", "5:4")
    assert "no regular expression" in refused(*FFF, "--json-text-key", "re:(")


def test_no_caption_source_at_all(refused):
    assert "no caption source" in refused("--loss", "fff", "--text-key", "")


def test_a_missing_shard(refused, shards):
    data = ["--train-data", str(shards / "{00..05}.tar"), "--train-num-samples", "64"]
    for flags in ((), FFF):
        line = refused(*flags, data=data)
        assert "04.tar does not exist (and 1 more of 6)" in line and "--train-data" in line
    assert "--val-data" in refused("--val-data", str(shards / "99.tar"))
    opened = f"{shards}/{{00..03.tar"
    for flag in ("--train-data", "--val-data"):
        line = refused(*FFF, "--train-num-samples", "64", flag, opened, data=["--train-data", str(shards / "00.tar")])
        assert f"{flag} {opened}: a brace has no other; ranges are written {{00000..00099}}" in line
    for around in ("{}::", '"{}"', "'{} '"):
        line = refused("--train-data", around.format(shards / "{00..03}.tar"), "--train-num-samples", "64", data=[])
        assert f"drop what stands around {shards}/{{00..03}}.tar" in line


def test_a_shard_that_is_no_tar(refused, tmp_path):
    (tmp_path / "00.tar").write_bytes(b"not a tar at all" * 100)
    data = ["--train-data", str(tmp_path / "00.tar"), "--train-num-samples", "64"]
    assert "00.tar cannot be read as a tar" in refused(*FFF, data=data)


def test_a_tar_without_images_or_samples(refused, tmp_path):
    write_tar(tmp_path / "text.tar", {"a": {"txt": b"x", "json": b'{"captions": ["y"]}'}})
    data = ["--train-data", str(tmp_path / "text.tar"), "--train-num-samples", "1"]
    assert "no row of text.tar has an image" in refused(*FFF, data=data)
    write_tar(tmp_path / "empty.tar", {})
    assert "empty.tar holds no sample" in refused(*FFF, data=["--train-data", str(tmp_path / "empty.tar"), *data[2:]])


def test_a_csv_without_the_column(refused, trainer):
    data = [*trainer.table[:-1], "title;blip"]
    line = refused("--loss", "fff", data=data)
    assert "--csv-caption-key blip" in line and "it has filepath, title, pseudo" in line
    line = refused("--loss", "fff", "--captions-per-image", "3", data=[*trainer.table[:-1], "title;pseudo"])
    assert "no row of train.csv has more than 2" in line and "--csv-caption-key 'A;B'" in line
    assert "pack --group" not in line
    double = trainer.csv.parent / "double.csv"
    double.write_text(trainer.csv.read_text().replace("\t", "||"))
    data = ["--train-data", str(double), *trainer.table[2:], "--csv-separator"]
    for separator in ("||", "(|"):
        line = refused("--loss", "fff", data=[*data, separator])
        assert f"several characters are a regular expression: write {re.escape(separator)}" in line
    again = trainer.csv.parent / "again.csv"
    again.write_text(trainer.csv.read_text() + "".join(trainer.csv.read_text().splitlines(keepends=True)[1:]))
    data = ["--train-data", str(again), *trainer.table[2:]]
    line = refused("--loss", "fff", "--captions-per-image", "2", data=data)
    assert "rows with the same image are joined by open-clip-fff pack --group" in line
    lost = trainer.csv.parent / "lost.csv"
    lost.write_text("filepath\ttitle\n/nowhere/1.png\ta cat\n")
    assert "/nowhere/1.png" in refused("--loss", "fff", data=["--train-data", str(lost), *trainer.table[2:]])
    data = [*trainer.table, "--csv-separator", ","]
    assert "--csv-separator" in refused("--loss", "fff", data=data)
    assert "--csv-caption-key" in refused("--loss", "fff", "--split-sentences", data=trainer.table)
    for flag in ("--text-key", "--json-text-key", "--caption-sidecar"):
        assert "--csv-caption-key" in refused("--loss", "fff", flag, "title", data=trainer.table)
    data = ["--train-data", str(double), *trainer.table[2:], "--csv-separator", r"\|\|"]
    assert trainer("--loss", "fff", "--name", "several", data=data) == 0


def test_workers_without_shards_for_them(refused):
    assert "--workers 9: 9 loader workers over all ranks, but only 4 shards" in refused("--workers", "9")


def test_the_number_of_samples_must_be_known(refused, trainer):
    assert "--train-num-samples" in refused(*FFF, data=trainer.tars[:2])


def test_losses_that_take_one_caption(refused):
    many = ("--captions-per-image", "2", "--json-text-key", "captions")
    assert "clip takes one caption" in refused("--method", "clip", "--caption-policy", "all", *many)
    assert "would see the first caption only; add --method fff or fff-softmax" in refused("--method", "clip", *many)
    assert "--mining-features" in refused("--method", "siglip", "--mining-features", "frozen", "--mining-model", "x")
    assert "--batch-hooks" in refused("--batch-hooks", "mine")
    assert "--logit-bias-init auto" in refused("--method", "siglip", "--logit-bias-init", "auto")


def test_flags_that_contradict_each_other(refused):
    assert "--siglip: contradicts --loss fff" in refused(*FFF, "--siglip")
    assert "--p1 does nothing while mining is off" in refused("--loss", "fff", "--p1", "0.3")
    line = refused(*FFF[:-2], "--mining-model", "x", "--p1", "off", "--p2", "off", "--p3", "off")
    assert "nothing can be mined" in line
    assert "--mining-model" in refused("--loss", "fff", "--mining-features", "frozen")


def test_open_clip_features_that_cannot_follow(refused):
    teacher = ("--distill-model", "tiny-clip", "--distill-pretrained", "x")
    assert "--distill-model" in refused(*FFF, *teacher)
    assert "--torchscript" in refused(*FFF, "--torchscript")
    assert "--loss-dist-impl reduce" in refused(*FFF, "--loss-dist-impl", "reduce")
    assert "goes by tiles" in refused(*FFF, "--loss-dist-impl", "ring", "--loss-impl", "dense")


def test_coca_keeps_its_own_loss(refused):
    assert "use --method clip" in refused(*FFF, "--model", "coca_base")
    assert "CoCa by its own loss, not SigLIP's" in refused("--method", "siglip", "--model", "coca_base")


def test_a_mining_model_that_cannot_be_had(refused):
    mines = FFF[:-2]
    assert "random weights" in refused(*mines, "--mining-model", "tiny-clip")
    line = refused(*mines, "--mining-model", "tiny-clip", "--mining-pretrained", "/nowhere.pt")
    assert "/nowhere.pt" in line and "--mining-features off" in line
    assert "no-such-model" in refused(*mines, "--mining-model", "no-such-model", "--mining-pretrained", "x")


def test_plugins_and_configs_that_are_not_there(refused, tmp_path):
    assert "--plugin no_such_module" in refused("--plugin", "no_such_module")
    assert "--model-config" in refused("--model-config", str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text(json.dumps({"embed_dim": 3}))
    assert "no architecture there" in refused("--model-config", str(tmp_path / "bad.json"))
    line = refused("--loss", "no-such-loss")
    there = "there are: clip, siglip, .*fff, .*softmax"  # and other tests' own
    assert re.search(f"no loss is called 'no-such-loss'; {there}", line)


def test_a_run_of_that_name(trainer, capsys):
    assert trainer(*FFF, "--name", "once") == 0
    assert trainer(*FFF, "--name", "once") == 2
    assert "--resume latest" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there(refused):
    assert "--resume /nowhere.pt: there is no such file" in refused("--resume", "/nowhere.pt")


def test_help_shows_both_groups(trainer, capsys):
    assert trainer("--help") == 0
    text = capsys.readouterr().out
    assert "--train-data" in text and "--captions-per-image" in text and "p1' of Eq. 1" in text
    assert text.index("--train-data") < text.index("--captions-per-image")


# --- corrupt data during training: skipped, counted, reported --------------------------------------------------------


def test_damaged_rows_are_skipped_and_counted(trainer, tmp_path):
    samples = {f"{row:02d}": colour_sample(row) for row in range(16)}
    samples["03"]["png"] = b"no image"
    samples["05"]["json"] = b'{"captions": ['
    samples["07"] = {"png": samples["07"]["png"], "json": b"{}"}
    samples["09"] = {"bmp": samples["09"]["png"], "txt": b"a caption"}
    write_tar(tmp_path / "00.tar", samples)
    data = ["--train-data", str(tmp_path / "00.tar"), "--train-num-samples", "12", "--batch-size", "6"]
    assert trainer(*FFF, "--name", "damaged", data=data) == 0
    log = trainer.log("damaged")
    assert "Rows skipped or damaged in epoch 0: " in log
    kinds = ("without a caption", "with unreadable captions", "with an unreadable member or image", "without an image")
    assert f"epoch 0: {', '.join(f'1 {kind}' for kind in kinds)}\n" in log


def test_a_csv_survives_a_corrupt_image(trainer, tmp_path, csv):
    lines = csv.read_text().splitlines()
    (tmp_path / "bad.png").write_bytes(b"no image")
    lines[3] = f"{tmp_path / 'bad.png'}\tbad\tbad"
    (tmp_path / "train.csv").write_text("\n".join(lines))
    data = ["--train-data", str(tmp_path / "train.csv"), *trainer.table[2:]]
    for flags, name in (((), "stock"), (("--loss", "fff"), "ours")):
        assert trainer(*flags, "--name", name, data=data) == 0
        assert "1 with an unreadable member or image" in trainer.log(name)


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path):
    from open_clip_fff.host.fixes import save_atomically

    class Unsaveable:
        def __reduce__(self):
            raise OSError("disk full")

    path = tmp_path / "epoch_1.pt"
    save_atomically({"a": 1}, str(path))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"epoch_1\.pt: cannot be saved \(disk full\)"):
        save_atomically({"a": [io.BytesIO(), Unsaveable()]}, str(path))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
