"""OpenCLIP's own parser, and training's help."""

import argparse
import os

import open_clip_train.params as oc_params

from open_clip_fff.config.flags import flag_parser
from open_clip_fff.config.parsers import UNKNOWN, OneLineParser, did_you_mean
from open_clip_fff.errors import UsageError
from open_clip_fff.patching import View, replaced

USAGE = "usage: python -m open_clip_fff.train [OpenCLIP's flags] [open_clip_fff's flags]\n\n"
_GONE = ("horovod", "torchscript", "trace")  # flags of 3.3 that OpenCLIP's main branch has dropped
NONE_TYPED = "open_clip_fff's flags (none given: training is OpenCLIP's own):\n"


def parse_open_clip(argv: list[str]) -> argparse.Namespace:
    """OpenCLIP's namespace, by its own parser. Raises UsageError, in one line, for what it refuses."""
    return _parse(argv)[0]


def _parse(argv: list[str]) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """The namespace, and the parser, which OpenCLIP's function makes but does not return."""
    made: list[argparse.ArgumentParser] = []

    class Kept(OneLineParser):
        def __init__(self) -> None:
            super().__init__(prog="open_clip_fff.train")
            made.append(self)

    try:
        with replaced(oc_params, argparse=View(argparse, ArgumentParser=Kept)):
            args = oc_params.parse_args(argv)
    except UsageError as error:
        line = str(error)
        unknown = line.partition(UNKNOWN)[2].split()
        known = [*made[0]._option_string_actions, *flag_parser()._option_string_actions]
        hints = (did_you_mean(word, known) for word in unknown if word.startswith("--"))
        raise UsageError(line + "".join(hints)) from None
    except (ValueError, SyntaxError) as error:  # from --aug-cfg, the one flag whose parser lets these through
        raise UsageError(f"--aug-cfg: takes NAME=VALUE, as in scale=(0.4,1.0) use_timm=True ({error})") from None
    for name in _GONE:
        vars(args).setdefault(name, False)
    for name in ("model", "distill_model"):  # OpenCLIP finds models, but not tokenizers, by the form ViT-B/32
        if (model := getattr(args, name)) and ":" not in model and not os.path.isabs(model):
            setattr(args, name, model.replace("/", "-"))
    return args, made[0]


def open_clip_parser() -> argparse.ArgumentParser:
    """OpenCLIP's parser."""
    return _parse([])[1]


def parse_shard_flags(argv: list[str]) -> argparse.Namespace:
    """OpenCLIP's namespace, for commands that read a training command's shards; UsageError where it names none."""
    args = parse_open_clip(argv)
    if not args.train_data:
        raise UsageError("--train-data: name the shards")
    return args


def help_text() -> str:
    """OpenCLIP's help, then ours, at the end of the terminal; a flag that both have is shown once, as ours."""
    theirs, ours = open_clip_parser(), flag_parser()
    for name in theirs._option_string_actions.keys() & ours._option_string_actions.keys():
        theirs._option_string_actions[name].help = argparse.SUPPRESS
    upstream = theirs.format_help().split("options:", 1)[-1]
    head = f"{USAGE}--help-fff shows open_clip_fff's flags alone.\n\nOpenCLIP's flags, all as they were:"
    return f"{head}{upstream}\n{_ours()}"


def help_fff() -> str:
    """Our flags alone, in the same layout."""
    return f"{USAGE}--help shows OpenCLIP's flags, too.\n\n{_ours()}"


def _ours() -> str:
    return NONE_TYPED + flag_parser().format_help().split("\n\n", 1)[-1]
