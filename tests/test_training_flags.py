"""Training's flags in programs that do not train."""

import re
import sys

import pytest

from open_clip_fff.commands import retrieval_set, train_discriminator
from open_clip_fff.commands.train_discriminator import LABELLING
from open_clip_fff.config.command_line import parse_shard_flags
from open_clip_fff.config.fields import as_flag
from open_clip_fff.config.parsers import CommandParser
from open_clip_fff.data.training_data import training_shards
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.training_flags import CAPTION_FLAGS, parse_with_training, training_plan
from tests.test_features import embed


def test_defaults_what_is_typed_and_what_the_command_decides():
    plan, others = training_plan(
        ["--p1", "0.3", "--mined-cap", "4", "--epochs", "3"],
        defaults={"captions_per_image": 5, "p1": 0.1},
        fixed={"loss": "fff", "mining_features": "precomputed", "p2": None},
        ignored=("mined_cap",),
    )
    assert others == ["--epochs", "3"] and plan.captions.per_image == 5 and plan.captions.policy == "all"
    assert (plan.mining.p1, plan.mining.p2, plan.mining.cap) == (0.3, None, None)
    assert training_plan([], defaults={"method": "fff"})[0].method == "fff"
    assert training_plan(["--loss", "softmax"], defaults={"method": "fff"})[0].method is None
    with pytest.raises(UsageError, match="--plugin no_such_module: cannot be imported"):
        training_plan(["--plugin", "no_such_module"])
    with pytest.raises(UsageError, match="name it as a module, no_such, with its folder on PYTHONPATH"):
        training_plan(["--plugin", "parts/no_such.py"])
    assert training_plan(["--method", "albef", "--fusion-layers", "0"])[0].fusion is None  # as our messages say it
    with pytest.raises(UsageError, match=r"--model-config no\.json: there is no such file"):
        training_plan(["--model-config", "no.json"])


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
        training_plan(["--plugin", name])
    assert len(str(error.value).splitlines()) == 1


def test_a_plugin_in_the_current_folder_is_found_by_an_installed_command(tmp_path, monkeypatch):
    (tmp_path / "my_own_part.py").write_text("FOUND = True")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(tmp_path))])
    training_plan(["--plugin", "my_own_part"])
    assert sys.modules.pop("my_own_part").FOUND


def command_parser() -> CommandParser:
    parser = CommandParser("open-clip-fff look", "Looks.\n\nAt data.", "--train-data, …")
    parser.add_argument("shards")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--again", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("line", "shards", "workers", "training"),
    [
        ("x.tar --out y", "x.tar", 4, ""),
        ("--p1 0.3 x.tar --out=y --epochs 2", "x.tar", 4, "--p1 0.3 --epochs 2"),
        ("--no-trim-tokens x.tar --again --out y --text-key=", "x.tar", 4, "--no-trim-tokens --text-key="),
        ("--workers 2 --out y --siglip x.tar", "x.tar", 2, "--siglip"),
        ("--out y x.tar -- --workers 3 --p1 0", "x.tar", 4, "--workers 3 --p1 0"),
        ("--p2 1 --out y --workers 2 x.tar -- --workers 3", "x.tar", 2, "--p2 1 --workers 3"),
        ("x.tar --out y --force-image-size 32 48 --seed 1", "x.tar", 4, "--force-image-size 32 48 --seed 1"),
    ],
)
def test_a_commands_own_flags_and_trainings_are_mixed(line, shards, workers, training):
    args, flags = parse_with_training(command_parser(), line.split())
    assert (args.shards, args.out, args.workers, flags) == (shards, "y", workers, training.split())


@pytest.mark.parametrize(
    ("line", "only", "says"),
    [
        ("--ot y", None, "--ot: neither a flag of this command nor one of training's (did you mean --out?)"),
        ("--batchsize 3", None, "--batchsize: neither a flag of this command nor one of training's (did you mean --ba"),
        ("--caption-per-image 3", None, "(did you mean --captions-per-image?)"),
        ("--tpyo", None, "--tpyo: neither a flag of this command nor one of training's"),
        ("x -- --out y", None, "--out: is a flag of this command, and stands before --"),
        (
            "x --out y --p1 0.3",
            CAPTION_FLAGS,
            "neither a flag of this command nor one of training's about captions",
        ),
        (
            "x --out y -- --text-keys a",
            CAPTION_FLAGS,
            "--text-keys: not one of training's flags about captions (did",
        ),
        ("x", None, "the following arguments are required: --out"),
    ],
)
def test_what_neither_has_is_refused_with_the_closest(line, only, says):
    with pytest.raises(UsageError) as error:
        parse_with_training(command_parser(), line.split(), only)
    assert says in str(error.value)
    assert ("did you mean" in str(error.value)) == ("(did" in says)


def test_the_help_of_a_command_has_one_layout():
    text = command_parser().format_help()
    assert text.startswith(
        "usage: open-clip-fff look shards --out DIR [its flags] [training's flags]\n\nLooks.\n\nAt data."
    )
    order = [
        text.index(part) for part in ("\narguments:\n", "\nits flags:\n", "\ntraining's flags:\n  --train-data, …")
    ]
    assert order == sorted(order)


@pytest.mark.parametrize(("command", "flags"), [(retrieval_set, ()), (train_discriminator, LABELLING)])
def test_the_help_of_a_command_that_takes_some_names_them_all_and_no_others(command, flags, capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = capsys.readouterr().out.partition("\ntraining's flags:\n")[2]
    assert set(re.findall(r"--\w[\w-]+", text)) == {*map(as_flag, (*CAPTION_FLAGS, *flags)), "--help"}


def test_the_help_of_a_command_that_takes_all_says_where_openclips_are_too():
    text = " ".join(command_parser().format_help().split())
    assert "open-clip-fff train --help lists them" in text and "where each flag is training's" in text


def test_the_shards_of_a_training_command(trainer):
    nothing, _ = training_plan([])
    args = parse_shard_flags([*trainer.tars, "--batch-size", "8", "--lr", "1e-3"])
    _, urls = training_shards(nothing, args)
    assert len(urls) == 4 and urls[1].endswith("01.tar") and args.batch_size == 8
    for wrong, named in (
        ([], "--train-data: name the shards"),
        (["--train-data", str(trainer.csv)], table := "is a table and no tar; open-clip-fff pack makes shards of it"),
        (["--train-data", str(trainer.csv), "--dataset-type", "webdataset"], table),
        (["--train-data", "http://x/y.csv"], "only tars are read here; open-clip-fff pack makes them"),
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
