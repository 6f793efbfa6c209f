"""Linear probes of models: a logistic regression on frozen image features, by scikit-learn.

python eval/linear_probe.py logs/my-run my-model --data-root data --datasets cifar10
"""

import sys
from collections.abc import Sequence

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.arguments import eval_parser, prepare, score_models
from open_clip_fff.evaluation.layouts import FoundSet
from open_clip_fff.evaluation.probe import ProbeSettings, probe, training_split
from open_clip_fff.evaluation.protocol import LINEAR_PROBE
from open_clip_fff.evaluation.scoring import Evaluate
from open_clip_fff.evaluation.store import Score
from open_clip_fff.plural import plural


def main(argv: Sequence[str] | None = None) -> int:
    """Fits and scores as the command line says.

    Returns:
        0; 1 if something could not be scored while the rest was; 2 for a mistake that is known before the start.
    """
    parser = eval_parser("eval/linear_probe.py", (__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--shots", type=int, default=-1, metavar="N", help="training images per class; -1 for all (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of their draw, and of those that choose C (default: 0)")
    arguments = parser.parse_args(argv)
    probing = ProbeSettings(arguments.shots, arguments.seed)
    try:
        if not (probing.shots == -1 or probing.shots > 0):
            raise UsageError(f"--shots {probing.shots}: must be 1 or more, or -1 for all")
        splits = with_training_images(prepare(arguments), asked=arguments.datasets != ["all"])
    except UsageError as error:
        print(f"eval/linear_probe.py: error: {error}", file=sys.stderr, flush=True)
        return 2

    def fitted(at: FoundSet) -> Evaluate:
        return probe(splits[at], probing)

    failed = score_models(arguments, list(splits), line, evaluate=fitted, task=LINEAR_PROBE)
    if failed:
        print(f"eval/linear_probe.py: {plural(failed, 'scores')} failed, see above", file=sys.stderr, flush=True)
    return 1 if failed else 0


def with_training_images(sets: Sequence[FoundSet], asked: bool) -> dict[FoundSet, FoundSet]:
    """Each set's training images; a set without them is named, and refused if it was asked for by name.

    Raises:
        UsageError: as said, and if none is left.
    """
    splits = {}
    for at in sets:
        try:
            splits[at] = training_split(at)
        except UsageError as error:
            if asked:
                raise
            print(f"- {error}", flush=True)
    if not splits:
        raise UsageError("--data-root: no set there has training images, see above")
    return splits


def line(score: Score) -> str:
    """A score, in a line."""
    about, metrics = score.meta["set"], score.metrics
    fitted = plural(about["train_images"], "images")
    shown = f"acc1 {100 * metrics['lp_acc1']:.2f} %, {fitted} to fit, C {metrics['C']:g}"
    shown += "" if metrics.get("converged", True) else ", stopped before it converged"
    return f"{about['name']:<16} {about['images']:>6,} images  {shown}"


if __name__ == "__main__":
    sys.exit(main())
