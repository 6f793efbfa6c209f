"""How a model sees one's data, and thresholds for it: scripts/calibrate.py, with the model named first.

python eval/similarities.py ViT-B-32-quickgelu,openai 'data/{000..004}.tar' --json-text-key captions --class-key cls
"""

import sys
from collections.abc import Sequence

from open_clip_fff.commands import calibrate
from open_clip_fff.commands.program import as_program, typed
from open_clip_fff.config.parsers import CommandParser
from open_clip_fff.hub import MODEL_FORMS
from open_clip_fff.hub.training_flags import parse_with_training


def main(argv: Sequence[str] | None = None) -> int:
    """As `calibrate.main`, with the model and the shards in front, and other names and defaults of its flags."""
    return as_program("eval/similarities.py", lambda: calibrate.main(calibration_flags(typed(argv))))


def calibration_flags(argv: Sequence[str]) -> list[str]:
    """The command line of `calibrate`."""
    parser = CommandParser("eval/similarities.py", __doc__, "--json-text-key, --class-key, --p1, …")
    parser.add_argument("model", metavar="RUN_OR_MODEL", help=MODEL_FORMS)
    parser.add_argument("shards", help="tars, with braces as in training")
    parser.add_argument("--out", default="similarities", metavar="DIR", help="(default: similarities)")
    parser.add_argument("--images", default="1000", help="to draw (default: 1000)")
    parser.add_argument("--batch-size", default="1024", metavar="N", help="global (default: 1024)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    args, flags = parse_with_training(parser, argv)
    from open_clip_fff.hub.loading import split_model_name  # imports torch, which --help need not wait for

    name, weights = split_model_name(args.model)
    model = ["--mining-model", name, *(["--mining-pretrained", weights] if weights else [])]
    own = ["--out", args.out, "--images", args.images, "--global-batch", args.batch_size, "--device", args.device]
    return [*own, "--", "--train-data", args.shards, "--dataset-type", "webdataset", *model, *flags]


if __name__ == "__main__":
    sys.exit(main())
