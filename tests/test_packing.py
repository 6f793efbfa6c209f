"""scripts/pack.py: tables, folders and shards in, shards out; what is left out, refused, killed and damaged."""

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from open_clip_fff.data.shards import read_samples
from open_clip_fff.errors import UsageError
from open_clip_fff.packing.arrange import arrange
from open_clip_fff.packing.items import LeaveOut
from open_clip_fff.packing.pictures import finish
from open_clip_fff.packing.rows import CAPTIONS, Row, RowFile, write_rows
from open_clip_fff.packing.said import braces
from open_clip_fff.packing.settings import PictureSettings
from open_clip_fff.packing.source import Shards
from open_clip_fff.packing.writing import write_shard
from tests.conftest import COLOURS, colour_image, colour_sample, write_tar
from tests.killed import ROOT, contents, run

PACK = str(ROOT / "scripts" / "pack.py")
TOKENS = [
    (f"pics/{image}.png", f"caption {turn} of {image}") for turn in range(3) for image in range(8)
]  # not adjacent


@pytest.fixture
def pack(program):
    """scripts/pack.py in this process."""
    return lambda *arguments, expect=0: program("pack", *arguments, folder="scripts", expect=expect)


@pytest.fixture
def refused(pack, tmp_path):
    """Runs it, expects a refusal, and gives its one line; no shard may be there."""

    def line(*arguments: object) -> str:
        done = pack(*arguments, "--out", tmp_path / "refused", expect=2)
        assert done.err.startswith("pack.py: error: ") and len(done.err.splitlines()) == 1, done.err
        assert not list(tmp_path.glob("refused/*.tar"))
        return done.err

    return line


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Eight pictures in `pics`."""
    (tmp_path / "pics").mkdir()
    for number in range(8):
        (tmp_path / "pics" / f"{number}.png").write_bytes(colour_image(list(COLOURS)[number % 4], number))
    return tmp_path / "pics"


@pytest.fixture
def tokens(pictures) -> Path:
    """A CSV with a caption a row and three rows an image, which are not adjacent."""
    return csv(pictures.parent / "tokens.csv", [("image", "caption"), *TOKENS])


def csv(path: Path, rows: list[tuple[str, ...]]) -> Path:
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    path.write_text("\n".join(quoted) + "\n")
    return path


def samples(*tars: Path) -> list[dict]:
    """Samples of some shards, the json as what it says."""
    found = list(read_samples([str(tar) for tar in tars], 10_000))
    return [{**x, "json": json.loads(x["json"])} if "json" in x else x for x in found]


def picture(width: int, height: int, kind: str = "jpeg", **options: object) -> bytes:
    """A gradient with noise of some size."""
    pixels = np.random.default_rng(0).integers(0, 60, (height, width, 3)) + np.arange(width)[None, :, None] % 150
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


def left_out(out: Path, stem: str = "00000") -> dict[str, str]:
    record = json.loads((out / "records" / f"{stem}.json").read_text())
    return {entry["key"]: entry["why"] for entry in record["left_out"]}


# --- tables ----------------------------------------------------------------------------------------------------------

CELLS = [
    {"file": "pics/0.png", "title": "raw 0", "blip": ["a", "b", "a"], "size": 4, "url": "u0", "label": "red"},
    {"file": "pics/1.png", "title": None, "blip": ["c"], "size": None, "url": "u1", "label": "blue"},
    {"file": "pics/2.png", "title": " ", "blip": [], "size": 5, "url": None, "label": None},
    {"file": "pics/nowhere.png", "title": "raw 3", "blip": None, "size": 6, "url": "u3", "label": "red"},
    {"file": None, "title": "raw 4", "blip": None, "size": 7, "url": "u4", "label": "red"},
]


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "parquets", "jsonl"])
def test_a_table_of_each_form_gives_the_same_samples(pack, pictures, tmp_path, form):
    """Lists in parquet and jsonl, the same lists as json in a cell of a CSV; empty cells are no captions."""
    path = tmp_path / f"t.{form}"
    if form in ("csv", "tsv"):
        names = list(CELLS[0])
        rows = [[json.dumps(x) if isinstance(x, list) else "" if x is None else str(x) for x in row.values()]
                for row in CELLS]  # fmt: skip
        mark = "\t" if form == "tsv" else ","
        quoted = [mark.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [names, *rows]]
        path.write_text("\n".join(quoted) + "\n")
    elif form == "jsonl":
        path.write_text("\n".join(map(json.dumps, CELLS)) + "\n\n")
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(CELLS), path)
    else:
        path = tmp_path / "tables"
        path.mkdir()
        for part, some in enumerate((CELLS[:2], CELLS[2:])):
            pq.write_table(pa.Table.from_pylist(some, pa.Table.from_pylist(CELLS).schema), path / f"{part}.parquet")
    columns = ["--caption-key", "title;blip", "--keep-columns", "size", "--url-key", "url", "--class-key", "label"]
    flags = ["--image-key", "file", "--image-root", tmp_path, "--images-per-shard", 3]
    done = pack(path, "--out", tmp_path / "out", *columns, *flags)
    first, second, third = samples(*sorted((tmp_path / "out").glob("*.tar")))
    size = 4 if form in ("parquet", "parquets", "jsonl") else "4"
    assert first["json"] == {"size": size, "url": "u0", "captions": ["a", "b"]}
    assert (first["txt"], first["cls"], first["__key__"]) == (b"raw 0", b"red", "000000000")
    assert first["png"] == (pictures / "0.png").read_bytes()
    assert "txt" not in second and second["json"] == {"url": "u1", "captions": ["c"]}  # blip's is not the raw one
    assert set(third) - {"__key__", "__url__", "__local_path__"} == {"png", "json"} and "captions" not in third["json"]
    assert left_out(tmp_path / "out", "00001") == {
        "000000003": "image file is not there",
        "000000004": "no path of an image",
    }
    assert (
        "3 images, 1 raw captions, 3 captions in json, 1 repeated captions left away, 1 without a caption" in done.out
    )
    where = f"--train-data '{tmp_path}/out/{{00000..00001}}.tar' --train-num-samples 3 --json-text-key captions"
    assert where in done.out


def test_columns_are_guessed_and_told(pack, tokens, tmp_path):
    done = pack(tokens, "--out", tmp_path / "out")
    assert "images by `image` (guessed" in done.out and "captions by `caption` (guessed" in done.out
    assert "24 rows are about 8 images; --group makes one sample of each" in done.out
    found = samples(tmp_path / "out" / "00000.tar")
    assert [x["txt"].decode() for x in found] == [caption for _, caption in TOKENS]
    assert [x["__key__"] for x in found] == [f"{number:09d}" for number in range(24)]


def test_rows_of_one_image_become_one_sample_wherever_they_stand(pack, tokens, tmp_path):
    pack(tokens, "--out", tmp_path / "out", "--group", "--images-per-shard", 5)
    found = samples(tmp_path / "out" / "00000.tar", tmp_path / "out" / "00001.tar")
    assert len(found) == 8 and len(samples(tmp_path / "out" / "00000.tar")) == 5
    for image, sample in enumerate(found):
        assert sample["txt"].decode() == f"caption 0 of {image}" and sample["__key__"] == f"{image:09d}"
        assert sample["json"] == {"captions": [f"caption 1 of {image}", f"caption 2 of {image}"]}
        assert sample["png"] == (tmp_path / "pics" / f"{image}.png").read_bytes()


def test_a_seed_fixes_the_order(pack, tokens, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        pack(tokens, "--out", tmp_path / name, "--group", "--shuffle", seed)
    orders = {name: [x["__key__"] for x in samples(tmp_path / name / "00000.tar")] for name in "abc"}
    assert orders["a"] == orders["b"] != orders["c"]
    assert sorted(orders["a"]) == sorted(orders["c"]) != orders["a"]
    assert (tmp_path / "a" / "00000.tar").read_bytes() == (tmp_path / "b" / "00000.tar").read_bytes()


def test_where_there_is_no_raw_caption_training_is_not_told_to_read_one(pack, pictures, tmp_path):
    table = csv(tmp_path / "t.csv", [("image", "title", "blip"), ("pics/0.png", "", "a"), ("pics/1.png", " ", "b")])
    done = pack(table, "--out", tmp_path / "out", "--caption-key", "title;blip")
    assert done.out.rstrip().endswith("--train-num-samples 2 --text-key '' --json-text-key captions")


def test_lines_that_are_no_rows_are_told(pack, pictures, tmp_path):
    (tmp_path / "t.csv").write_text("image,caption\npics/0.png,a\npics/1.png,b,c,d\npics/2.png,e\n")
    done = pack(tmp_path / "t.csv", "--out", tmp_path / "csv")
    assert "1 lines are no rows and are left out, the first:" in done.out and "line 3" in done.out
    lines = ['{"image": "pics/0.png", "caption": "a"}', '{"image": "pics', '{"image": "pics/2.png"}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    done = pack(tmp_path / "t.jsonl", "--out", tmp_path / "jsonl")
    assert "Skipping line 2" in done.out and len(samples(tmp_path / "jsonl" / "00000.tar")) == 2


@pytest.mark.parametrize("repeats", ["keep", "join"])
def test_a_list_longer_than_a_batch_is_arranged_as_a_loop_would(tmp_path, monkeypatch, repeats):
    """Against plain Python, with batches so small that rows of one image lie in several."""
    monkeypatch.setattr("open_clip_fff.packing.rows.BATCH", 7)
    monkeypatch.setattr("open_clip_fff.packing.arrange.BATCH", 7)
    draws = np.random.default_rng(0).integers(0, 20, 61)
    rows = [Row(int(who), f"{n}", b"%d" % who, ([f"t{n}"] * (n % 3), [f"u{n}"])) for n, who in enumerate(draws)]
    expected: dict[object, list] = {}
    for number, row in enumerate(rows):
        mine = expected.setdefault(row.identity if repeats == "join" else number, [row.key, [], [], 0])
        mine[1], mine[2], mine[3] = mine[1] + row.captions[0], mine[2] + row.captions[1], mine[3] + 1
    with open(tmp_path / "a", "wb+") as first, open(tmp_path / "b", "wb+") as second:
        write_rows(rows, ("t", "u"), first)
        first.flush()
        arrange(RowFile(first), second, repeats)
        second.flush()
        found = RowFile(second)
    taken = found.take(np.arange(len(found))).to_pylist()
    assert [[x["key"], x[f"{CAPTIONS}t"], x[f"{CAPTIONS}u"], x["rows"]] for x in taken] == list(expected.values())
    assert found.coverage() == [("t", sum(bool(x[1]) for x in expected.values()), sum(n % 3 for n in range(61))),
                                ("u", len(expected), 61)]  # fmt: skip
    some = np.array([len(found) - 1, 0, 8, 8])
    assert [x["key"] for x in found.take(some).to_pylist()] == [taken[number]["key"] for number in some]


def test_a_row_is_found_by_its_identity(tmp_path, monkeypatch):
    monkeypatch.setattr("open_clip_fff.packing.rows.BATCH", 3)
    monkeypatch.setattr("open_clip_fff.packing.arrange.BATCH", 3)
    identities = [5, 9, 1, 9, 2**63 - 1, 0, 7, 3]
    with open(tmp_path / "a", "wb+") as first, open(tmp_path / "b", "wb+") as second:
        write_rows([Row(who, f"k{who}", captions=[[f"of {n}"]]) for n, who in enumerate(identities)], ("t",), first)
        first.flush()
        arrange(RowFile(first), second, "join", "identity")
        second.flush()
        found = RowFile(second)
    for who in set(identities):
        row = found.find(who, f"k{who}")
        assert row and row[f"{CAPTIONS}t"] == [f"of {n}" for n, other in enumerate(identities) if other == who]
    assert found.find(4, "k4") is None and found.find(9, "another of the same hash") is None


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_odd_names(pack, tmp_path):
    folder = tmp_path / "in"
    odd = [
        "rot/été à la mer.v2.jpg",
        "rot/a.b.c.png",
        "blau/日本 (1).jpg",
        "top.JPG",
        "a_b.png",
        "a/b.png",
        "x.jpg",
        "x.png",
    ]
    for number, name in enumerate(odd):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(40 + number, 30, "png" if name.endswith("png") else "jpeg"))
    (folder / "rot" / "été à la mer.v2.txt").write_text("roh\n\n zwei \ndrei\nroh\n")
    (folder / "rot" / "été à la mer.v2.json").write_text(json.dumps({"blip": ["vier", "zwei"], "width": 3}))
    (folder / "rot" / "a.b.c.json").write_text("{")
    (folder / ".hidden.jpg").write_bytes(b"x")
    os.symlink(folder, folder / "a" / "loop")
    with open(os.fsencode(folder) + b"/\xff\xfe.jpg", "wb") as file:  # a name that is no UTF-8
        file.write(picture(33, 30))
    done = pack(folder, "--out", tmp_path / "out", "--json-text-key", "blip", "--class-from-folder")
    found = {x["__key__"]: x for x in samples(tmp_path / "out" / "00000.tar")}
    assert len(found) == 8 and "8 images" in done.out  # all but the one whose json is damaged
    assert left_out(tmp_path / "out") == {"rot_a_b_c": "txt or json beside it cannot be read"}
    sea = found["rot_été_à_la_mer_v2"]
    assert sea["txt"].decode() == "roh" and sea["cls"] == b"rot"
    assert sea["json"] == {"blip": ["vier", "zwei"], "width": 3, "captions": ["zwei", "drei", "vier"]}
    assert "cls" not in found["top"] and found["top"]["jpg"] == (folder / "top.JPG").read_bytes()
    assert "blau_日本_1_" in found and "_" in found
    clashes = sorted(key for key in found if key.startswith(("a_b", "x")))
    assert len(clashes) == 4 and [key.partition("-")[0] for key in clashes] == ["a_b", "a_b", "x", "x"]
    hashed = {f"{key}-{hashlib.blake2b(path.encode()).hexdigest()[:8]}": path
              for key, path in (("a_b", "a/b.png"), ("a_b", "a_b.png"), ("x", "x.jpg"), ("x", "x.png"))}  # fmt: skip
    for key in clashes:
        assert (folder / hashed[key]).read_bytes() in found[key].values()
    assert "--shuffle SEED makes better shards" in done.out


def test_without_captions_it_says_what_is_missing(pack, pictures, tmp_path):
    done = pack(pictures, "--out", tmp_path / "out", "--shuffle", 0)
    assert "8 images, 8 without a caption" in done.out and "no sample has a caption" in done.out
    assert "--train-data" not in done.out and "--shuffle SEED" not in done.out


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "expected"), [((400, 200), (128, 64)), ((90, 300), (64, 213)), ((64, 80), None)])
@pytest.mark.parametrize("form", ["jpg", "webp", "keep"])
def test_resizing_is_only_ever_down(size, expected, form):
    content = picture(*size, "png")
    made = finish(content, PictureSettings(resize=64, format=form))
    if expected is None:
        assert made == (content, "png", False)
        return
    assert made.anew and made.extension == (form if form != "keep" else "png")
    image = Image.open(io.BytesIO(made.content))
    assert image.size == expected and image.mode == "RGB"


def test_what_is_made_anew_looks_like_the_image_and_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: 300 x 200 is shown as 200 x 300
    made = finish(picture(300, 200, quality=95, exif=exif), PictureSettings(resize=50))
    small = Image.open(io.BytesIO(made.content))
    whole = Image.open(io.BytesIO(picture(300, 200, quality=95))).rotate(-90, expand=True).resize((50, 75))
    assert small.size == (50, 75)
    assert np.abs(np.asarray(small, float) - np.asarray(whole, float)).mean() < 4


def test_formats_that_training_does_not_read_are_written_anew():
    for kind in ("gif", "bmp", "tiff"):
        made = finish(picture(40, 30, kind), PictureSettings(format="keep"))
        assert made.anew and made.extension == "png" and Image.open(io.BytesIO(made.content)).size == (40, 30)
    assert finish(picture(40, 30, "webp"), PictureSettings()).extension == "webp"


def test_images_that_cannot_be_read_or_are_small_are_left_out(pack, pictures, tmp_path):
    (pictures / "1.png").write_bytes((pictures / "1.png").read_bytes()[:900])
    (pictures / "2.png").write_bytes(b"<html>404</html>")
    (pictures / "3.png").write_bytes(picture(200, 39, "png"))
    (pictures / "4.png").write_bytes(b"")
    done = pack(pictures, "--out", tmp_path / "out", "--min-size", 40)
    assert "4 images" in done.out and "left out: 3 image cannot be read, 1 smaller than 40 pixels" in done.out
    assert left_out(tmp_path / "out") == {
        **{name: "image cannot be read" for name in "124"},
        "3": "smaller than 40 pixels",
    }
    done = pack(pictures, "--out", tmp_path / "trusting", "--min-size", 40, "--no-verify")
    assert left_out(tmp_path / "trusting").keys() == {"2", "3", "4"}  # only its header is read
    with pytest.raises(LeaveOut):
        finish((pictures / "1.png").read_bytes(), PictureSettings(resize=20, verify=False))


# --- shards ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tars(tmp_path) -> str:
    """Two shards of six samples, keys of their own."""
    (tmp_path / "in").mkdir()
    for shard in range(2):
        chosen = {f"{shard}{row:03d}": with_url(shard * 6 + row) for row in range(6)}
        write_tar(tmp_path / "in" / f"{shard:02d}.tar", chosen)
    return str(tmp_path / "in" / "{00..01}.tar")


def with_url(index: int) -> dict[str, bytes]:
    sample = colour_sample(index)
    return {**sample, "json": json.dumps({**json.loads(sample["json"]), "url": f"http://x/{index}"}).encode()}


def test_shards_go_through_untouched(pack, tars, tmp_path):
    done = pack(tars, "--out", tmp_path / "out")
    for name in ("00.tar", "01.tar"):
        for before, after in zip(*(read_samples([str(tmp_path / at / name)], 99) for at in ("in", "out")), strict=True):
            assert all(after[member] == before[member] for member in ("__key__", "png", "txt", "json"))
    assert "2 of 2 shards: 12 images, 12 raw captions, 30 captions in json" in done.out
    pack(str(tmp_path / "in"), "--out", tmp_path / "small", "--resize", 16)
    found = samples(tmp_path / "small" / "00.tar")
    assert all(Image.open(io.BytesIO(x["jpg"])).size == (16, 16) and "png" not in x for x in found)


def test_captions_join_by_key_from_a_parquet_per_shard(pack, tars, tmp_path):
    (tmp_path / "side").mkdir()
    for shard in range(2):
        rows = [{"key": f"{shard}{row:03d}", "captions": [f"new {shard}{row}", "a red square"]}
                for row in range(4)]  # fmt: skip
        table = pa.Table.from_pylist([*rows, {"key": "other", "captions": ["x"]}])
        pq.write_table(table, tmp_path / "side" / f"{shard:02d}.parquet")
    done = pack(tars, "--out", tmp_path / "out", "--captions", tmp_path / "side")
    first = samples(tmp_path / "out" / "00.tar")
    assert first[0]["json"]["captions"] == ["a red square", "new 00"]  # and not the one that it had
    assert first[1]["json"]["captions"][-2:] == ["new 01", "a red square"] and first[1]["json"]["title"] == "title 1"
    assert first[5]["json"]["captions"] == json.loads(colour_sample(5)["json"])["captions"]
    assert "captions joined 66.67% of 12 samples" in done.out and "2 of 10 rows of captions found no sample" in done.out


@pytest.mark.parametrize("by", ["key", "url"])
def test_captions_join_from_one_table(pack, tars, tmp_path, by):
    names = {"key": lambda n: f"{n // 6}{n % 6:03d}", "url": lambda n: f"http://x/{n}"}
    rows = [(names[by](n), f"new {turn} of {n}") for turn in range(2) for n in (0, 1, 7, 11)]
    csv(tmp_path / "new.csv", [(by, "blip"), *rows, ("nobody", "x")])
    flags = ["--captions", tmp_path / "new.csv", "--join", by, "--caption-key", "blip"]
    done = pack(tars, "--out", tmp_path / "out", *flags)
    found = samples(tmp_path / "out" / "00.tar", tmp_path / "out" / "01.tar")
    for number, sample in enumerate(found):
        new = [f"new {turn} of {number}" for turn in range(2)] if number in (0, 1, 7, 11) else []
        assert sample["json"]["captions"] == json.loads(colour_sample(number)["json"])["captions"] + new
    assert "captions joined 33.33% of 12 samples" in done.out and "1 of 9 rows of captions found no sample" in done.out


def test_a_shard_cut_in_the_middle_costs_itself_only(pack, tars, tmp_path):
    cut = tmp_path / "in" / "01.tar"
    cut.write_bytes(cut.read_bytes()[:9000])
    done = pack(tars, "--out", tmp_path / "out", expect=1)
    assert "01.tar is left out: " in done.err and "cannot be read as a tar" in done.err
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["00.tar"]
    assert "to train on them (1 shards are missing):" in done.out and "out/00.tar' --train-num-samples 6" in done.out


def test_samples_that_cannot_be_packed_are_left_out(pack, tmp_path):
    broken = {str(row): colour_sample(row) for row in range(4)}
    broken["0"].pop("png")
    broken["1"]["json"] = b"{"
    broken["2"]["png"] = broken["2"]["png"][:70]
    write_tar(tmp_path / "a.tar", broken)
    pack(tmp_path / "a.tar", "--out", tmp_path / "out")
    assert left_out(tmp_path / "out", "a") == {
        "0": "no image",
        "1": "captions cannot be read",
        "2": "image cannot be read",
    }
    assert [x["__key__"] for x in samples(tmp_path / "out" / "a.tar")] == ["3"]


# --- what is written -------------------------------------------------------------------------------------------------


class Failing(io.FileIO):
    """A disk that loses or changes what is written to it."""

    def __init__(self, path: Path, at: int, lose: bool) -> None:
        super().__init__(path, "w+")
        self.at, self.lose, self.calls = at, lose, 0

    def write(self, content) -> int:
        self.calls += 1
        given = bytes(content)
        if self.calls == self.at and self.lose:
            return len(given)
        if self.calls == self.at:
            given = given[:5] + bytes([given[5] ^ 1]) + given[6:]
        super().write(given)
        return len(given)


@pytest.mark.parametrize("lose", [False, True])
def test_damage_is_found_before_a_shard_gets_its_name(tmp_path, lose):
    """Whichever of the blocks that a tar is written in is lost or changed."""
    write_tar(tmp_path / "a.tar", {str(row): colour_sample(row) for row in range(4)})
    given = (Shards((str(tmp_path / "a.tar"),), ("captions",), None), PictureSettings(), 0, lambda n: None)
    with Failing(tmp_path / "whole", -1, lose) as file:
        assert write_shard(str(tmp_path / "a.tar"), file, *given).counts["images"] == 4
        blocks = file.calls
    for at in range(1, blocks):  # the last one is padding
        with Failing(tmp_path / "b", at, lose) as file, pytest.raises(UsageError, match="what was written"):
            write_shard(str(tmp_path / "a.tar"), file, *given)


def test_a_dry_run_writes_nothing(pack, tokens, tars, pictures, tmp_path):
    before = contents(tmp_path)
    done = pack(tokens, "--out", tmp_path / "out", "--dry-run", "--group", "--images-per-shard", 3)
    assert (
        "caption: text in 100.00% of 8 samples, 3.00 captions each" in done.out and "8 samples would make 3" in done.out
    )
    assert done.out.count("caption 0 of") == 3 and '"caption 1 of 0"' in done.out
    done = pack(pictures, "--out", tmp_path / "out", "--dry-run", "--min-size", 50)
    assert "none can be packed" in done.out and "left out: 8 smaller than 50 pixels" in done.out
    csv(tmp_path / "new.csv", [("key", "text"), ("0001", "new")])
    before["new.csv"] = (tmp_path / "new.csv").read_bytes()
    done = pack(tars, "--out", tmp_path / "out", "--dry-run", "--captions", tmp_path / "new.csv")
    assert "1 with captions joined" in done.out and "about 12 samples would make 2 shards" in done.out
    assert contents(tmp_path) == before


def test_the_estimate_is_the_size(pack, pictures, tmp_path):
    done = pack(pictures, "--out", tmp_path / "out", "--dry-run")
    pack(pictures, "--out", tmp_path / "out")
    size = (tmp_path / "out" / "00000.tar").stat().st_size
    said = float(done.out.partition("some ")[2].partition(" MiB")[0])
    assert abs(said - size / 2**20) < 0.06  # it is told to a tenth, and a tar is filled up to 10 KiB


def test_names_in_braces():
    assert braces(["00000"]) == ["00000"]
    assert braces(["00008", "00009", "00010", "00012"]) == ["{00008..00010}", "00012"]
    assert braces(["train-0", "train-1", "val", "9", "10"]) == ["train-{0..1}", "val", "9", "10"]


@pytest.mark.slow
def test_a_killed_run_that_is_started_again_gives_the_same_bytes(tokens, tmp_path):
    """Killed as the list, a record and a shard would get their names."""
    command = [PACK, str(tokens), "--group", "--shuffle", "1", "--resize", "20", "--images-per-shard", "3", "--out"]
    assert run([*command, str(tmp_path / "whole")], tmp_path).returncode == 0
    whole = contents(tmp_path / "whole")
    assert len(whole) == 8  # settings, list, three shards with their records
    for point, missing in ((2, 3), (4, 3), (5, 2)):
        out = tmp_path / str(point)
        run([*command, str(out)], tmp_path, die_at=point)
        left = contents(out)
        assert left != whole and all(left[name] == whole[name] for name in left if "/." not in f"/{name}")
        done = run([*command, str(out)], tmp_path)
        assert done.returncode == 0 and f"{missing} of 3 shards to do" in done.stdout, done
        assert {name: x for name, x in contents(out).items() if "/." not in f"/{name}"} == whole


@pytest.mark.slow
def test_two_processes_give_the_same_as_one(tokens, tmp_path):
    command = [PACK, str(tokens), "--images-per-shard", "5", "--out"]
    assert run([*command, str(tmp_path / "one")], tmp_path).returncode == 0
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run([*torchrun, *command, str(tmp_path / "two")], tmp_path)
    assert done.returncode == 0 and done.stdout.count("to train on them") == 1, done
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    for share in (1, 0):
        done = run([*command, str(tmp_path / "three"), "--share", f"{share}/2"], tmp_path)
        assert done.returncode == 0, done
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


@pytest.mark.slow
def test_training_reads_what_was_packed(pack, trainer, tokens, tmp_path):
    done = pack(tokens, "--out", tmp_path / "out", "--group", "--images-per-shard", 4)
    flags = done.out.splitlines()[-1].replace("'", "").split()
    fff = ["--method", "fff", "--captions-per-image", "3", "--mining-features", "off", "--batch-size", "4"]
    assert trainer("--name", "x", *fff, data=flags) == 0
    assert "3.00 captions" in trainer.log("x") and "skipped" not in trainer.log("x")


# --- refusals --------------------------------------------------------------------------------------------------------


def test_what_is_not_there(refused, tmp_path):
    assert "nowhere.csv does not exist; check the path" in refused(tmp_path / "nowhere.csv")
    assert "00.tar does not exist (and 2 more of 3)" in refused(tmp_path / "{00..02}.tar")
    (tmp_path / "a.doc").write_text("x")
    assert "neither a folder nor one of .csv" in refused(tmp_path / "a.doc")
    (tmp_path / "empty").mkdir()
    assert "no picture in it or below" in refused(tmp_path / "empty")


def test_columns_that_are_not_there(refused, tokens):
    line = refused(tokens, "--image-key", "imag")
    assert "--image-key imag: " in line and "(did you mean image?); it has image, caption" in line
    assert "--caption-key blip: " in refused(tokens, "--caption-key", "caption;blip")
    assert "--class-key x: " in refused(tokens, "--class-key", "x")
    assert "read with --csv-separator ';'" in refused(tokens, "--csv-separator", ";", "--image-key", "image")
    csv(tokens.parent / "other.csv", [("a", "b"), ("c", "d")])
    assert "--image-key: say which column of" in refused(tokens.parent / "other.csv")


def test_tables_that_cannot_be_meant(refused, tokens, tmp_path):
    assert "holds no row" in refused(csv(tmp_path / "none.csv", [("image", "caption")]))
    (tmp_path / "void.jsonl").write_text("\n")
    assert "holds no row" in refused(tmp_path / "void.jsonl")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 not")
    assert "no.parquet cannot be read as parquet" in refused(tmp_path / "no.parquet")
    line = refused(tokens, "--image-root", tmp_path / "elsewhere")
    assert "--image-root: none of the first 16 images" in line and "elsewhere/pics/0.png" in line
    line = refused(csv(tmp_path / "urls.csv", [("image", "caption"), ("https://x/y.jpg", "a")]))
    assert "holds urls there, such as 'https://x/y.jpg'" in line and "img2dataset" in line
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": "a.jpg"}]}), tmp_path / "held.parquet")
    assert "held.parquet holds dict there, and not paths" in refused(tmp_path / "held.parquet")
    assert "are empty there" in refused(csv(tmp_path / "e.csv", [("image", "caption"), ("", "a")]))


def test_flags_that_cannot_work(refused, tokens, pictures, tars, tmp_path):
    assert "--group: goes with a table" in refused(pictures, "--group")
    assert "--shuffle: goes with a table or folder" in refused(tars, "--shuffle", "0")
    assert "--captions: goes with" in refused(tokens, "--captions", tmp_path)
    assert "--class-from-folder: goes with a folder" in refused(tokens, "--class-from-folder")
    for flag, value in (("--resize", "0"), ("--quality", "101"), ("--images-per-shard", "0"), ("--workers", "-1")):
        assert f"{flag} {value}: " in refused(tokens, flag, value)
    assert "--keep-columns captions: " in refused(tokens, "--keep-columns", "captions")


def test_a_folder_of_other_input_or_settings_is_refused(pack, tokens, tars, tmp_path):
    out = tmp_path / "out"
    pack(tokens, "--out", out, "--images-per-shard", 9)
    before = contents(out)
    done = pack(tokens, "--out", out, "--images-per-shard", 9, "--resize", 9, expect=2)
    assert "was made with --resize None and not 9; name another folder" in done.err
    with tokens.open("a") as table:
        table.write('"pics/0.png","one more"\n')
    assert "bytes of SOURCE" in pack(tokens, "--out", out, "--images-per-shard", 9, expect=2).err
    assert contents(out) == before
    done = pack(tars, "--out", tmp_path / "in", expect=2)
    assert "what is read lies there" in done.err
    assert pack(tars, "--out", tmp_path / "x", "--captions", tmp_path / "nowhere", expect=2).err.count("\n") == 1


def test_captions_that_join_nothing_show_a_key_of_each_side(pack, refused, tars, tmp_path):
    table = csv(tmp_path / "new.csv", [("key", "url", "text"), ("000", "http://y/0", "a"), ("001", "http://y/1", "b")])
    line = refused(tars, "--captions", table)
    assert "new.csv" in line and ("'000'" in line or "'001'" in line) and "'0000'" in line
    line = refused(tars, "--captions", table, "--join", "url")
    assert "'http://y/" in line and "'http://x/0'" in line
    pack(tars, "--out", tmp_path / "refused", "--resize", 9)  # what was refused left no settings behind
    (tmp_path / "side").mkdir()
    pq.write_table(pa.table({"key": ["000"], "captions": [["a"]]}), tmp_path / "side" / "00.parquet")
    done = pack(tars, "--out", tmp_path / "y", "--captions", tmp_path / "side", expect=2)
    assert "where the first is '000' and not '0000'" in done.err
    done = pack(tars, "--out", tmp_path / "y", "--captions", tmp_path / "side", "--caption-key", "blip", expect=2)
    assert "--caption-key: " in done.err and "has no column 'blip'" in done.err


def test_one_table_by_key_is_refused_where_keys_repeat(refused, shards, tmp_path):
    table = csv(tmp_path / "new.csv", [("key", "text"), ("0000", "a")])
    line = refused(shards / "{00..03}.tar", "--captions", table)
    assert "'0000' is a key of" in line and "a parquet per shard, or --join url" in line
