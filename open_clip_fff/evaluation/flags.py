"""The flags that the commands score and probe share."""

from pathlib import Path

from open_clip_fff.config.parsers import CommandParser
from open_clip_fff.hub import MODEL_FORMS


def eval_parser(prog: str, about: str | None) -> CommandParser:
    """A parser with these flags."""
    parser = CommandParser(prog, about)
    add = parser.add_argument
    add("models", nargs="+", metavar="RUN_OR_MODEL", help=MODEL_FORMS)
    add("--data-root", type=Path, required=True, metavar="DIR", help="the folder with the sets")
    sets = (
        "clip-benchmark's names, or names of folders in webdataset form in DIR; `all` are the paper's 13 and any other "
        "set there (default: all)"
    )
    add("--datasets", nargs="+", default=["all"], metavar="SET", help=sets)
    add("--download", action="store_true", help="download missing sets of FFF's paper from the hub")
    results = Path("eval-results")
    add("--store", type=Path, default=results, metavar="DIR", help="where scores are kept (default: eval-results)")
    add("--again", action="store_true", help="score again what is in the store")
    precision = "clip-benchmark's --no_amp, or its default (default: fp32 on CPU, amp on CUDA)"
    add("--precision", choices=("fp32", "amp"), help=precision)
    add("--batch-size", type=int, default=64, help="images (default: 64, clip-benchmark's)")
    add("--workers", type=int, default=4, help="that read images (default: 4, clip-benchmark's)")
    add("--device", choices=("cpu", "cuda"), help="(default: cuda if available)")
    add("--model-config", action="append", default=[], metavar="FILE|DIR", help="architectures of your own, as json")
    return parser
