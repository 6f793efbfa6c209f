"""Training's flags in commands that do not train: split from the command's own, and the plan that they make."""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from open_clip_fff.config.command_line import open_clip_parser
from open_clip_fff.config.fields import as_flag
from open_clip_fff.config.flags import flag_parser
from open_clip_fff.config.parsers import did_you_mean
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.errors import UsageError, reason

NOTHING: Mapping[str, object] = MappingProxyType({})
# training's flags on where captions are, for commands that take no others
CAPTION_FLAGS = ("text_key", "json_text_key", "caption_sidecar", "sidecar_text_key", "split_sentences", "caption_words")
MANY = 10_000  # captions of an image: more than training may take
# settings of commands that read all captions
ALL_CAPTIONS = {"loss": "fff", "method": None, "captions_per_image": MANY, "caption_policy": "all"}
CAPTIONS_HELP = f"those that say where captions are ({', '.join(map(as_flag, CAPTION_FLAGS))})"


def parse_with_training(
    parser: argparse.ArgumentParser, argv: Sequence[str], only: Collection[str] | None = None
) -> tuple[argparse.Namespace, list[str]]:
    """Parses the command's own flags, and returns training's as given; `only` limits these (with underscores).

    Both may be mixed. A flag that both have is the command's own; after `--` all flags are training's.

    Raises UsageError for a flag that neither has, and for what the command's parser refuses.
    """
    own = parser._option_string_actions
    trainings = flag_parser()._option_string_actions
    if only is None:
        trainings = {**open_clip_parser()._option_string_actions, **trainings}
    else:
        trainings = {name: action for name, action in trainings.items() if action.dest in only}
    here, behind = split_at_dashes(argv)
    mine: list[str] = []
    training: list[str] = []
    values = 0.0  # how many values the last flag may still take
    for token in here:
        name, equals, _ = token.partition("=")
        if token.startswith("--") or token in own:
            action = own.get(name) or trainings.get(name)
            if action is None:
                what = "training's" if only is None else "training's about captions"
                hint = did_you_mean(name, [*own, *trainings])
                raise UsageError(f"{name}: neither a flag of this command nor one of {what}{hint}")
            target, values = (mine if name in own else training), 0 if equals else _most_values(action)
            target.append(token)
        elif values:
            target.append(token)
            values -= 1
        else:
            mine.append(token)
    for token in behind:
        name = token.partition("=")[0]
        if name in own and name not in trainings:
            raise UsageError(f"{name}: is a flag of this command, and stands before --")
        if only is not None and token.startswith("--") and name not in trainings:
            raise UsageError(f"{name}: not one of training's flags about captions{did_you_mean(name, trainings)}")
    return parser.parse_args(mine), training + behind


def _most_values(action: argparse.Action) -> float:
    """How many words a flag takes at most."""
    if action.nargs is None:
        return 1
    return action.nargs if isinstance(action.nargs, int) else 1 if action.nargs == "?" else float("inf")


def training_plan(
    flags: Sequence[str],
    defaults: Mapping[str, object] = NOTHING,
    fixed: Mapping[str, object] = NOTHING,
    ignored: Collection[str] = (),
) -> tuple[Plan, list[str]]:
    """The plan of training's flags, and the words that are none of our flags: OpenCLIP's, or mistakes.

    Imports plugins and registers architectures.

    Args:
        flags: as given.
        defaults: settings by name (flags with underscores) where they are not given; a method only if no loss is given.
        fixed: settings that the command decides, given or not.
        ignored: settings that only training needs.

    Raises UsageError for a flag that cannot work.
    """
    own, others = flag_parser().parse_known_args(list(flags))
    given = {**defaults, **vars(own), **fixed}
    if "loss" in vars(own) and "method" in defaults and "method" not in vars(own):
        del given["method"]
    plan = make_plan(argparse.Namespace(**{name: value for name, value in given.items() if name not in ignored}))
    import_plugins(plan)
    return plan, others


def is_given(flags: Sequence[str], *names: str) -> bool:
    """Whether one of some settings (with underscores) is among the given flags."""
    return any(flag.split("=")[0] in map(as_flag, names) for flag in flags)


def import_plugins(plan: Plan) -> None:
    """Imports plugins, whose losses and other parts register themselves, and registers architectures.

    Raises UsageError if one cannot be found, or raises, or exits.
    """
    if plan.plugins and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as with `python -m`; an installed command lacks it
    for module in plan.plugins:
        as_module = f"name it as a module, {Path(module).stem}, with its folder on PYTHONPATH"
        if "/" in module or module.startswith("."):
            raise UsageError(f"--plugin {module}: is a path; {as_module}")
        try:
            importlib.import_module(module)
        except ImportError as error:
            fix = as_module if module.endswith(".py") else "is it on PYTHONPATH?"
            raise UsageError(f"--plugin {module}: cannot be imported ({error}); {fix}") from error
        except (Exception, SystemExit) as error:
            raise UsageError(f"--plugin {module}: cannot be imported ({_what_stops(module, error)})") from error
    if plan.model_config:
        from open_clip_fff.hub.loading import add_architectures  # OpenCLIP's registry, and torch with it

        add_architectures(plan.model_config)


def _what_stops(module: str, error: BaseException) -> str:
    """Why a module's import fails, and in which of its lines."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if module.split(".")[-1] in Path(frame.filename).with_suffix("").parts[-2:]]
    file, line = (own or frames)[-1].filename, (own or frames)[-1].lineno
    if isinstance(error, SyntaxError):  # has no frame
        file, line = error.filename or file, error.lineno
    what = "it exits" if isinstance(error, SystemExit) else f"{type(error).__name__}: {reason(error)}"
    return f"{what}, in {file}, line {line}"


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A program's own flags, and those of training after `--`."""
    argv = list(argv)
    if "--" not in argv:
        return argv, []
    place = argv.index("--")
    return argv[:place], argv[place + 1 :]
