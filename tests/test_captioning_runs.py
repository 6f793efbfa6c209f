"""scripts/caption.py over shards that are torn, odd or captioned in vain, and the flags that it ends with."""

import gzip
import json
import shlex
import shutil
import tarfile
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from open_clip_train.params import parse_args

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.training_data import check_all_captions, preview_training_data, training_shards
from open_clip_fff.hub.training_flags import training_plan
from tests.captioning_models import make_captioner
from tests.conftest import colour_sample, write_tar
from tests.test_unusable_data import torn_tar


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    return make_captioner(tmp_path_factory.mktemp("captioner") / "blip", "blip")


@pytest.fixture
def caption(program, captioner, tmp_path):
    """Captions shards below `tmp_path` into another folder there."""

    def run(shards, out, *more, expect=0):
        flags = ["--max-new-tokens", "10", "--batch-size", "4", "--workers", "2", "--captions", "2", *more]
        given = ("--train-data", tmp_path / shards, "--out", tmp_path / out, "--model", captioner)
        return program("caption", *given, *flags, folder="scripts", expect=expect)

    return run


def tar(path, rows, raw=None):
    """A shard of colour samples; those of `raw`, if given, have a raw caption."""
    samples = {f"{row:02d}": colour_sample(row) for row in rows}
    for row in set() if raw is None else set(rows) - set(raw):
        del samples[f"{row:02d}"]["txt"]
    path.parent.mkdir(exist_ok=True)
    return write_tar(path, samples)


@pytest.mark.parametrize("into", ["sidecar", "tars"])
def test_a_torn_tar_behind_the_first_is_left_out(caption, into, tmp_path):
    """Its raw captions would be samples of their own."""
    tar(tmp_path / "0.tar", range(4))
    torn_tar(tmp_path / "1.tar", 3, whole=1)
    done = caption("{0..1}.tar", "out", "--into", into, expect=1)
    assert "1.tar the files of '0' do not follow each other" in done.err and "holds 1 of 2 shards: 4 images" in done.out
    assert {path.stem for path in (tmp_path / "out").glob("[01].*")} == {"0"}


def test_shards_without_samples_are_told(caption, tmp_path):
    write_tar(tmp_path / "0.tar", {})
    done = caption("0.tar", "out", expect=1)
    assert done.out.splitlines()[-1].endswith("holds 1 of 1 shard: nothing, as there are no samples")


@pytest.mark.parametrize("damaged", [False, True])
def test_captions_of_other_keys_are_named(caption, damaged, tmp_path):
    tar(tmp_path / "0.tar", range(4))
    caption("0.tar", "out")
    made, plot = tmp_path / "out" / "0.parquet", (tmp_path / "out" / "examples.png").read_bytes()
    pq.write_table(pa.table({"key": ["a", "b"], "captions": [["a square"], ["a title"]]}), made)
    if damaged:
        made.write_bytes(made.read_bytes()[:100])
    done = caption("0.tar", "out", expect=1)
    assert done.out.splitlines()[-1] == (
        f"no key of {tmp_path / '0.tar'} has captions in {made}: 0.parquet was made of another shard or is damaged; "
        "remove it, and it is made again"
    )
    assert (tmp_path / "out" / "examples.png").read_bytes() == plot
    made.unlink()
    assert "to train with them" in caption("0.tar", "out").out


def test_shards_that_were_rewritten_since_are_told(caption, tmp_path):
    """Training would give new images the captions of those that had their keys."""
    tar(tmp_path / "0.tar", range(4)), tar(tmp_path / "1.tar", range(4, 8))
    caption("{0..1}.tar", "out")
    captions = CaptionSettings(policy="all", sidecar=str(tmp_path / "out"), sidecar_keys=("captions",))
    assert check_all_captions(str(tmp_path / "{0..1}.tar"), captions) == []
    tar(tmp_path / "1.tar", range(4, 30))
    (note,) = check_all_captions(str(tmp_path / "{0..1}.tar"), captions)
    assert note.startswith(
        "warning: --caption-sidecar: 1 of 2 shards have another size than when their parquets were made (first "
        f"{tmp_path / '1.tar'}): where other images have the keys now, "
    )
    for content in ("no json", "[]", "{}", '{"source": "1.csv", "bytes": 3}'):
        (tmp_path / "out" / "records" / "1.json").write_text(content)
        assert check_all_captions(str(tmp_path / "{0..1}.tar"), captions) == []


@pytest.fixture(scope="module")
def loops(captioner):
    """A captioner that repeats one word for ever."""
    from transformers import AutoTokenizer, BlipForConditionalGeneration

    folder, model = captioner.parent / "loops", BlipForConditionalGeneration.from_pretrained(captioner)
    shutil.copytree(captioner, folder)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[
            AutoTokenizer.from_pretrained(captioner).convert_tokens_to_ids("red")
        ] = 1e4
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("into", ["sidecar", "tars"])
def test_captions_that_are_all_dropped_are_told(caption, loops, into, tmp_path):
    tar(tmp_path / "0.tar", range(4)), tar(tmp_path / "1.tar", range(2))
    half = caption("{0..1}.tar", "out", "--into", into, "--model", loops, "--share", "0/2")
    assert "no image has a caption" not in half.out  # the other half may have some
    done = caption("{0..1}.tar", "out", "--into", into, "--model", loops, expect=1)
    assert "holds 2 of 2 shards: 6 images, 0 captions" in done.out
    assert ", 24 dropped as looping, 24 generated texts stopped at 10 tokens" in done.out
    assert done.out.splitlines()[-1].startswith(
        "no image has a caption; another --decoding, --prompt or --dtype may do"
    )


def trains_on(done):
    """The shards and the plan of the flags that a run ends with, read as by a shell, and looked at as training does."""
    start, _, line = done.out.splitlines()[-1].partition(": ")
    assert start == "to train with them"
    plan, others = training_plan(["--method", "fff-softmax", "--mining-features", "off", *shlex.split(line)])
    args = parse_args(others)
    plan, shards = training_shards(plan, args)
    assert preview_training_data(args, plan)[1]
    return shards, plan


@pytest.mark.parametrize("into", ["sidecar", "tars"])
@pytest.mark.parametrize("lost", [0, 1])
def test_the_flags_name_the_shards_that_are_there(caption, into, lost, tmp_path):
    for number in range(4):
        tar(tmp_path / "in" / f"{number}.tar", range(4 * number, 4 * number + 4))
    (tmp_path / "in" / f"{lost}.tar").write_bytes(b"no tar" * 1000)
    done = caption("in/{0..3}.tar", "with space", "--into", into, expect=1)
    folder = tmp_path / ("in" if into == "sidecar" else "with space")
    shards, plan = trains_on(done)
    assert shards == [str(folder / f"{number}.tar") for number in range(4) if number != lost]
    assert plan.captions.per_image == 3 and plan.captions.text_keys == ("txt",)
    half = caption("in/{2..3}.tar", "half", "--into", into, "--share", "0/2")  # another task makes the other shard
    assert "/{2..3}.tar" in half.out.splitlines()[-1]


def test_the_flags_say_what_a_compressed_tar_is(caption, tmp_path):
    plain = tar(tmp_path / "0.tar", range(4)).read_bytes()
    (tmp_path / "it's.tar.gz").write_bytes(gzip.compress(plain))
    assert trains_on(caption("it's.tar.gz", "out"))[0] == [str(tmp_path / "it's.tar.gz")]
    assert trains_on(caption("it's.tar.gz", "tars", "--into", "tars"))[0] == [str(tmp_path / "tars" / "it's.tar.tar")]


@pytest.mark.parametrize("into", ["sidecar", "tars"])
def test_raw_captions_behind_the_examples_count(caption, into, tmp_path):
    tar(tmp_path / "0.tar", range(12), raw=range(9, 12)), tar(tmp_path / "1.tar", range(12), raw=())
    done = caption("0.tar", "out", "--into", into)
    assert ", 3 images with a raw caption" in done.out
    plan = trains_on(done)[1]
    assert plan.captions.per_image == 3 and plan.captions.text_keys == ("txt",)
    plan = trains_on(caption("1.tar", "none", "--into", into))[1]
    assert plan.captions.per_image == 2 and plan.captions.text_keys == ()


@pytest.mark.parametrize("into", ["sidecar", "tars"])
@pytest.mark.parametrize("raw", [None, ()])
def test_the_flags_ask_for_no_more_captions_than_an_image_has(caption, loops, into, raw, tmp_path):
    """All of an image's generated texts are equal; no image of the last batch can be read."""
    tar(tmp_path / "0.tar", range(8), raw)
    with tarfile.open(tmp_path / "0.tar", "a") as file:
        file.addfile(tarfile.TarInfo("9.png"))
    argv = ("0.tar", "out", "--into", into, "--model", loops, "--captions", "6", "--max-new-tokens", "2")
    assert trains_on(done := caption(*argv))[1].captions.per_image == (2 if raw is None else 1)
    assert "1.00 captions an image, of 6" in done.out
    record = tmp_path / "out" / "records" / "0.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "most_captions": None}))  # of an earlier version
    assert f" --captions-per-image {7 if raw is None else 6}" in caption(*argv).out


def test_a_key_with_a_dot_is_told_and_characters_that_the_plot_lacks_are_not(caption, tmp_path):
    samples = {f"{row}": {**colour_sample(row), "txt": "一只猫在红色的沙发上睡觉".encode()} for row in range(3)}
    write_tar(tmp_path / "0.tar", {**samples, "cat.v2": colour_sample(3)})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Glyph")
        done = caption("0.tar", "out", "--prompt", r"$\a$")
    assert "4 samples in " in done.out and "left out: 1 × no image: its key has a dot; each is named" in done.out
    assert (tmp_path / "out" / "examples.png").exists()


def test_a_plot_of_ones_own_stays(caption, tmp_path):
    tar(tmp_path / "0.tar", range(4))
    (own := tmp_path / "out" / "examples.png").parent.mkdir()
    own.write_bytes(b"mine")
    done = caption("0.tar", "out", expect=2)
    assert f"--out {own.parent}: examples.png there would be replaced; name another folder" in done.err
    assert own.read_bytes() == b"mine" and list(own.parent.iterdir()) == [own]
    assert "a::b: training would read " in caption("0.tar", "a::b", expect=2).err
