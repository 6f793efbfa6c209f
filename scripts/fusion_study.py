"""The fusion model on Flickr8k from scratch: does re-ranking help, does MAFA, and what does its discriminator find?

    python scripts/fusion_study.py data --source flickr8k --data fusion-study    # Flickr8k's shards
    python scripts/fusion_study.py run --data fusion-study
    python scripts/fusion_study.py table

`run` adds lines to the CSVs of docs/fusion-study as runs end; what is there is not run again. `table` makes the tables
of docs/fusion-study.md of these CSVs.
"""

import argparse
import os
import sys
from pathlib import Path

from digits.runs import RunFailed

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one training at a time, on one core

HERE = Path(os.path.relpath(Path(__file__).parent))
RESULTS = HERE.parent / "docs" / "fusion-study"


def main() -> int:
    """One of the steps."""
    parser = argparse.ArgumentParser(prog="scripts/fusion_study.py", description=(__doc__ or "").splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True)
    data = steps.add_parser("data", help="make architecture, shards and retrieval sets")
    data.add_argument("--source", type=Path, required=True, help="folder with train-*.tar, val-*.tar and test-*.tar")
    run = steps.add_parser("run", help="train and score what is missing")
    for step in (data, run):
        step.add_argument("--data", type=Path, required=True, help="folder of all that is made")
        step.add_argument("--try", action="store_true", dest="small", help="as little as there can be, for a try")
    table = steps.add_parser("table", help="tables of the CSVs")
    for step in (run, table):
        step.add_argument("--results", type=Path, default=RESULTS, help=f"folder of the CSVs (default: {RESULTS})")
    args = parser.parse_args()
    if args.step == "table":
        from flickr.report import report

        print(report(args.results))
        return 0
    from flickr.arms import TRY, Size

    size = TRY if args.small else Size()
    if args.step == "data":
        from flickr.data import make

        make(args.source, args.data, size.other)
    else:
        from flickr.runs import Study

        Study(args.data, args.results, size).run()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RunFailed as error:
        sys.exit(f"scripts/fusion_study.py: error: {error}")
