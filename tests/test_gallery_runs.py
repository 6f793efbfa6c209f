"""The gallery as a program: its page, what it shows of the user's data, and mistakes in one line."""

import os
import re
import subprocess
import sys

import pytest
import torch

from open_clip_fff.atomic_io import FILE_MODE, write_atomically
from open_clip_fff.config.mining import FrozenSource
from open_clip_fff.hub.training_flags import training_plan
from open_clip_fff.mining.clauses import mine
from open_clip_fff.mining.reference import Thresholds
from open_clip_fff.models.frozen import load_frozen
from open_clip_fff.tools.gallery.mined import mine_sample
from open_clip_fff.tools.gallery.run import TITLE, GallerySettings, read_gallery_sample
from open_clip_fff.tools.sampling.draw import SampleDraw
from open_clip_fff.tools.sampling.extractors import FrozenExtractor
from tests import colour_discriminator
from tests.conftest import colour_sample, write_tar
from tests.page import Page
from tests.samples import sample_features
from tests.test_features import embed

DISCRIMINATOR = ["--plugin", "tests.colour_discriminator", "--discriminator", "colours"]


@pytest.fixture
def training(trainer, teacher) -> list[str]:
    """The flags of a training that mines with the tiny model."""
    model = ["--mining-model", "tiny-clip", "--mining-pretrained", str(teacher), "--model-config", str(trainer.config)]
    return [*trainer.tars, *model, "--json-text-key", "captions", "--batch-size", "16", "--lr", "1e-3"]


@pytest.fixture
def show(program, tmp_path):
    """The program's page, parsed."""

    def run(*arguments: str) -> Page:
        out = tmp_path / "deep" / "gallery.html"
        program("mined_gallery", "--out", out, *arguments, folder="scripts")
        return Page(out.read_text())

    return run


BARS_TYPED = ["--p1", "0.2", "--p2", "0.97", "--p3", "0.95", "--p1-prime", "0.0"]


def test_a_page_of_the_users_own_data(show, shards, training, teacher, tiny_name):
    page = show("--samples", "64", "--show", "5", "--", *training, *BARS_TYPED)
    assert page.addresses and all(re.match(r"data:image/jpeg;base64,|#", address) for address in page.addresses)
    plan, _ = training_plan([*training[4:], *BARS_TYPED], defaults={"method": "fff"})
    frozen = load_frozen(FrozenSource(tiny_name, str(teacher)))
    f = sample_features([str(shards / f"0{n}.tar") for n in range(4)], plan.captions, frozen, 64)
    found = mine_sample(f, plan.mining, Thresholds.of(plan.mining), 5)
    mined = mine(f, f, plan.mining).pairs
    assert found.pairs == mined.sum() > 0
    assert any(text == f"{found.pairs:,} captions" for text in page.everything)
    pairs = [pair for part in (found.mined, found.nearly) for row in part for pair in row.pairs]
    assert len(page.texts["caption"]) == len(pairs)
    scores = [float(x.split()[-1]) for x in page.texts["chip"] if x.startswith("image–text")]
    assert scores == pytest.approx([pair.scores[0] for pair in pairs], abs=1e-4)
    scored = [re.fullmatch(r"(less than )?([\d.]+) (above|below), by .*", text) for text in page.texts["reason"]]
    assert [match[3] == "above" for match in scored] == [pair.margin > 0 for pair in pairs]
    for match, pair in zip(scored, pairs, strict=True):
        assert float(match[2]) == pytest.approx(abs(pair.margin), abs=1e-4)
    assert "64 images of 4 shards" in " ".join(page.texts["about"])


@pytest.mark.slow
def test_a_discriminator_that_knows_colours(show, training):
    page = show("--samples", "40", "--show", "400", "--", *training, *DISCRIMINATOR)
    assert sum(colour_discriminator.ASKED) > 0 and max(colour_discriminator.ASKED) <= 16 + 16 * 5
    labels = [kind for kind in page.texts["reason"] if kind in ("positive", "ignored", "negative")]
    assert set(labels) == {"positive", "negative"}
    q = [float(text.split()[1]) for text in page.texts["chip"] if text.startswith("q ")]
    assert {label for label, number in zip(labels, q, strict=True) if number > 0.8} == {"positive"}
    # 0.95 is 0.15 from its threshold, 0.05 is 0.45 from its
    assert [abs(number - 0.95) < 1e-6 for number in q[:40]] == sorted((number > 0.8 for number in q[:40]), reverse=True)


def test_a_discriminator_where_nothing_mines(show, training, teacher):
    alone = [*training[:2], *training[-6:], "--method", "mafa", "--captions-per-image", "2", "--caption-policy", "all"]
    page = show(
        "--samples", "20", "--batch-size", "10", "--hardest-by", f"tiny-clip,{teacher}", "--", *alone, *DISCRIMINATOR
    )
    assert [x for x in page.addresses if x[0] == "#"] == ["#by-image", "#by-caption"]
    assert "20 pairs" in page.everything and max(colour_discriminator.ASKED) <= 10 + 20


def test_another_page_is_not_overwritten(program, show, training, tmp_path):
    show("--samples", "16", "--", *training, *BARS_TYPED)
    assert show("--samples", "16", "--", *training, *BARS_TYPED).everything  # its own it replaces
    own = tmp_path / "page.html"
    own.write_text("<title>mine</title>")
    error = program("mined_gallery", "--out", own, "--", *training, expect=2, folder="scripts").err
    assert f"--out {own}: is another file than an earlier gallery" in error and own.read_text() == "<title>mine</title>"
    os.mkfifo(pipe := tmp_path / "pipe")  # of which there is no end to read
    error = program("mined_gallery", "--out", pipe, "--", *training, expect=2, folder="scripts").err
    assert f"--out {pipe}: is another file than an earlier gallery" in error


def test_a_path_that_is_not_utf_8(show, training, shards, tmp_path):
    """The page, which has the command, was not written, after all the work."""
    (latin := tmp_path / "caf\udce9").symlink_to(shards)
    training[1] = str(latin / "{00..03}.tar")
    page = show("--samples", "16", "--", *training, *BARS_TYPED)
    assert any("caf\\udce9/{00..03}.tar" in text for text in page.everything)


@pytest.mark.parametrize(("batch", "warns"), [("64", False), ("128", True)])
def test_the_rate_of_a_capped_batch_that_is_larger_than_the_sample(show, training, batch, warns):
    argv = ["--samples", "64", "--batch-size", batch, "--", *training, "--mined-per-image", "2", "--mined-cap", "4"]
    page = show(*argv)
    assert any("thresholds are those of batches as large as the sample" in text for text in page.everything) == warns


def test_it_takes_the_captions_that_a_batch_would_have(trainer, training, teacher, tiny_name):
    frozen = load_frozen(FrozenSource(tiny_name, str(teacher)))
    urls = [str(trainer.shards / "00.tar")]

    def gathered(*flags: str):
        plan, _ = training_plan([*training[4:], *flags], defaults={"method": "fff"})
        settings = GallerySettings(5, 6, FrozenExtractor(frozen), None, torch.device("cpu"))
        return read_gallery_sample(plan, SampleDraw(urls, 16, 0), settings)

    everything = gathered()
    assert [len(row.captions) for row in everything.rows] == [2, 3, 4, 5] * 4
    assert all(len(row.captions) == 1 for row in gathered("--caption-policy", "sample").rows)
    assert [row.captions for row in gathered("--caption-policy", "first").rows] == [[f"img {i}"] for i in range(16)]
    limited = gathered("--caption-words", "3:").rows
    assert limited[0].captions == ["a red square"] and limited[0].raw == 0
    expected = sample_features(urls, training_plan([*training[4:]], defaults={"method": "fff"})[0].captions, frozen, 16)
    for ours, theirs in zip(everything.mining, expected, strict=True):
        assert ours is theirs is None or torch.allclose(ours.float(), theirs.float(), atol=1e-6)


@pytest.mark.slow
def test_stored_features_and_those_of_texts(show, trainer, training, sentence_model, tmp_path):
    assert embed("--out", str(tmp_path / "features"), "--", *training) == 0
    frozen = show("--samples", "32", "--", *training, *BARS_TYPED)
    stored = [*trainer.tars, "--json-text-key", "captions", "--mining-features", "precomputed", *BARS_TYPED]
    stored += ["--method", "fff", "--feature-sidecar", str(tmp_path / "features")]
    again = show("--samples", "32", "--", *stored)
    counts = [int(next(x for x in p.everything if x.endswith(" captions")).split()[0]) for p in (frozen, again)]
    assert counts[1] == pytest.approx(counts[0], rel=0.1)
    text = [*trainer.tars, "--json-text-key", "captions", "--mining-features", "text"]
    page = show("--samples", "32", "--", *text, "--mining-model", str(sentence_model), "--mined-per-image", "3")
    assert page.texts["caption"] and not any(x.startswith("image") for x in page.texts["chip"])
    assert any("found on this sample" in x for x in page.everything)
    assert embed("--out", str(tmp_path / "sentences"), "--", *text, "--mining-model", str(sentence_model)) == 0
    stored = [*text[:-1], "precomputed", "--feature-sidecar", str(tmp_path / "sentences")]
    again = show("--samples", "32", "--", *stored, "--mined-per-image", "3")
    assert again.texts["caption"] and not any(x.startswith("image") for x in again.texts["chip"])


def test_raw_captions_classes_and_what_is_left_out(show, training, tmp_path):
    samples = {f"{row}": {**colour_sample(row), "cls": str(row % 4).encode()} for row in range(12)}
    samples["3"]["png"] = b"no image"
    samples["5"]["json"] = b'{"captions": ["<b>a & b</b>", "x", "y"]}'
    data = ["--train-data", str(write_tar(tmp_path / "a.tar", samples)), "--train-num-samples", "12"]
    page = show("--", *data, *training[4:], "--class-key", "cls", "--no-mine-raw", "--p2", "-1", "--p1", "off")
    everything = page.everything
    assert any(text.startswith("1 sample left out") for text in everything)
    assert "<b>a & b</b>" in page.texts["caption"] and not any("img" in text for text in page.texts["caption"])
    assert {text for text in page.texts["chip"] if text.startswith("class")} <= {"class the same", "class another"}
    # all generated captions are mined; of 11 images, 3 of a class but one that has 2, and they have 1 to 4 of them
    classes = [row % 4 for row in range(12) if row != 3]
    counts = [3 if row == 5 else 1 + row % 4 for row in range(12) if row != 3]
    others = list(enumerate(zip(classes, counts, strict=True)))
    alike = [(a == b, n) for i, (a, _) in others for j, (b, n) in others if i != j]
    share = sum(n for same, n in alike if same) / sum(n for _, n in alike)
    assert f"{share:.1%} are of the image's class" in everything


def test_mistakes_are_a_line_and_leave_what_was_there(program, trainer, training, sentence_model, tmp_path):
    out = tmp_path / "gallery.html"
    out.write_text(was := f"<title>{TITLE}</title> as it was")
    text = [*trainer.tars, "--mining-features", "text", "--mining-model", str(sentence_model), "--json-text-key"]
    text.append("captions")
    for own, behind, named in (
        ([], training[4:], "--train-data: name the shards"),
        ([], [*training, "--batchsize", "4"], "did you mean --batch-size"),
        (["--sample", "4"], training, "--sample"),
        (["--samples", "1"], training, "--samples 1: must be 2 or more"),
        (["--show", "0"], training, "--show 0"),
        (["--batch-size", "1"], training, "--batch-size 1"),
        (["--device", "nowhere"], training, "--device nowhere"),
        (["--out", str(tmp_path)], training, "is a folder"),
        (["--out", str(out / "x.html")], training, "cannot be written"),
        (["--out", "/proc/x.html"], [*training, "--mining-pretrained", "nowhere.pt"], "--out /proc/x.html: cannot be"),
        ([], [*training[:1], "nowhere.tar", *training[2:]], "nowhere.tar does not exist"),
        ([], [*training, "--json-text-key", "nope"], "--json-text-key nope: no row of 00.tar has text there"),
        ([], [*training, "--mining-pretrained", "nowhere.pt"], "nowhere.pt: cannot be loaded"),
        ([], [*training[:4], "--method", "clip"], "nothing mines"),
        (
            [],
            [*training[:4], "--method", "fff", "--mining-features", "ema", "--mining-warmup", "9"],
            "a checkpoint of it",
        ),
        ([], [*training, "--p1", "2"], "a cosine threshold is a number from -1 to 1"),
        ([], [*text, *DISCRIMINATOR], "--hardest-by RUN_OR_MODEL"),
        (["--hardest-by", "x"], training, "--hardest-by: hardest pairs are scored by --discriminator"),
        ([], [*training, "--discriminator", "nowhere:x"], "no discriminator is called 'nowhere'"),
        ([], [*training, "--mining-features", "precomputed"], "none of the first 16 rows of 00.tar has any"),
    ):
        given = own if "--out" in own else ["--out", out, *own]
        error = program("mined_gallery", *given, "--", *behind, expect=2, folder="scripts").err.strip()
        assert named in error and len(error.splitlines()) == 1, error
    bad = {**colour_sample(4), "png": b"no image"}
    write_tar(tmp_path / "few.tar", {"00": colour_sample(3), "01": bad})
    whole = write_tar(tmp_path / "cut.tar", {f"{row:02}": bad for row in range(9)}).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    few = ["--train-data", str(tmp_path / "{few,cut}.tar"), "--train-num-samples", "2", *training[4:]]
    error = program("mined_gallery", "--out", out, "--", *few, expect=2, folder="scripts").err
    assert "1 image with captions read (left out: 5 × image cannot be read), and pairs take 2" in error
    assert "cut.tar is left out from where it cannot be read" in error
    assert out.read_text() == was and not list(tmp_path.glob(".gallery*"))


WRITE = """
import pathlib, numpy, open_clip_fff.atomic_io as x, safetensors.numpy
with x.atomic_folder(pathlib.Path("model")) as folder:
    safetensors.numpy.save_file({"a": numpy.zeros(1)}, folder / "model.safetensors")  # which its owner alone may read
    (folder / "below").mkdir(mode=0o700)
with x.atomic_file(pathlib.Path("model/below/00.tar")):
    pass
"""


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    out = tmp_path / "new" / "page.html"
    write_atomically(out, "ä")
    assert out.read_text(encoding="utf-8") == "ä" and out.stat().st_mode & 0o777 == FILE_MODE
    write = "import pathlib, open_clip_fff.atomic_io as x; x.write_atomically(pathlib.Path('own'), '')"
    subprocess.run([sys.executable, "-c", write], cwd=tmp_path, umask=0o077, check=True)
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o600
    subprocess.run([sys.executable, "-c", WRITE], cwd=tmp_path, umask=0o002, check=True)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").rglob("*")}
    assert modes == {"model.safetensors": 0o664, "below": 0o775, "00.tar": 0o664}
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_atomically(out, "b")
    assert out.read_text(encoding="utf-8") == "ä" and list(out.parent.iterdir()) == [out]
