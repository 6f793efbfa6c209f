"""Training's flags in programs that do not train."""

import sys

import pytest

from open_clip_fff.config.command_line import parse_shard_flags
from open_clip_fff.data.training_data import training_shards
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.training_flags import borrow, refuse, split_at_dashes
from tests.test_features import embed


def test_what_is_usual_what_is_typed_and_what_the_program_says():
    plan, others = borrow(
        ["--p1", "0.3", "--mined-cap", "4", "--epochs", "3"],
        usual={"captions_per_image": 5, "p1": 0.1},
        said={"loss": "fff", "mining_features": "precomputed", "p2": None},
        idle=("mined_cap",),
    )
    assert others == ["--epochs", "3"] and plan.captions.per_image == 5 and plan.captions.policy == "all"
    assert (plan.mining.p1, plan.mining.p2, plan.mining.cap) == (0.3, None, None)
    with pytest.raises(UsageError, match="--epochs: neither a flag of this program nor one of training's"):
        refuse(others)
    with pytest.raises(UsageError, match="--plugin no_such_module: cannot be imported"):
        borrow(["--plugin", "no_such_module"])
    with pytest.raises(UsageError, match=r"--model-config no\.json: there is no such file"):
        borrow(["--model-config", "no.json"])


TWICE = "from open_clip_fff import register_loss\nregister_loss('fff')(object)"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(:", r"SyntaxError: invalid syntax, in .*my_\d+\.py, line 1"),
        ("\nraise ValueError('on purpose,\\nin two lines')", r"ValueError: on purpose,, in .*my_\d+\.py, line 2"),
        ("import sys\nsys.exit(3)", r"it exits, in .*my_\d+\.py, line 2"),
        ("import no_such", r"No module named 'no_such'"),
        (
            "from open_clip_fff import register_loss\nregister_loss('fff')(object)",
            r"ValueError: loss 'fff' is registered twice, in .*my_\d+\.py, line 2",
        ),
    ],
)
def test_a_plugin_that_does_not_go_through_is_one_line(tmp_path, monkeypatch, text, says):
    name = f"my_{len(text)}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UsageError, match=rf"^--plugin {name}: cannot be imported \({says}") as error:
        borrow(["--plugin", name])
    assert len(str(error.value).splitlines()) == 1


def test_a_programs_own_flags_stand_before_the_dashes():
    assert split_at_dashes(["--out", "x", "--", "--p1", "0"]) == (["--out", "x"], ["--p1", "0"])
    assert split_at_dashes(["--out", "x"]) == (["--out", "x"], [])


def test_the_shards_of_a_training_command(trainer):
    nothing, _ = borrow([])
    args = parse_shard_flags([*trainer.tars, "--batch-size", "8", "--lr", "1e-3"])
    _, urls = training_shards(nothing, args)
    assert len(urls) == 4 and urls[1].endswith("01.tar") and args.batch_size == 8
    for wrong, named in (
        ([], "--train-data: name the shards"),
        (["--train-data", str(trainer.csv)], "only tars are read"),
        (["--train-data", str(trainer.shards / "{03..04}.tar")], "04.tar does not exist (1 of 2)"),
        ([*trainer.tars, "--batchsize", "8"], "--batchsize 8 (did you mean --batch-size?)"),
    ):
        with pytest.raises(UsageError) as error:
            training_shards(nothing, parse_shard_flags(wrong))
        assert named in str(error.value)


def test_embedding_says_what_is_wrong_in_a_line(trainer, tmp_path, capsys):
    for wrong in ([], ["--train-dta", "x.tar"]):
        capsys.readouterr()
        assert embed("--out", str(tmp_path / "x"), "--", *wrong, "--mining-model", "tiny-clip") == 2
        assert capsys.readouterr().err.count("\n") == 1
