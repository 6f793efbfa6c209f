"""eval/retrieval_set.py: shards as a retrieval set that clip-benchmark reads."""

import tarfile

from clip_benchmark.datasets.builder import build_dataset

from open_clip_fff.evaluation.benchmark import count_images
from tests.conftest import colour_sample, write_tar
from tests.full_disk import full_disk


def test_the_set_has_the_captions_in_order(program, shards, tmp_path):
    out = tmp_path / "sets" / "mine"
    done = program("retrieval_set", shards / "{00..01}.tar", "--out", out, "--json-text-key", "captions")
    assert "112 captions of 32 images" in done.out and f"--data-root {tmp_path / 'sets'} --datasets mine" in done.out
    assert count_images(out / "test", 1) == 32
    rows = list(build_dataset("wds/mine", str(out), lambda image: image.size, "test", task="zeroshot_retrieval"))
    assert rows[5] == ((40, 40), ["img 5", "a green square", "something green"])
    assert sum(len(captions) for _, captions in rows) == 112
    few = tmp_path / "few"
    program("retrieval_set", shards / "00.tar", "--out", few, "--json-text-key", "captions", "--captions", 1)
    assert [captions for _, captions in build_dataset("wds/few", str(few), str, "test", task="zeroshot_retrieval")] == [
        [f"img {row}"] for row in range(16)
    ]


def test_what_is_damaged_is_counted_and_mistakes_leave_nothing(program, shards, tmp_path):
    samples = {f"{row}": colour_sample(row) for row in range(4)}
    samples["1"]["png"], samples["2"] = b"no image", {"png": samples["2"]["png"]}
    samples["3"]["txt"] = b"two\nlines"
    tar = write_tar(tmp_path / "a.tar", samples)
    out = tmp_path / "out"
    said = program("retrieval_set", tar, "--out", out).out
    assert "2 captions of 2 images; left out: 2 × without captions or a readable image" in said
    assert "1 caption of several lines, each one caption here" in said
    with tarfile.open(out / "test" / "0.tar") as written:
        assert [written.extractfile(m).read() for m in written if m.name.endswith("txt")] == [b"img 0", b"two lines"]
    for arguments, named in (
        ([tar, "--out", out], f"--out {out}: exists already"),
        ([tar, "--out", tmp_path / "x", "--text-kay", "txt"], "--text-kay"),
        (
            [tar, "--out", tmp_path / "x", "--text-key", "nope"],
            "has captions (nope) and a readable image; they hold json, png, txt",
        ),
        ([tar, "--out", tmp_path / "x", "--json-text-key", "nope"], "no sample has a caption in json:nope"),
        (
            [tar, "--out", tmp_path / "x", "--caption-sidecar", tmp_path / "nowhere"],
            f"--caption-sidecar: {tmp_path / 'nowhere' / 'a.parquet'} does not exist",
        ),
        ([tmp_path / "no.tar", "--out", tmp_path / "x"], "no.tar"),
        ([tar, "--out", tmp_path / "x", "--captions", "0"], "--captions 0"),
    ):
        error = program("retrieval_set", *arguments, expect=2).err.strip()
        assert named in error and len(error.splitlines()) == 1
    with full_disk(1000):
        error = program("retrieval_set", tar, "--out", tmp_path / "x", expect=2).err
    assert f"--out {tmp_path / 'x'}: cannot be written ([Errno 27] File too large)" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "out"]


def test_captions_that_cannot_be_read_are_named_where_there_are_no_others(program, tmp_path):
    tar, side = write_tar(tmp_path / "a.tar", {"0": colour_sample(0)}), tmp_path / "a.parquet"
    side.write_bytes(b"junk")
    given = [tar, "--out", tmp_path / "x", "--caption-sidecar", tmp_path]
    error = program("retrieval_set", *given, expect=2).err
    assert f"no sample has a caption in sidecar:captions; {side} cannot be read (" in error


def test_copies_of_an_image_are_one_image_with_all_their_captions(program, tmp_path):
    """One caption a row, as in Flickr's lists: 12 images with one caption each would make right captions wrong."""
    samples = {
        f"{row}_{copy}": {"png": colour_sample(row)["png"], "txt": f"caption {copy} of {row}\n".encode()}
        for copy in range(3)
        for row in range(4)
    }
    samples["3_2"]["txt"] = samples["3_1"]["txt"]
    done = program("retrieval_set", write_tar(tmp_path / "a.tar", samples), "--out", tmp_path / "set", "--captions", 4)
    assert (
        "11 captions of 4 images; left out: 8 × copy of an image, which has its captions; dropped: 1 caption that an "
        "image had already\n"
    ) in done.out
    rows = list(build_dataset("wds/set", str(tmp_path / "set"), str, "test", task="zeroshot_retrieval"))
    assert [captions for _, captions in rows] == [
        *([f"caption {copy} of {row}" for copy in range(3)] for row in range(3)),
        ["caption 0 of 3", "caption 1 of 3"],
    ]


def test_a_text_that_an_image_has_several_times_is_one_caption(program, tmp_path):
    """Of txt and json, or within a list: a repeat would stand for a caption of its own, beyond K, which are counted."""
    samples = {
        "0": {
            **colour_sample(0),
            "txt": b"a dog",
            "json": b'{"captions": ["a  dog", "a cat", "a cat", "a cow", "last"]}',
        },
        "1": {**colour_sample(1), "json": b'{"captions": ["a bird"]}'},
    }
    tar = write_tar(tmp_path / "a.tar", samples)
    done = program("retrieval_set", tar, "--out", tmp_path / "set", "--json-text-key", "captions", "--captions", 3)
    dropped = "dropped: 2 captions that an image had already, 1 caption beyond --captions 3"
    assert f"5 captions of 2 images; {dropped}\n" in done.out
    rows = list(build_dataset("wds/set", str(tmp_path / "set"), str, "test", task="zeroshot_retrieval"))
    assert [captions for _, captions in rows] == [["a dog", "a cat", "a cow"], ["img 1", "a bird"]]
