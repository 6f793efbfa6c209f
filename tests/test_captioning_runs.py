"""scripts/caption.py over shards that are torn, odd or captioned in vain, and the flags that it ends with."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

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


def tar(path, rows, **members):
    """A shard of colour samples, with other members; None takes one."""
    samples = {f"{row:02d}": {**colour_sample(row), **members} for row in rows}
    path.parent.mkdir(exist_ok=True)
    return write_tar(
        path, {key: {name: x for name, x in each.items() if x is not None} for key, each in samples.items()}
    )


@pytest.mark.parametrize("into", ["sidecar", "tars"])
def test_a_torn_tar_behind_the_first_is_left_out(caption, into, tmp_path):
    """Its raw captions would be samples of their own."""
    tar(tmp_path / "0.tar", range(4))
    torn_tar(tmp_path / "1.tar", 3, whole=1)
    done = caption("{0..1}.tar", "out", "--into", into, expect=1)
    assert "1.tar the files of '0' do not follow each other" in done.err and "holds 1 of 2 shards: 4 images" in done.out
    assert {path.stem for path in (tmp_path / "out").glob("[01].*")} == {"0"}


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


@pytest.mark.parametrize("into", ["sidecar", "tars"])
def test_captions_that_are_all_dropped_are_told(caption, captioner, into, tmp_path):
    """Of a model that repeats one word for ever."""
    from transformers import AutoTokenizer, BlipForConditionalGeneration

    tar(tmp_path / "0.tar", range(4)), tar(tmp_path / "1.tar", range(2))
    loops, model = tmp_path / "loops", BlipForConditionalGeneration.from_pretrained(captioner)
    shutil.copytree(captioner, loops)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[
            AutoTokenizer.from_pretrained(captioner).convert_tokens_to_ids("red")
        ] = 1e4
    model.save_pretrained(loops)
    half = caption("{0..1}.tar", "out", "--into", into, "--model", loops, "--share", "0/2")
    assert "no image has a caption" not in half.out  # the other half may have some
    done = caption("{0..1}.tar", "out", "--into", into, "--model", loops, expect=1)
    assert "holds 2 of 2 shards: 6 images, 0 captions" in done.out and "dropped as looping" in done.out
    assert done.out.splitlines()[-1].startswith(
        "no image has a caption; another --decoding, --prompt or --dtype may do"
    )
