"""How a model sees one's data, and thresholds for it: scripts/calibrate.py, with the model named first.

python eval/similarities.py ViT-B-32-quickgelu,openai 'data/{000..004}.tar' --json-text-key captions --class-key cls
"""

import sys
from collections.abc import Sequence

from open_clip_fff.commands import calibrate
from open_clip_fff.commands.program import as_program, given_words
from open_clip_fff.config.parsers import CommandParser
from open_clip_fff.hub import MODEL_FORMS
from open_clip_fff.hub.training_flags import split_at_dashes


def main(argv: Sequence[str] | None = None) -> int:
    """As `calibrate.main`, with the model and the shards in front."""
    return as_program("eval/similarities.py", lambda: calibrate.main(calibration_flags(given_words(argv))))


def calibration_flags(argv: Sequence[str]) -> list[str]:
    """The command line of `calibrate`."""
    parser = CommandParser(
        "eval/similarities.py", __doc__, "those of open-clip-fff calibrate; --json-text-key, --class-key, --p1, …"
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help=MODEL_FORMS)
    parser.add_argument("shards", help="tars, with braces as in training")
    parser.add_argument("--out", default="similarities", metavar="DIR", help="(default: similarities)")
    here, trainings = split_at_dashes(argv)
    args, flags = parser.parse_known_args(here)
    from open_clip_fff.hub.loading import split_model_name  # imports torch, which --help need not wait for

    name, weights = split_model_name(args.model)
    model = ["--mining-model", name, *(["--mining-pretrained", weights] if weights else [])]
    data = ["--train-data", args.shards, "--dataset-type", "webdataset"]
    return ["--out", args.out, *flags, "--", *data, *model, *trainings]


if __name__ == "__main__":
    sys.exit(main())
