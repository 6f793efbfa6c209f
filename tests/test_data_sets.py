"""Several data sets at once, `A::B`, as img2dataset writes them: their shards and keys have the same names."""

from pathlib import Path

from open_clip_fff import sample_id
from tests import recorder
from tests.conftest import colour_image, write_tar

ROWS = 8
FFF = ["--method", "fff", "--mining-features", "off", *recorder.RECORDED, "--captions-per-image", "1"]


def two_sets(folder: Path, shared: int = 0) -> dict[str, list[bytes]]:
    """Sets `a` and `b` of one shard each, equal in all names; the first `shared` images of `b` are images of `a`."""
    images = {name: [colour_image("red", at * ROWS + row) for row in range(ROWS)] for at, name in enumerate("ab")}
    images["b"][:shared] = images["a"][:shared]
    for name, some in images.items():
        (folder / name).mkdir()
        rows = {f"{n:09d}": {"png": image, "txt": f"{name} says {n}".encode()} for n, image in enumerate(some)}
        write_tar(folder / name / "00000.tar", rows)
    return images


def both(folder: Path) -> list[str]:
    shards = "::".join(str(folder / name / "00000.tar") for name in "ab")
    return ["--train-data", shards, "--train-num-samples", str(2 * ROWS), "--batch-size", str(2 * ROWS)]


def test_two_sets_of_equal_names_are_different_images_and_a_picture_in_both_is_one(trainer, tmp_path):
    images = two_sets(tmp_path, shared=2)
    assert trainer(*FFF, "--name", "x", data=both(tmp_path)) == 0
    expected = [sample_id(image) for some in images.values() for image in some]
    assert sorted(recorder.ids()) == sorted(expected) and len(set(expected)) == 2 * ROWS - 2
    # each image has one own caption, and the two that are there twice have two each: 2 * 2 more of 16 * 16 pairs
    share = (2 * ROWS + 2 * 2) / (2 * ROWS) ** 2
    assert f"Positives: {share:.3%}" in trainer.log("x")
