"""scripts/caption.py over shards that are torn, odd or captioned in vain, and the flags that it ends with."""

import pytest

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
