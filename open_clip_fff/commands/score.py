"""Zero-shot accuracy and retrieval recall of models, by clip-benchmark's evaluators.

open-clip-fff score logs/my-run my-model ViT-B-32-quickgelu,openai --data-root data
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from open_clip_fff.commands.program import as_program, typed
from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.flags import eval_parser
from open_clip_fff.evaluation.protocol import ELEVEN, RECALL_AT, RERANKING, RETRIEVAL, score_text, sizes_text

if TYPE_CHECKING:
    from open_clip_fff.evaluation.layouts import LocalSet
    from open_clip_fff.evaluation.scoring import Evaluate
    from open_clip_fff.evaluation.store import Score
    from open_clip_fff.hub.loading import LoadedModel


def main(argv: Sequence[str] | None = None, prog: str = "open-clip-fff score") -> int:
    """Scores models.

    Returns:
        0; 1 if some models or sets failed; 2 for a mistake in the command line.
    """

    def body() -> int:
        parser = eval_parser(prog, __doc__)
        rerank = (
            "of retrieval sets, order the nearest N by the match logits of the model's fusion model (ALBEF and MAFA: "
            "128 for Flickr30k, 256 for COCO)"
        )
        parser.add_argument("--rerank", type=int, metavar="N", help=rerank)
        arguments = parser.parse_args(typed(argv))
        if arguments.rerank is not None and arguments.rerank < max(RECALL_AT):
            raise UsageError(f"--rerank {arguments.rerank}: recalls are up to the {max(RECALL_AT)}th; raise it")
        from open_clip_fff.evaluation.score_all import exit_code, prepare, score_models

        sets = prepare(arguments)
        if arguments.rerank is None:
            return exit_code(prog, score_models(arguments, sets, line, average))
        from open_clip_fff.evaluation.rerank import reranker

        retrieval = [local for local in sets if local.spec.task == RETRIEVAL]
        if not retrieval:
            raise UsageError(f"--rerank: none of {', '.join(local.spec.name for local in sets)} is a retrieval set")

        def evaluate(loaded: "LoadedModel", local: "LocalSet") -> "Evaluate":
            return reranker(loaded, local, arguments.rerank)

        return exit_code(
            prog, score_models(arguments, retrieval, line, evaluate=evaluate, task=f"{RERANKING}{arguments.rerank}")
        )

    return as_program(prog, body)


def line(score: "Score") -> str:
    """A score as a line."""
    about = score.meta["set"]
    sizes = sizes_text(about["name"], about["images"], about.get("captions"))
    return f"{about['name']:<24} {sizes}  {score_text(score.metrics, about['metric'])}"


def average(scores: "Sequence[Score]") -> str:
    """The mean over those of the paper's 11 sets that were scored, and their number; empty if there are none."""
    metric = {each.name: each.metric for each in ELEVEN}
    values = [score.metrics[metric[name]] for score in scores if (name := score.meta["set"]["name"]) in metric]
    if not values:
        return ""
    mean = 100 * sum(values) / len(values)
    return f"average over {len(values)} of the paper's {len(ELEVEN)} zero-shot sets: {mean:.2f} %"
