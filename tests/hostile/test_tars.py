"""Hostile members of tars: json, text, images, names."""

import io
import json
import random
import tarfile
import time

import pytest

from open_clip_fff import sample_id
from open_clip_fff.data.caption_rows import CaptionRow, deserialize, serialize
from open_clip_fff.data.shards import read_samples
from open_clip_fff.data.tars import Header
from tests import recorder
from tests.conftest import colour_image, colour_sample, write_tar
from tests.hostile.conftest import FORGED, GOOD, SIZE, good_rows, hostile_images, train
from tests.programs import Program

BROKEN = None  # the member cannot be read: named in a warning, and counted

HOSTILE_JSON = {
    "prose": (b"a cat on a mat", BROKEN),
    "cut short": (b'{"captions": ["a cat", "a d', BROKEN),
    "nothing": (b"", BROKEN),
    "zeros": (b"\0" * 64, BROKEN),
    "a top-level list": (b'["a cat", "a dog"]', BROKEN),
    "a bare string": (b'"a cat"', BROKEN),
    "latin-1": ('{"captions": ["café"]}'.encode("latin-1"), BROKEN),
    "without an end": (b'{"captions": ' + b"[" * 100_000, BROKEN),
    "900 lists deep": (b'{"captions": ' + b"[" * 900 + b'"x"' + b"]" * 900 + b"}", BROKEN),
    "a number of 5,000 digits": (b'{"captions": ' + b"9" * 5_000 + b"}", BROKEN),
    "null": (b'{"captions": null}', []),
    "a number": (b'{"captions": 3.5}', []),
    "a boolean": (b'{"captions": true}', []),
    "NaN": (b'{"captions": NaN}', []),
    "an object in place of a list": (b'{"captions": {"blip": "a cat"}}', []),
    "an empty list": (b'{"captions": []}', []),
    "blanks": (b'{"captions": ["", "  ", "\\t\\n", "\\u00a0", "\\ufeff", "\\u0000"]}', []),
    "nothing to see": (b'{"captions": ["&nbsp;", "&amp;nbsp; ", "\\u200b", "\\u2060&#8203;", "\\u00ad"]}', []),
    "something to see": (b'{"captions": ["&nbsp;&amp;", "\\u200b."]}', ["&nbsp;&amp;", "\u200b."]),
    "another field": (b'{"caption": "a cat"}', []),
    "an empty object": (b"{}", []),
    "a mixed list": (b'{"captions": [null, 3, "a cat", {"a": "b"}, true]}', ["a cat"]),
    "a string, not its characters": (b'{"captions": "a cat"}', ["a cat"]),
    "lists in a list": (b'{"captions": [["one", "two"], [["three"]]]}', ["one", "two", "three"]),
    "the field twice": (b'{"captions": "first", "captions": "last"}', ["last"]),
    "a byte order mark": (b'\xef\xbb\xbf{"captions": "a mark"}', ["a mark"]),
    "UTF-16": ('{"captions": "wide"}'.encode("utf-16"), ["wide"]),
    "NUL": (b'{"captions": "a dog\\u0000\\u0000"}', ["a dog"]),
    "half an emoji": (b'{"captions": "happy \\ud83d"}', ["happy"]),
    "emoji, and right to left": ('{"captions": "🐈 \u202eقطة"}'.encode(), ["🐈 \u202eقطة"]),
    "1 MB": (json.dumps({"captions": "a cat sits " * 100_000}).encode(), ["a cat sits " * 100_000]),
    "our own envelope": (json.dumps({"captions": FORGED}).encode(), [FORGED]),
    "an envelope for the whole": (FORGED.encode(), ["forged"]),  # plain fields, as any other
}


def test_hostile_json_is_read_or_counted(trainer, tmp_path, capsys):
    samples = {
        f"good{i}": {"png": colour_image("red", i), "json": json.dumps({"captions": texts}).encode()}
        for i, texts in enumerate(good_rows())
    }
    for name, (content, _) in HOSTILE_JSON.items():
        samples[name] = {"png": colour_image("blue", len(samples)), "json": content}
    write_tar(tmp_path / "00.tar", samples)
    expected = [texts for _, texts in HOSTILE_JSON.values() if texts]
    broken = [name for name, (_, texts) in HOSTILE_JSON.items() if texts is BROKEN]
    without = len(HOSTILE_JSON) - len(expected)

    flags = ["--text-key", "", "--json-text-key", "captions"]
    rows, data = GOOD + len(expected), ["--train-data", str(tmp_path / "00.tar")]
    log = train(trainer, data, rows, *flags, per_image=3)
    assert recorder.rows() == recorder.rows_of(*good_rows(), *expected)
    assert f"epoch 0: {len(samples)} rows read" in log
    assert f"epoch 0: {without} without a caption, {len(broken)} with unreadable captions\n" in log
    for name in broken:
        assert f"00.tar: {name}.json cannot be read (" in log
    printed = capsys.readouterr().out
    assert f"{len(broken)} rows with captions that cannot be read, first {tmp_path}/00.tar: prose.json" in printed


@pytest.mark.parametrize("flags", [[], ["--method", "clip"]], ids=["stock", "clip"])
def test_a_caption_without_a_space_takes_no_hours(trainer, tmp_path, flags):
    """OpenCLIP's tokenizer is quadratic in the letters of a word: the loader waited, until --timeout ended the run."""
    letters = random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=200_000)
    samples = {str(row): colour_sample(row) for row in range(GOOD)}
    samples["0"]["txt"] = "".join(letters).encode()
    samples["1"]["txt"] = "".join(["é", *letters]).encode()  # not ASCII, and so not of the fast tokenizer
    write_tar(tmp_path / "00.tar", samples)
    data = ["--train-data", str(tmp_path / "00.tar"), *SIZE, "--batch-size", str(GOOD)]
    began = time.monotonic()
    assert trainer(*flags, "--name", "x", data=data) == 0
    assert time.monotonic() - began < 60 and f"[{GOOD}/{GOOD} (100%)]" in trainer.log("x")


HOSTILE_TEXT = {
    "nothing": (b"", []),
    "blanks": (b" \r\n\t\0 ", []),
    "latin-1": ("un café".encode("latin-1"), BROKEN),
    "UTF-16": ("wide".encode("utf-16"), BROKEN),
    "a png": (colour_image("red", 1), BROKEN),
    "a byte order mark": (b"\xef\xbb\xbfa mark\r\n", ["a mark"]),
    "lines": (b"one\ntwo", ["one\ntwo"]),
    "our own envelope": (FORGED.encode(), [FORGED]),
    "half an envelope": (FORGED[:30].encode(), [FORGED[:30]]),
}


def test_hostile_text_is_read_or_counted(trainer, tmp_path):
    samples = {
        f"good{i}": {"png": colour_image("red", i), "txt": text.encode()} for i, (text,) in enumerate(good_rows())
    }
    for name, (content, _) in HOSTILE_TEXT.items():
        samples[name] = {"png": colour_image("blue", len(samples)), "txt": content}
    write_tar(tmp_path / "00.tar", samples)
    expected = [texts for _, texts in HOSTILE_TEXT.values() if texts]
    log = train(trainer, ["--train-data", str(tmp_path / "00.tar")], GOOD + len(expected))
    assert recorder.rows() == recorder.rows_of(*good_rows(), *expected)
    assert "epoch 0: 5 without a caption, 3 with unreadable captions\n" in log
    # no id comes from what a caption says
    kept = [name for name in samples if HOSTILE_TEXT.get(name, (b"", ["good"]))[1]]
    assert sorted(recorder.ids()) == sorted(sample_id(samples[name]["png"]) for name in kept)


def test_what_a_person_wrote_is_never_opened_as_an_envelope():
    assert deserialize(serialize(CaptionRow(5, [FORGED], 1))) == CaptionRow(5, [FORGED], 1)
    assert deserialize(serialize(CaptionRow(5, [serialize(CaptionRow(6, ["inner"]))]))) == CaptionRow(
        5, [serialize(CaptionRow(6, ["inner"]))]
    )


def test_images_that_are_none_in_tars(trainer, tmp_path):
    samples = {f"good{i}": colour_sample(i) for i in range(GOOD)}
    samples |= {name: {**colour_sample(9), "png": content} for name, content in hostile_images().items()}
    samples["no image at all"] = {"txt": b"a cat"}
    write_tar(tmp_path / "00.tar", samples)
    log = train(trainer, ["--train-data", str(tmp_path / "00.tar"), "--epochs", "2"], GOOD)
    assert "4 with an unreadable member or image" in log and log.count("Train Epoch: 1") == 1
    assert f"{tmp_path}/00.tar: no image.png cannot be read (cannot identify image file). Going on without it." in log


def test_file_names_that_are_not_utf_8(trainer, tmp_path, capsys):
    with tarfile.open(tmp_path / "00.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        for row in range(GOOD):
            for extension, content in (colour_sample(row) | {"json": b"{"}).items():
                info = tarfile.TarInfo(f"café {row}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    data = ["--train-data", str(tmp_path / "00.tar")]
    assert "8 with unreadable captions" not in train(trainer, data, GOOD)  # nobody asked for json
    assert len(set(recorder.ids())) == GOOD
    assert r"  caf\udce9 0" in capsys.readouterr().out


def test_tars_that_cannot_be_meant(refused, tmp_path):
    def tar(name: str, **members: bytes) -> list[str]:
        write_tar(tmp_path / name, {f"{row:02d}": {**colour_sample(row), **members} for row in range(GOOD)})
        return ["--train-data", str(tmp_path / name), *SIZE]

    fields = ("--json-text-key", "captions")
    line = refused(*fields, data=tar("objects.tar", json=b'{"captions": {"blip": ["a"], "git": [{"text": "b"}]}}'))
    says = "no row of objects.tar has text there; text is in captions.blip, captions.git.text; the first json is {"
    assert f"--json-text-key captions: {says}" in line
    line = refused(*fields, data=tar("list.tar", json=b'["a cat"]'))
    assert "--json-text-key captions: no row of list.tar has text there" in line and "no object with named" in line
    line = refused(*fields, data=tar("cut.tar", json=b'{"captions": ["a c'))
    assert "--json-text-key captions" in line and "cut.tar: 00.json cannot be read" in line
    line = refused("--json-text-key", "syn.json:syn_text", data=tar("plain.tar"))
    assert "--json-text-key syn.json:syn_text: no row of plain.tar" in line and "its rows hold json, png, txt" in line
    line = refused("--json-text-key", "syn.json:syn_txt", data=tar("typo.tar", **{"syn.json": b'{"syn_text": "a"}'}))
    assert 'the first syn.json is {"syn_text": "a"}' in line
    line = refused(data=tar("latin.tar", txt="café".encode("latin-1")))
    assert "--text-key txt" in line and "latin.tar: 00.txt cannot be read ('utf-8' codec" in line
    line = refused(data=tar("pages.tar", png=b"<html>404</html>"))
    assert "pages.tar: none of the first images can be read (cannot identify image file)" in line
    tar("whole.tar")
    (tmp_path / "half.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:9_000])
    for name, content in {"half.tar": None, "empty.tar": b"", "page.tar": b"<html>" * 999}.items():
        (tmp_path / name).write_bytes(content if content is not None else (tmp_path / name).read_bytes())
        assert f"{name} cannot be read as a tar" in refused(data=["--train-data", str(tmp_path / name), *SIZE])


@pytest.mark.parametrize("method", ["fff", "clip"])
def test_an_epoch_that_trains_nothing_is_no_success(trainer, tmp_path, capsys, method):
    """Fewer readable rows than a mini-batch, which our losses go on to fill; or none with captions and an image."""
    rows = {f"{row}": colour_sample(row) for row in range(3)}
    rows |= {f"{row}": {"txt": b"a cat", "png": b"no image"} for row in range(3, 16)}
    if method == "fff":  # what the preview looks for is there, though not in one row
        rows = {"0": {"png": rows["0"]["png"]}, "1": {"txt": b"a cat", "png": b"no image"}}
    write_tar(tmp_path / "00.tar", rows)
    data = ["--train-data", str(tmp_path / "00.tar"), "--train-num-samples", "16"]
    off = ["--mining-features", "off", "--logit-bias-init", "-10"] if method == "fff" else []
    assert trainer("--method", method, *off, "--captions-per-image", "1", "--name", "x", data=data) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "in epoch 0 the rows that can be read filled no step of --batch-size 16" in line
    assert not (trainer.run("x") / "checkpoints" / "epoch_1.pt").exists()


class _AsTarfileParses(Header):
    """The same without its memory of the header before."""

    frombuf = classmethod(tarfile.TarInfo.frombuf.__func__)


def test_files_of_macos_tear_no_sample_apart(tmp_path):
    with tarfile.open(tmp_path / "00.tar", "w") as tar:
        for name in ("d/._0.jpg", "d/0.jpg", "d/._0.txt", "d/0.txt"):
            tar.addfile(tarfile.TarInfo(name))
    assert [(x["__key__"], {"jpg", "txt"} <= set(x)) for x in read_samples([str(tmp_path / "00.tar")])] == [
        ("d/0", True)
    ]


def _members_of(content: bytes, header: type[tarfile.TarInfo]) -> list[tuple] | str:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r|", tarinfo=header) as tar:
            return [(m.name, m.size, m.type, m.mode, m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar]
    except tarfile.ReadError as error:
        return str(error)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_header_like_the_one_before_is_parsed_as_tarfile_parses_it(form):
    """With any of its bytes changed, with and without a checksum that fits."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for number, name in enumerate(("0.jpg", "0.txt", f"{'d' * 90}/{'n' * 60}.txt", "\udce9.txt", "1.txt")):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = 3 + number, 1.5 if number == 3 else 1, "me"
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    whole = file.getvalue()
    assert _members_of(whole, Header) == _members_of(whole, _AsTarfileParses) and len(_members_of(whole, Header)) == 5
    second, damaged = 1024, 0
    for at in (*range(120, 160), *range(0, 512, 7)):
        for value in (0, ord("7"), ord("9")):
            for fitting in (False, True):
                header = bytearray(whole[second : second + 512])
                header[at] = value
                if fitting:
                    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
                changed = whole[:second] + bytes(header) + whole[second + 512 :]
                expected = _members_of(changed, _AsTarfileParses)
                assert _members_of(changed, Header) == expected, (at, value, fitting)
                damaged += isinstance(expected, str)
    assert damaged > 100


def test_another_tar_behind_the_end_of_one_is_told(trainer, tmp_path, caplog, capsys):
    """As of `cat a.tar b.tar > c.tar`, of which webdataset and tar read the first."""
    parts = []
    for part in range(2):
        write_tar(
            tmp_path / "part.tar", {str(row): colour_sample(row) for row in range(part * GOOD, part * GOOD + GOOD)}
        )
        parts.append((tmp_path / "part.tar").read_bytes())
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(parts))
    says = f"{joined}: its end is at byte {len(parts[0].rstrip(bytes(1))) // 512 * 512 + 512:,}, and another tar"
    for _ in range(2):  # told once
        assert len(list(read_samples([str(joined)]))) == GOOD
        assert caplog.text.count(says) == 1
    for name, content in (
        ("padded", parts[0] + bytes(20_000)),
        ("garbage", parts[0] + b"x" * 3_000),
        ("cut", parts[0][:-9]),
    ):
        (tmp_path / name).write_bytes(content)
        assert len(list(read_samples([str(tmp_path / name)]))) == GOOD
    assert len(caplog.records) == 1


@pytest.mark.slow
def test_a_joined_tar_is_told_before_training_and_packing(trainer, tmp_path):
    write_tar(tmp_path / "part.tar", {str(row): colour_sample(row) for row in range(16)})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.tar").write_bytes((tmp_path / "part.tar").read_bytes() * 2)
    train = ["train", *trainer.common, "--model-config", trainer.config, "--train-data", tmp_path / "in" / "0.tar"]
    pack = ["pack", tmp_path / "in", "--out", tmp_path / "out"]
    for argv in ([*train, "--train-num-samples", "16"], pack):
        done = Program(["-m", "open_clip_fff", *argv], cwd=tmp_path).done()
        assert done.returncode == 0, done
        assert done.stderr.count(f"{tmp_path}/in/0.tar: its end is at byte ") == 1


def linked_tar(path, links: int, kind: bytes) -> str:
    """A tar of 16 samples, as of a folder in which the last images or texts are links to the first one's."""
    with tarfile.open(path, "w") as tar:
        for row in range(16):
            for name, content in colour_sample(row).items():
                info = tarfile.TarInfo(f"{row:04d}.{name}")
                if name == "png" and row >= 16 - links:
                    info.type, info.linkname = kind, "0000.png"
                else:
                    info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE], ids=["hard", "symbolic"])
def test_links_are_told_before_training(trainer, tmp_path, kind, caplog, capsys):
    """GNU tar writes the second of two files that are hard links of each other as one."""
    some, no = linked_tar(tmp_path / "some.tar", 12, kind), linked_tar(tmp_path / "none.tar", 16, kind)
    fix = "perhaps others are, and these hold no data; write it with tar -h --hard-dereference"
    assert trainer("--batch-size", "2", "--name", "x", data=["--train-data", some, "--train-num-samples", "4"]) == 0
    told = [record.message for record in caplog.records if "hold no data" in record.message]
    assert told == [f"{some}: 0004.png is a link, {fix}"]  # once
    assert trainer("--method", "clip", data=["--train-data", no, "--train-num-samples", "4"]) == 2
    assert f"its rows hold json, txt: 0000.png is a link, {fix}" in capsys.readouterr().err


def test_links_are_told_in_packing(program, tmp_path, caplog):
    some, no = (linked_tar(tmp_path / f"{links}.tar", links, tarfile.LNKTYPE) for links in (12, 16))
    program("pack", some, "--out", tmp_path / "out", folder="scripts")
    assert caplog.text.count(f"{some}: 0004.png is a link") == 1
    done = program("pack", no, "--out", tmp_path / "none", folder="scripts", expect=2)
    assert "they hold json, txt: 0000.png is a link, " in done.err
    assert len(list(read_samples([f"pipe:cat {some}"]))) == 16
    assert f"pipe:cat {some}: 0004.png is a link" in caplog.text
