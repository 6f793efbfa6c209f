"""Zero-shot accuracy and retrieval recall of models, by clip-benchmark's evaluators.

open-clip-fff score logs/my-run my-model ViT-B-32-quickgelu,openai --data-root data
"""

import argparse
from collections.abc import Sequence

from open_clip_fff.commands.program import command
from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.flags import eval_parser
from open_clip_fff.evaluation.protocol import RECALL_AT


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, str]:
    """Raises UsageError for an invalid flag."""
    parser = eval_parser(prog, __doc__)
    rerank = (
        "of retrieval sets, order the nearest N by the match logits of the model's fusion model (ALBEF and MAFA: "
        "128 for Flickr30k, 256 for COCO)"
    )
    parser.add_argument("--rerank", type=int, metavar="N", help=rerank)
    arguments = parser.parse_args(argv)
    if arguments.rerank is not None and arguments.rerank < max(RECALL_AT):
        raise UsageError(f"--rerank {arguments.rerank}: recalls are up to the {max(RECALL_AT)}th; raise it")
    return arguments, prog


main = command("open-clip-fff score", parse, "open_clip_fff.evaluation.score_all:run", resumes=True)
