"""Linear probes of models: a logistic regression on frozen image features, by scikit-learn.

open-clip-fff probe logs/my-run my-model --data-root data --datasets cifar10
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from open_clip_fff.commands.program import as_program, typed
from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.flags import eval_parser
from open_clip_fff.evaluation.protocol import LINEAR_PROBE
from open_clip_fff.plural import plural

if TYPE_CHECKING:
    from open_clip_fff.evaluation.store import Score


def main(argv: Sequence[str] | None = None, prog: str = "open-clip-fff probe") -> int:
    """Fits and scores.

    Returns:
        0; 1 if some models or sets failed; 2 for a mistake in the command line.
    """

    def body() -> int:
        parser = eval_parser(prog, __doc__)
        parser.add_argument(
            "--shots", type=int, default=-1, metavar="N", help="training images per class; -1 for all (default: all)"
        )
        parser.add_argument("--seed", type=int, default=0, help="for drawing them, and for choosing C (default: 0)")
        arguments = parser.parse_args(typed(argv))
        if not (arguments.shots == -1 or arguments.shots > 0):
            raise UsageError(f"--shots {arguments.shots}: must be 1 or more, or -1 for all")
        from open_clip_fff.evaluation.probe import ProbeSettings, conditions, probe, with_training_images
        from open_clip_fff.evaluation.score_all import exit_code, prepare, score_models

        splits = with_training_images(prepare(arguments), named=arguments.datasets != ["all"])
        settings = ProbeSettings(arguments.shots, arguments.seed)
        failed = score_models(
            arguments,
            list(splits),
            line,
            evaluate=lambda _, local: probe(splits[local], settings),
            task=LINEAR_PROBE,
            conditions=lambda local: conditions(splits[local], settings),
        )
        return exit_code(prog, failed)

    return as_program(prog, body)


def line(score: "Score") -> str:
    """A score as a line."""
    about, metrics = score.meta["set"], score.metrics
    fitted = plural(about["train_images"], "images")
    shown = f"acc1 {100 * metrics['lp_acc1']:.2f} %, {fitted} to fit, C {metrics['C']:g}"
    shown += "" if metrics.get("converged", True) else ", not converged"
    return f"{about['name']:<24} {about['images']:>6,} images  {shown}"
