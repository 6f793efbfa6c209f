"""One command line for OpenCLIP and us: who parses what, one help, one line per error."""

import argparse
import difflib
import io
import re
from contextlib import redirect_stderr, redirect_stdout

from open_clip_train.params import parse_args as open_clip_parse_args

from open_clip_fff.config.flags import flag_parser
from open_clip_fff.errors import UsageError


def parse_open_clip(argv: list[str]) -> argparse.Namespace:
    """OpenCLIP's namespace, by its own parser.

    Raises:
        UsageError: with its error line, not its hundred lines of usage.
    """
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            return open_clip_parse_args(argv)
    except SystemExit:
        line = printed.getvalue().strip().splitlines()[-1].split("error: ", 1)[-1]
        raise UsageError(line + _suggestion(line)) from None
    except (ValueError, SyntaxError) as error:  # which its one flag of this kind lets through
        raise UsageError(f"--aug-cfg: takes NAME=VALUE, as in scale=(0.9,1.0) color_jitter=0.4 ({error})") from None


def parse_shard_flags(argv: list[str]) -> argparse.Namespace:
    """The same for programs that take the shards of a training command.

    Raises:
        UsageError: also where it names none.
    """
    args = parse_open_clip(argv)
    if not args.train_data:
        raise UsageError("--train-data: name the shards, behind --")
    return args


def help_text() -> str:
    """OpenCLIP's help and ours, ours last, where a terminal shows it."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            open_clip_parse_args(["--help"])
    except SystemExit:
        pass
    upstream = printed.getvalue().split("options:", 1)[-1]
    parser = flag_parser()
    return (
        "usage: python -m open_clip_fff.train [OpenCLIP's flags] [open_clip_fff's flags]\n\n"
        f"OpenCLIP's flags, all as they were:{upstream}\n"
        "open_clip_fff's flags (none typed: training is OpenCLIP's own):\n" + parser.format_help().split("\n\n", 1)[-1]
    )


def _suggestion(line: str) -> str:
    known = sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", help_text())))
    unknown = re.findall(r"--[\w-]+", line) if "unrecognized" in line else []
    close = [match for flag in unknown for match in difflib.get_close_matches(flag, known, n=1)]
    return f" (did you mean {', '.join(close)}?)" if close else ""
