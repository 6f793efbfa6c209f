"""Training's flags in programs that do not train: what they mean there, and the parts that they bring."""

import argparse
import importlib
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from open_clip_fff.config.flags import flag_parser
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.errors import UsageError, reason

NOTHING: Mapping[str, object] = MappingProxyType({})


def borrow(
    flags: Sequence[str],
    usual: Mapping[str, object] = NOTHING,
    said: Mapping[str, object] = NOTHING,
    idle: Collection[str] = (),
) -> tuple[Plan, list[str]]:
    """The plan of some flags of training, with plugins imported and architectures registered.

    Args:
        flags: as typed.
        usual: settings by name (flags with underscores) where they are not typed.
        said: settings that the program decides, typed or not.
        idle: settings that only training needs, and that are passed over.

    Returns:
        The plan, and the flags that are none of ours: OpenCLIP's, or the caller's, or mistakes.

    Raises:
        UsageError: for a flag that cannot work.
    """
    typed, others = flag_parser().parse_known_args(list(flags))
    given = {**usual, **vars(typed), **said}
    plan = make_plan(argparse.Namespace(**{name: value for name, value in given.items() if name not in idle}))
    bring_parts(plan)
    return plan, others


def refuse(others: Sequence[str]) -> None:
    """For programs that take no flags of OpenCLIP's. Raises UsageError if any are left."""
    if others:
        raise UsageError(f"{others[0]}: neither a flag of this program nor one of training's")


def bring_parts(plan: Plan) -> None:
    """Imports plugins, whose parts register themselves, and registers architectures.

    Raises:
        UsageError: if one cannot be found, or raises, or exits.
    """
    for module in plan.plugins:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"--plugin {module}: cannot be imported ({error}); is it on PYTHONPATH?") from error
        except (Exception, SystemExit) as error:
            raise UsageError(f"--plugin {module}: cannot be imported ({_what_stops(module, error)})") from error
    if plan.model_config:
        from open_clip_fff.hub.loading import add_architectures  # OpenCLIP's registry, and torch with it

        add_architectures(plan.model_config)


def _what_stops(module: str, error: BaseException) -> str:
    """What a module does instead of being imported, and in which of its lines."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if module.split(".")[-1] in Path(frame.filename).with_suffix("").parts[-2:]]
    file, line = (own or frames)[-1].filename, (own or frames)[-1].lineno
    if isinstance(error, SyntaxError):  # of which there is no frame
        file, line = error.filename or file, error.lineno
    what = "it exits" if isinstance(error, SystemExit) else f"{type(error).__name__}: {reason(error)}"
    return f"{what}, in {file}, line {line}"


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A program's own flags, and those of training behind `--`."""
    argv = list(argv)
    if "--" not in argv:
        return argv, []
    place = argv.index("--")
    return argv[:place], argv[place + 1 :]
