"""The caption analysis as a program: a page and tables, of features that it computes or finds."""

import base64
import json
import re

import pandas as pd
import pytest

from tests.conftest import colour_sample, write_tar
from tests.full_disk import full_disk
from tests.page import Page
from tests.test_features import embed


@pytest.fixture
def training(trainer, teacher) -> list[str]:
    """Training's flags, for looking at the colour shards with the tiny model."""
    model = ["--mining-model", "tiny-clip", "--mining-pretrained", str(teacher), "--model-config", str(trainer.config)]
    return [*trainer.tars, *model, "--json-text-key", "captions"]


@pytest.fixture
def analyse(program):
    """The program, in this process."""

    def run(*arguments: object, expect: int = 0):
        return program("analyze_captions", *arguments, expect=expect, folder="scripts")

    return run


@pytest.mark.slow
def test_a_page_and_tables_of_the_users_own_data(analyse, training, tmp_path):
    out = tmp_path / "deep" / "analysis"
    done = analyse("--out", out, "--images", "60", "--batch", "20", "--show", "2", "--", *training)
    assert "60 images with 212 captions from 4 shards, with features of tiny-clip (teacher.pt)." in done.out
    text = (out / "analysis.html").read_text()
    page = Page(text)
    assert all(re.match(r"data:image/(jpeg|svg\+xml);base64,|#", address) for address in page.addresses)
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)
    figures = [address for address in page.addresses if address.startswith("data:image/svg")]
    assert len(figures) == 6 and all(b"</svg>" in base64.b64decode(each.partition(",")[2]) for each in figures)
    anchors = {address[1:] for address in page.addresses if address.startswith("#")}
    assert anchors == set(re.findall(r'<section id="([\w-]+)"', text)) - {"made"} and len(anchors) == 10
    assert any("cosines of different models do not compare" in each for each in page.everything)
    assert {"txt", "json:captions"} < set(page.everything) and any(
        "frozen, of tiny-clip/" in x for x in page.everything
    )
    assert "a red square" in page.everything and "scripts/analyze_captions.py" in text

    names = ["analysis.html", "captions.csv", "frequencies.csv", "images.csv", "left-out.csv", "summary.csv"]
    assert sorted(path.name for path in out.iterdir()) == names
    captions, images = pd.read_csv(out / "captions.csv"), pd.read_csv(out / "images.csv")
    columns = ["shard", "key", "kind", "caption", "words", "times", "nearest", "random_caption", "fit", "random_image"]
    assert list(captions) == columns and len(captions) == 212
    assert captions["kind"].value_counts().to_dict() == {"generated": 152, "raw": 60}
    assert images.groupby("shard").size().to_dict() == {f"0{n}.tar": 15 for n in range(4)}  # spread over the shards
    assert {"one_raw", "outranked_one_raw", "mean_generated", "outranked_mean_generated", "raw_to_generated",
            "among_generated"} < set(images) and not {"among_raw", "mean_raw"} & set(images)  # fmt: skip
    own = captions[(captions["shard"] == "02.tar") & (captions["key"] == 3)]
    assert (
        list(own["caption"])[:2] == ["img 35", "a yellow square"] and list(own["kind"]) == ["raw"] + ["generated"] * 4
    )
    frequencies, summed = pd.read_csv(out / "frequencies.csv"), pd.read_csv(out / "summary.csv")
    assert frequencies.groupby("kind")["times"].max().to_dict() == {"generated": 16, "raw": 1}
    assert list(frequencies) == ["kind", "rank", "times", "share", "caption"]
    share = summed.set_index(["measure", "kind"])["value"]["outranked_one_1", "raw"]
    assert share == pytest.approx((images["outranked_one_raw"] >= 1).mean(), abs=1e-6)
    assert f"{share:.1%}".replace("%", " %") in page.texts["lead"][0]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    analyse("--out", out, "--images", "60", "--batch", "20", "--show", "2", "--", *training)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.slow
def test_stored_features_and_those_of_texts(analyse, trainer, training, sentence_model, tmp_path):
    assert embed("--out", str(tmp_path / "features"), "--", *training) == 0
    analyse("--out", tmp_path / "frozen", "--", *training)
    captions = [*trainer.tars, "--json-text-key", "captions"]
    stored = [*captions, "--mining-features", "precomputed", "--feature-sidecar", str(tmp_path / "features")]
    assert "with features of tiny-clip/" in analyse("--out", tmp_path / "stored", "--", *stored).out
    ours, theirs = (pd.read_csv(tmp_path / name / "captions.csv") for name in ("frozen", "stored"))
    assert list(ours["caption"]) == list(theirs["caption"])
    for column in ("fit", "nearest", "random_caption"):
        assert theirs[column].to_numpy() == pytest.approx(ours[column].to_numpy(), abs=2e-3)
    text = [*captions, "--mining-features", "text", "--mining-model", str(sentence_model)]
    done = analyse("--out", tmp_path / "text", "--", *text)
    assert "outranked" not in done.out and "two drawn at random" in done.out
    page = Page((tmp_path / "text" / "analysis.html").read_text())
    assert any("embeds captions alone. Left out" in each for each in page.everything) and "lead" not in page.texts
    assert [each for each in page.addresses if each[0] == "#"] == ["#nearest", "#frequent", "#among"]
    assert not {"fit", "random_image"} & set(pd.read_csv(tmp_path / "text" / "captions.csv"))
    assert embed("--out", str(tmp_path / "sentences"), "--", *text) == 0
    stored[-1] = str(tmp_path / "sentences")
    assert f"with features of {sentence_model.name}." in analyse("--out", tmp_path / "stored-text", "--", *stored).out
    assert list(pd.read_csv(tmp_path / "stored-text" / "captions.csv")) == list(
        pd.read_csv(tmp_path / "text" / "captions.csv")
    )


@pytest.mark.slow
def test_what_cannot_be_read_costs_itself_alone(analyse, training, tmp_path):
    samples = {f"{row:02d}": colour_sample(row) for row in range(12)}
    samples["03"]["png"] = b"no image"
    samples["04"].pop("txt"), samples["04"].pop("json")
    samples["05"]["json"] = json.dumps({"captions": ["<script>x</script>", "https://a.b/c"]}).encode()
    write_tar(tmp_path / "a.tar", samples)
    whole = write_tar(tmp_path / "b.tar", {f"b{row}": colour_sample(12 + row) for row in range(9)}).read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: len(whole) // 2])
    data = ["--train-data", str(tmp_path / "{a,b}.tar"), *training[4:]]
    done = analyse("--out", tmp_path / "out", "--", *data, expect=1)
    assert "b.tar is left out from where it cannot be read" in done.err and "2 samples left out" in done.out
    left = pd.read_csv(tmp_path / "out" / "left-out.csv", dtype=str)
    assert left.to_numpy().tolist() == [["03", "image cannot be read"], ["04", "no caption"]]
    text = (tmp_path / "out" / "analysis.html").read_text()
    assert "b.tar is left out from where it cannot be read" in text and "<script>" not in text
    images = pd.read_csv(tmp_path / "out" / "images.csv", dtype={"key": str})
    assert (images["shard"] == "a.tar").sum() == 10 and 0 < (images["shard"] == "b.tar").sum() < 9


@pytest.mark.slow
def test_copies_of_an_image_are_one_image_with_all_their_captions(analyse, training, tmp_path):
    """A caption a row, as in Flickr's lists: an image's other captions are no other image's, which outrank its own."""
    whole, copies = {}, {}
    for row in range(70):  # more than are embedded at a time
        texts = [f"a {row} picture", f"something {row * 7} all over"]
        rows = [json.dumps({"captions": part}).encode() for part in (texts, texts[:1], texts[1:])]
        image = {"png": colour_sample(row)["png"], "txt": f"img {row}".encode()}
        whole[f"{row:02d}"], copies[f"{row:02d}"] = {**image, "json": rows[0]}, {**image, "json": rows[1]}
        copies[f"copy {row}"] = {"png": image["png"], "json": rows[2]}
    for name, samples in (("whole", whole), ("copies", dict(sorted(copies.items())))):
        tar = write_tar(tmp_path / f"{name}.tar", samples)
        done = analyse("--out", tmp_path / name, "--", "--train-data", tar, *training[4:])
        assert "70 images with 210 captions from 1 shard" in done.out
        assert ("(70 copies of an image joined to it)" in done.out) == (name == "copies")
    for table in ("images", "captions", "summary"):
        ours, theirs = (pd.read_csv(tmp_path / name / f"{table}.csv") for name in ("whole", "copies"))
        numbers = [column for column in ours if column != "shard"]
        pd.testing.assert_frame_equal(ours[numbers], theirs[numbers], atol=1e-5)


def test_only_generated_captions_stand_alone(analyse, training, tmp_path):
    done = analyse("--out", tmp_path / "out", "--", *training, "--text-key", "", "--captions-per-image", "2")
    header = done.out.splitlines()[1].split()
    assert header == ["generated"] and "64 images with 112 captions" in done.out
    text = (tmp_path / "out" / "analysis.html").read_text()
    assert "have no raw captions (those from --text-key)" in text
    assert set(pd.read_csv(tmp_path / "out" / "captions.csv")["kind"]) == {"generated"}


def test_a_page_shows_the_beginning_of_a_long_caption(analyse, program, training, tmp_path):
    long = "<a red square> " + "word " * 2_000
    rows = {f"{row}": {**colour_sample(row), "json": json.dumps({"captions": [long]}).encode()} for row in range(8)}
    tar = write_tar(tmp_path / "a.tar", rows)
    data = ["--", "--train-data", str(tar), *training[4:], "--captions-per-image", "2"]
    analyse("--out", tmp_path / "out", *data)
    program("mined_gallery", "--out", tmp_path / "gallery.html", *data, "--p1", "-1", folder="scripts")
    for page in (tmp_path / "out" / "analysis.html", tmp_path / "gallery.html"):
        shown = [text for text in Page(page.read_text()).everything if "red square" in text]
        assert len(shown) > 8 and max(map(len, shown)) == 300 and f"{long[:299]}…" in shown
    assert long.strip() in set(pd.read_csv(tmp_path / "out" / "captions.csv")["caption"])


def test_mistakes_are_a_line_and_leave_what_was_there(analyse, trainer, training, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "captions.csv").write_text("mine")
    (tmp_path / "file").write_text("a file")
    two = write_tar(tmp_path / "few.tar", {"0": colour_sample(3), "1": {**colour_sample(4), "png": b"no image"}})
    for own, behind, named in (
        ([], training[4:], "--train-data: name the shards"),
        (["--images", "1"], training, "--images 1: must be 2 or more"),
        (["--batch", "1"], training, "--batch 1: must be 2 or more"),
        (["--show", "-1"], training, "--show -1: must be 0 or more"),
        (["--device", "nowhere"], training, "--device nowhere"),
        (["--image", "9"], training, "--image"),
        (["--out", tmp_path / "mine"], training, "holds captions.csv, not of an earlier analysis"),
        (["--out", tmp_path / "file"], training, "cannot be written"),
        ([], [*trainer.tars, "--json-text-key", "captions"], "name the model with --mining-model"),
        ([], [*training, "--json-text-key", "nope"], "--json-text-key nope: no row of 00.tar has text there"),
        ([], [*training, "--text-key", "nope"], "--text-key nope: no row of 00.tar has text there"),
        ([], [*training, "--text-key", "", "--json-text-key", ""], "no caption source"),
        ([], [*training, "--mining-pretrained", "nowhere.pt"], "nowhere.pt: cannot be loaded"),
        ([], [*training[:1], "nowhere.tar", *training[2:]], "nowhere.tar does not exist"),
        ([], [*trainer.tars, "--mining-features", "ema"], "there is no model to look with"),
        ([], [*trainer.tars, "--mining-features", "precomputed"], "make them with open-clip-fff embed"),
        ([], ["--train-data", str(two), *training[4:]], "1 image with captions read, and two are needed (1: "),
    ):
        given = own if "--out" in own else ["--out", tmp_path / "out", *own]
        error = analyse(*given, "--", *behind, expect=2).err.strip().splitlines()[-1]
        assert error.startswith("analyze_captions.py: error: ") and named in error, error
    assert (tmp_path / "mine" / "captions.csv").read_text() == "mine"
    with full_disk(50_000):  # enough for the tables, which without the page would be in the way of a second start
        done = analyse("--out", tmp_path / "out", "--images", "8", "--batch", "4", "--", *training, expect=2)
    assert f"--out {tmp_path / 'out'}: cannot be written ([Errno 27] File too large)" in done.err
    assert not list((tmp_path / "out").iterdir())
