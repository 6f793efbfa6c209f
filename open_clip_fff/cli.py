"""`open-clip-fff COMMAND …`: one program for all commands; a command's code is imported when it is called.

open-clip-fff pack pictures/ --out shards
open-clip-fff COMMAND --help
"""

import importlib
import sys
from collections.abc import Sequence

from open_clip_fff import __version__
from open_clip_fff.commands.program import print_page
from open_clip_fff.config.parsers import did_you_mean

# By the order in which one meets them: the module whose `main` it is, and what it does.
COMMANDS = {
    "pack": ("commands.pack", "tables, folders or shards of pictures and captions as shards that training reads"),
    "caption": ("commands.caption", "writes pseudo-captions of images, with BLIP-2 or another captioner"),
    "embed": ("commands.embed", "stores a frozen model's features beside the images"),
    "analyze": ("commands.analyze", "what raw and generated captions are like: a page and tables"),
    "calibrate": ("commands.calibrate", "proposes the thresholds of Eq. 1 for one's data and what mines there"),
    "gallery": ("commands.gallery", "shows what the miners find on a sample: a page"),
    "train": ("train", "trains: OpenCLIP's flags and ours"),
    "score": ("commands.score", "zero-shot accuracy and retrieval recall of models"),
    "probe": ("commands.probe", "linear probes of models"),
    "vqa": ("commands.vqa", "fine-tunes a fusion model to answer questions about images (VQAv2), and scores it"),
    "nlvr2": ("commands.nlvr2", "the same for sentences about two images (NLVR2)"),
    "compare": ("commands.compare", "models that were scored side by side: table, intervals, plots, page"),
    "export": ("export", "a checkpoint as a folder that stock OpenCLIP loads, with a model card"),
    "class-set": ("commands.class_set", "a zero-shot classification set of one's own images, to score on"),
    "retrieval-set": ("commands.retrieval_set", "a retrieval set of one's own shards, to score on"),
    "train-discriminator": (
        "commands.train_discriminator",
        "fine-tunes an image-text matching model for --discriminator",
    ),
    "train-captioner": ("commands.train_captioner", "fine-tunes a captioner on one's own images"),
    "scale": ("commands.scale", "what a large data set will take: hours, disk, money"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, with its arguments; gives its exit code, 2 where there is no such command."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print_page(help_text())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"open_clip_fff {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f" (there are: {', '.join(COMMANDS)})"
        print(f"open-clip-fff: error: no command is called {name!r}{hint}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[name]
    return importlib.import_module(f"open_clip_fff.{module}").main(rest)


def help_text() -> str:
    """The commands, a line each."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["usage: open-clip-fff COMMAND ...", "", *lines, "", "open-clip-fff COMMAND --help says more."])
