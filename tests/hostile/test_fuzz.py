"""Tars that are damaged in ways that somebody thought of, and in ways that nobody did."""

import bz2
import gzip
import io
import os
import random
import tarfile

import pytest

from open_clip_fff.data import tars
from open_clip_fff.patching import replaced
from tests.conftest import write_tar
from tests.hostile.damage import BLOCK, FORMATS, HUGE, ROWS, checked, header, samples, shard, tar
from tests.hostile.fuzz import Loader, fuzz, held

CASES, SECONDS = int(os.environ.get("FFF_FUZZ_CASES", "60")), float(os.environ.get("FFF_FUZZ_SECONDS", "12"))


def test_damaged_shards_are_rows_or_counted_losses():
    """By another seed in each run; a case that fails names its own, with which `fuzz.py --seed` repeats it."""
    came = fuzz(random.SystemRandom().randrange(2**32), CASES, SECONDS)
    print(dict(came))
    assert came["rows"] and came["damage"] and came["cases"] > 10


def test_a_case_is_its_seed():
    assert shard(random.Random("5/7")) == shard(random.Random("5/7")) != shard(random.Random("5/8"))


@pytest.fixture
def loader(tmp_path) -> Loader:
    return Loader(tmp_path)


def sound(form: int = tarfile.GNU_FORMAT) -> bytes:
    return tar(samples(random.Random(0)), form)


def headers(content: bytes) -> list[int]:
    """Where each member begins."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [member.offset for member in archive]


@pytest.mark.parametrize("plan", ["many captions", "stock"])
def test_a_damaged_header_does_not_pass_for_the_end(loader, plan):
    """tarfile takes it for the end: the rows behind it were lost, and nothing was said."""
    content = sound()
    assert +loader(content, plan) == {"rows": ROWS}
    for at in headers(content)[1:]:
        flipped = bytearray(content)
        flipped[at] ^= 1
        assert loader(bytes(flipped), plan)["lost shards"]
    assert loader(content[: headers(content)[7] + 100], plan)["lost shards"]  # cut within a header


def sparse() -> bytes:
    block = bytearray(header(random.Random(0), "0.txt", 0, ord("S")))
    block[386:512] = bytes(97) + tarfile.itn(HUGE, 12, tarfile.GNU_FORMAT) + bytes(17)
    return checked(block)


ABSURD = {
    "a sparse file of 8 GiB": sparse(),
    "a name of 8 GiB": header(random.Random(1), "0.txt", HUGE, ord("L")),
    "pax records of 8 GiB": header(random.Random(1), "0.txt", HUGE, ord("x")),
    "a file of 8 GiB": header(random.Random(1), "0.txt", HUGE, ord("0")),
    "more than there is on earth": header(random.Random(1), "0.txt", 2**86, ord("0")),
    "a negative size": header(random.Random(1), "0.txt", -BLOCK, ord("0")),
    "a size that leads to the first byte": header(random.Random(1), "0.txt", -headers(sound())[10] - BLOCK, ord("0")),
}


@pytest.mark.parametrize("packing", [bytes, gzip.compress, bz2.compress])
@pytest.mark.parametrize("what", ABSURD)
def test_what_a_header_says_is_not_believed(loader, what, packing):
    content, before = sound(), held(reset=True)
    at = headers(content)[10]
    came = loader(packing(content[:at] + ABSURD[what] + content[at:]), "many captions")
    assert came["rows"] == ROWS and held() - before < 100
    assert came["lost shards"] or (came["damage"] and "sparse" in what)


def test_what_is_unpacked_is_bounded(loader):
    """32 MB in a few hundred bytes, in a member and behind the end."""
    files = [("0.png", bytes(2**25)), *samples(random.Random(0))]
    content = tar(files, FORMATS[0])
    for packing in (gzip.compress, bz2.compress):
        packed = packing(content), packing(sound() + bytes(2**25))
        before = held(reset=True)
        with replaced(tars, MOST_BYTES=2**22):
            came = [loader(each, "many captions") for each in packed]
        assert came[0]["damage"] and came[1]["rows"] == ROWS and held() - before < 24


def test_many_members_of_one_sample_are_bounded_together(tmp_path):
    members = {f"x{number}": bytes(1_000) for number in range(9)}
    write_tar(tmp_path / "0.tar", {"a": members, "b": {"x": bytes(1_000)}})
    told: list[Exception] = []
    with replaced(tars, MOST_BYTES=4_000):
        found = list(tars.tar_samples(handler=lambda error: not told.append(error))([{"url": str(tmp_path / "0.tar")}]))
    assert [len(sample) - 2 for sample in found] == [4, 1] and len(told) == 5


def test_a_sample_ends_where_its_tar_does(tmp_path):
    write_tar(tmp_path / "0.tar", {"a": {"txt": b"x"}})
    write_tar(tmp_path / "1.tar", {"a": {"png": b"y"}})
    found = list(tars.tar_samples()({"url": str(tmp_path / name)} for name in ("0.tar", "1.tar")))
    assert [sample.keys() & {"txt", "png"} for sample in found] == [{"txt"}, {"png"}]


def test_streams_are_read_whole_however_they_are_packed():
    for packing in (bytes, gzip.compress, bz2.compress):
        stream = io.BytesIO(packing(sound()))
        (names,) = [[file["fname"] for file in tars.tar_files([{"url": "x", "stream": stream}])]]
        assert len(names) == 5 * ROWS
