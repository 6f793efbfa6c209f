"""The flags of the programs that score models."""

from pathlib import Path

from open_clip_fff.config.parsers import CommandParser
from open_clip_fff.hub import MODEL_FORMS


def eval_parser(prog: str, about: str | None) -> CommandParser:
    """The flags of all."""
    parser = CommandParser(prog, about)
    parser.add_argument("models", nargs="+", metavar="RUN_OR_MODEL", help=MODEL_FORMS)
    parser.add_argument("--data-root", type=Path, required=True, metavar="DIR", help="the folder with the sets")
    parser.add_argument(
        "--datasets",
        nargs="+",
        default=["all"],
        metavar="SET",
        help="clip-benchmark's names, or those of folders in webdataset form in DIR; `all` are the paper's 13 and "
        "whatever else is there (default: all)",
    )
    parser.add_argument(
        "--download", action="store_true", help="fetch sets of the paper that are not there, from the hub"
    )
    parser.add_argument(
        "--store", type=Path, default=Path("eval-results"), metavar="DIR", help="for scores (default: eval-results)"
    )
    parser.add_argument("--again", action="store_true", help="score what is in the store once more")
    parser.add_argument(
        "--precision",
        choices=("fp32", "amp"),
        help="clip-benchmark's --no_amp, or its default (default: fp32 on CPU, amp on CUDA)",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images (default: 64, clip-benchmark's)")
    parser.add_argument("--workers", type=int, default=4, help="that read images (default: 4, clip-benchmark's)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")
    parser.add_argument(
        "--model-config", action="append", default=[], metavar="FILE|DIR", help="architectures of your own, as json"
    )
    return parser
