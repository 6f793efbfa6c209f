"""Makes a retrieval set of one's own shards, in the form in which clip-benchmark (and open-clip-fff score) reads it.

open-clip-fff retrieval-set 'data/test-{000..004}.tar' --out sets/my-test --json-text-key captions
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from open_clip_fff.commands.program import as_program, typed
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.training_flags import borrow, refuse


def main(argv: Sequence[str] | None = None, prog: str = "open-clip-fff retrieval-set") -> int:
    """Writes the set as the command line says.

    Returns:
        0, or 2 for a mistake that the user can mend, which is printed in one line.
    """

    def body() -> int:
        arguments, captions = parse(typed(argv), prog)
        from open_clip_fff.tools.evaluation_sets import retrieval_set

        return retrieval_set(arguments, captions)

    return as_program(prog, body)


def parse(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, CaptionSettings]:
    """The command line, of which the flags about captions are training's.

    Raises:
        UsageError: for a flag that cannot work or is none of them.
    """
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shards", help="tars, with braces as in training")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the set's folder; it must not be there")
    parser.add_argument("--captions", type=int, default=5, metavar="K", help="of an image at most (default: 5)")
    parser.epilog = "Where the captions are, training's flags say: --text-key, --json-text-key, --caption-sidecar, …"
    arguments, rest = parser.parse_known_args(argv)
    if arguments.captions < 1:
        raise UsageError(f"--captions {arguments.captions}: must be 1 or more")
    said = {"loss": "fff", "caption_policy": "all", "mining_features": "off", "method": None}
    plan, others = borrow(rest, said={**said, "captions_per_image": arguments.captions})
    refuse(others)
    return arguments, replace(plan.captions, shards=arguments.shards)
