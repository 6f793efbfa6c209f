"""Zero-shot accuracy and retrieval recall of models, by clip-benchmark's evaluators.

python eval/zero_shot.py logs/my-run my-model ViT-B-32-quickgelu,openai --data-root data
"""

import sys
from collections.abc import Sequence

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.arguments import eval_parser, prepare, score_models
from open_clip_fff.evaluation.protocol import ELEVEN
from open_clip_fff.evaluation.store import Score
from open_clip_fff.evaluation.words import in_words
from open_clip_fff.plural import plural


def main(argv: Sequence[str] | None = None) -> int:
    """Scores as the command line says.

    Returns:
        0; 1 if something could not be scored while the rest was; 2 for a mistake that is known before the start.
    """
    arguments = eval_parser("eval/zero_shot.py", (__doc__ or "").splitlines()[0]).parse_args(argv)
    try:
        sets = prepare(arguments)
    except UsageError as error:
        print(f"eval/zero_shot.py: error: {error}", file=sys.stderr, flush=True)
        return 2
    failed = score_models(arguments, sets, line, average)
    if failed:
        print(f"eval/zero_shot.py: {plural(failed, 'scores')} failed, see above", file=sys.stderr, flush=True)
    return 1 if failed else 0


def line(score: Score) -> str:
    """A score, in a line."""
    about = score.meta["set"]
    return f"{about['name']:<16} {about['images']:>6,} images  {in_words(score.metrics, about['metric'])}"


def average(scores: Sequence[Score]) -> str:
    """The mean over those of the paper's 11 sets that were scored, and how many they are; nothing where none was."""
    metric = {each.name: each.metric for each in ELEVEN}
    values = [score.metrics[metric[name]] for score in scores if (name := score.meta["set"]["name"]) in metric]
    if not values:
        return ""
    mean = 100 * sum(values) / len(values)
    return f"average over {len(values)} of the paper's {len(ELEVEN)} zero-shot sets: {mean:.2f} %"


if __name__ == "__main__":
    sys.exit(main())
