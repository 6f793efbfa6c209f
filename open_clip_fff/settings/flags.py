"""Our flags, and nothing else: they fill a namespace with what the user typed."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from open_clip_fff.errors import UsageError
from open_clip_fff.settings.captions import POLICIES
from open_clip_fff.settings.mafa_flags import add_mafa_flags
from open_clip_fff.settings.methods import METHODS
from open_clip_fff.settings.mining import FEATURES, MINED_AS, TEXT_TEXT, threshold
from open_clip_fff.settings.names import split_names
from open_clip_fff.settings.objective import IMPLS, REDUCTIONS
from open_clip_fff.settings.safety import IN_A_ROW, PIXELS, SCALER_IN_A_ROW, SKIP, STOP, TIMEOUT


class OneLineParser(argparse.ArgumentParser):
    """A parser whose complaints are lines for a person, and not pages of usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _bounds(text: str) -> tuple[int, int | None]:
    """`3:50` as (3, 50), `3:` as (3, None), `:50` as (0, 50)."""
    least, colon, most = text.partition(":")
    if not colon:
        raise ValueError
    return int(least or 0), int(most) if most else None


def _threshold(text: str) -> float | None:
    try:
        return threshold(text, "the value")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _bias(text: str) -> float | str:
    return "auto" if text == "auto" else float(text)


_bounds.__name__ = "MIN:MAX"
_bias.__name__ = "'auto' or a number"  # argparse prints it in "invalid ... value"


def as_flag(name: str) -> str:
    """A setting's name as its flag: `p1_prime` as `--p1-prime`."""
    return "--" + name.replace("_", "-")


def split(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our flags as typed, and everything else, which is OpenCLIP's.

    Raises:
        UsageError: for a value that a flag of ours does not take.
    """
    # torchrun takes --logs as its own unless a -- stands before it
    return flag_parser().parse_known_args(list(argv[1:] if argv[:1] == ["--"] else argv))


def flag_parser() -> argparse.ArgumentParser:
    """The parser of our flags; it holds no defaults, so that what was typed can be told from what was not."""
    parser = OneLineParser(
        prog="open_clip_fff.train", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )

    method = parser.add_argument_group("method")
    method.add_argument(
        "--method", choices=tuple(METHODS), help="a preset of the flags below; flags you type win (default: OpenCLIP's)"
    )
    method.add_argument(
        "--loss",
        metavar="NAME",
        help="clip or siglip (OpenCLIP's own), fff (multi-positive sigmoid, FFF Eq. 2), softmax (multi-positive "
        "softmax over the same assignment), s-itc (that with smoothed targets), or one of your --plugin (default: "
        "what OpenCLIP's flags say)",
    )
    method.add_argument(
        "--loss-reduction",
        choices=REDUCTIONS,
        help="norm of the sigmoid loss: per image, as Eq. 2 and SigLIP, or per counted pair (default: images)",
    )
    method.add_argument(
        "--loss-impl",
        choices=IMPLS,
        help="how --loss fff and softmax are computed: by tiles, whose memory is linear in the batch, or dense "
        "(default: auto, which is by tiles); triton: by tiles with a fused kernel, for fff on a GPU, not timed yet",
    )

    captions = parser.add_argument_group("captions")
    captions.add_argument(
        "--captions-per-image", type=int, metavar="K", help="K, the most captions of one image (default: 1)"
    )
    captions.add_argument(
        "--caption-policy",
        choices=POLICIES,
        help="all K in the batch, sample one of K at each visit, or the first non-empty one "
        "(default: all for our losses, first for OpenCLIP's)",
    )
    captions.add_argument(
        "--text-key", type=split_names, metavar="'A;B'", help="tar members with a caption, in order (default: txt)"
    )
    captions.add_argument(
        "--json-text-key",
        type=split_names,
        metavar="'A;B'",
        help="fields of the member json with a caption or a list of them: a name, a path meta.captions, or re:PATTERN "
        "over names; syn.json:NAME is a field of the member syn.json; they follow the text keys (default: none)",
    )

    captions.add_argument(
        "--caption-sidecar",
        metavar="DIR",
        help="folder with a parquet per shard, of the same stem, joined by its column key; with --train-data A::B a "
        "folder for each, A::B, where stems repeat (default: none)",
    )
    captions.add_argument(
        "--val-caption-sidecar",
        metavar="DIR",
        help="the same for --val-data; '' for none (default: --caption-sidecar, where no stem repeats)",
    )
    captions.add_argument(
        "--sidecar-text-key",
        type=split_names,
        metavar="'A;B'",
        help="its columns with a caption or a list of them (default: captions)",
    )
    captions.add_argument(
        "--split-sentences",
        action=argparse.BooleanOptionalAction,
        help="cut captions from json and sidecar into sentences, a caption each (default: no)",
    )
    captions.add_argument(
        "--caption-words",
        type=_bounds,
        metavar="MIN:MAX",
        help="use captions of so many words, each bound may be left out (default: any)",
    )

    captions.add_argument(
        "--raw-weight",
        type=float,
        metavar="W",
        help="under sample: weight of a caption from a text key over a generated one, 0 for never (default: 1)",
    )
    captions.add_argument(
        "--min-coverage",
        type=float,
        metavar="SHARE",
        help="stop where a source has text in less than this share of rows, at the start and each epoch (default: 0)",
    )

    text = parser.add_argument_group("text tower")
    text.add_argument(
        "--trim-tokens",
        action=argparse.BooleanOptionalAction,
        help="cut captions behind their last token, where that changes no feature (default: yes there, for our losses; "
        "no for OpenCLIP's)",
    )
    text.add_argument(
        "--trim-multiple", type=int, metavar="N", help="round lengths up to a multiple of N tokens (default: 4)"
    )
    text.add_argument(
        "--length-groups",
        type=int,
        metavar="N",
        help="encode captions in up to N groups of like length, where that is less work (default: 6)",
    )
    text.add_argument(
        "--distinct-captions",
        action=argparse.BooleanOptionalAction,
        help="encode captions that are equal once a batch (default: yes for our losses, unless the text tower has "
        "dropout; no for OpenCLIP's)",
    )

    mining = parser.add_argument_group("mining of false negatives (FFF Eq. 1)")
    mining.add_argument(
        "--mining-features",
        choices=FEATURES,
        help="what mines: a frozen model, its precomputed features, a text model alone, the trainee's moving average "
        "(ema), the trainee itself (online), or nothing (default: off)",
    )
    mining.add_argument(
        "--mining-model",
        metavar="NAME|RUN|FILE|DIR",
        help="the frozen model: OpenCLIP name, a run's folder (its last checkpoint), a checkpoint in it, hub-format "
        "folder, or hf-hub:ORG/NAME; for text, any sentence-embedding model of transformers by hub name or folder",
    )
    mining.add_argument(
        "--mining-pretrained",
        metavar="TAG|FILE",
        help="its weights, for an OpenCLIP name; for a run or a folder, a checkpoint to use instead of its own",
    )
    mining.add_argument(
        "--feature-sidecar",
        metavar="DIR",
        help="precomputed features from a parquet per shard (default: from the tars' members KEY.feat.npz)",
    )
    mining.add_argument(
        "--mining-warmup",
        type=int,
        metavar="STEPS",
        help="optimizer steps before the first pair is mined (default: 0; ema and online ask for one)",
    )
    mining.add_argument(
        "--mining-guard",
        action=argparse.BooleanOptionalAction,
        help="mine no more than twice as much as at the warm-up's end, and nothing while the model does not find its "
        "own captions (default: yes for ema and online)",
    )
    mining.add_argument(
        "--mined-per-image",
        type=float,
        metavar="R",
        help="find and hold the thresholds at which R captions per image are mined (default: thresholds by number)",
    )
    for flag, symbol, meaning, default in (
        ("--p1", "p1", "image-text cosine above which a pair is mined", 0.27),
        ("--p2", "p2", "image-image cosine above which a pair is mined", 0.92),
        ("--p3", "p3", "text-text cosine above which a pair is mined if it also passes p1'", 0.99),
        ("--p1-prime", "p1'", "lower image-text bar for text-text positives", 0.24),
    ):
        mining.add_argument(
            flag, type=_threshold, metavar="COS|off", help=f"{symbol} of Eq. 1: {meaning} (default: {default})"
        )
    mining.add_argument("--text-text", choices=TEXT_TEXT, help="S_tt with K captions: see README (default: pooled)")
    mining.add_argument(
        "--mined-cap",
        type=int,
        metavar="N",
        help="at most N mined captions per image, best image-text first (default: none)",
    )
    mining.add_argument(
        "--mined-as", choices=MINED_AS, help="a mined pair becomes a positive, or leaves the loss (default: positive)"
    )
    mining.add_argument(
        "--ignore-band",
        type=float,
        metavar="W",
        help="pairs mined only with every threshold lowered by W are in doubt and leave the loss (default: 0)",
    )
    mining.add_argument(
        "--mine-raw",
        action=argparse.BooleanOptionalAction,
        help="whether captions from text keys are mined and count in S_tt, or generated ones alone (default: yes)",
    )

    mining.add_argument(
        "--class-key",
        metavar="NAME",
        help="tar member, json field or CSV column with the image's class: the log tells how many mined pairs are "
        "right; never trained on (default: none)",
    )

    add_mafa_flags(parser)

    weights = parser.add_argument_group("weights")
    weights.add_argument(
        "--ema-decay",
        type=float,
        metavar="D",
        help="keep a moving average of the weights, min(D, steps / (10 + steps)) of the old ones each step: validated, "
        "saved and exported beside them (default: none; 0.999 with --mining-features ema)",
    )

    safety = parser.add_argument_group("safety")
    safety.add_argument(
        "--on-nonfinite",
        choices=(STOP, SKIP),
        help="a step whose gradient is not finite is left out; stop: the run ends after "
        f"{IN_A_ROW} of them in a row, or {SCALER_IN_A_ROW} that GradScaler leaves out; skip: never (default: stop)",
    )
    safety.add_argument(
        "--max-image-pixels",
        type=int,
        metavar="N",
        help=f"images with more are not decoded, and count as unreadable (default: {PIXELS}, where Pillow warns)",
    )
    safety.add_argument(
        "--timeout",
        type=float,
        metavar="MINUTES",
        help=f"a rank waits so long for another, or for its loader workers, at most (default: {TIMEOUT:g})",
    )
    safety.add_argument(
        "--save-every-n-steps",
        type=int,
        metavar="N",
        help="also save a checkpoint every N steps of the run, in the middle of an epoch, in place of the one before "
        "(default: only where SIGTERM or Ctrl-C ends training)",
    )

    watching = parser.add_argument_group("evaluation during training")
    watching.add_argument(
        "--zeroshot-data",
        metavar="DIR",
        help="score the sets in DIR (eval/zero_shot.py's --data-root) every --zeroshot-frequency epochs and at the end "
        "(default: none)",
    )
    watching.add_argument(
        "--zeroshot-sets",
        type=split_names,
        metavar="'A;B'",
        help="which: clip-benchmark's names, or those of folders in DIR (default: all that are there)",
    )

    logits = parser.add_argument_group("logit scale and bias")
    logits.add_argument(
        "--logit-scale-init", type=float, metavar="S", help="starting scale exp(logit_scale) (default: the model's own)"
    )
    logits.add_argument(
        "--logit-bias-init",
        type=_bias,
        metavar="auto|B",
        help="starting bias b = -β; auto: ln(P/(1-P)) - s·c from the first batches (default: auto for sigmoid losses)",
    )
    logits.add_argument(
        "--logit-lr-mult", type=float, metavar="X", help="learning rate of scale and bias over the towers' (default: 1)"
    )

    extend = parser.add_argument_group("your own parts")
    extend.add_argument(
        "--model-config", action="append", metavar="FILE|DIR", help="registers architecture(s), OpenCLIP json"
    )
    extend.add_argument(
        "--batch-hooks", type=split_names, metavar="'A;B'", help="hooks on each batch before the towers, in order"
    )
    extend.add_argument(
        "--plugin", action="append", metavar="MODULE", help="imports your module, which registers its parts"
    )
    return parser
