"""Where FFF wins, and why: CIFAR-10 with web-like captions and a captioner's, in miniature as in the paper.

    python scripts/study.py data --source cifar10-train --data study     # images as parquets; makes all captions
    python scripts/study.py run --data study --test cifar10 --grid deciding
    python scripts/study.py table
    python scripts/study.py difference 'softmax, five' 'CLIP, one of five drawn'

`run` chooses each loss's learning rate on validation images first, and adds a line to docs/study/runs.csv as each run
ends; what is there is not run again. `table` makes docs/study's tables and plots of these lines, and `difference` says
how far one arm is ahead of another.
"""

import argparse
import os
import sys
from pathlib import Path

from cifar.arms import GRIDS
from digits.runs import RunFailed

from open_clip_fff.errors import UsageError

os.environ["OMP_NUM_THREADS"] = "1"  # two trainings run side by side, a core each

HERE = Path(os.path.relpath(Path(__file__).parent))
RESULTS = HERE.parent / "docs" / "study"
# where trainings find what the study registers, such as `--plugin cifar.per_caption`
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.resolve()), os.environ.get("PYTHONPATH", "")])


def main() -> int:
    """One of the steps."""
    parser = argparse.ArgumentParser(prog="scripts/study.py", description=(__doc__ or "").splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True)
    data = steps.add_parser("data", help="make the data")
    source = data.add_mutually_exclusive_group(required=True)
    source.add_argument("--source", type=Path, help="folder with CIFAR-10's training images as parquets")
    source.add_argument("--flickr8k", type=Path, metavar="DIR", help="folder with train-*, val-* and test-*.tar")
    data.add_argument("--data", type=Path, required=True, help="folder to fill")
    data.add_argument("--some", type=int, metavar="N", help="so many images only, for a try")
    data.add_argument("--captioner-steps", type=int, default=6_000, help="(default: 6000)")
    data.add_argument("--captions", type=Path, metavar="DIR", help="use these, in place of a captioner's to be trained")
    run = steps.add_parser("run", help="train and score what is missing")
    run.add_argument("--data", type=Path, required=True, help="what the first step made")
    run.add_argument(
        "--test", type=Path, help="CIFAR-10's test images in clip-benchmark's layout; once rates are chosen"
    )
    run.add_argument("--grid", default="deciding", choices=sorted(GRIDS), metavar="GRID", help="(default: deciding)")
    run.add_argument("--shares", choices=("balanced", "tailed"), help="those conditions alone (default: both)")
    run.add_argument("--seeds", type=int, nargs="+", help="those alone (default: all of the grid)")
    run.add_argument("--results", type=Path, default=RESULTS, help=f"folder of the CSVs (default: {RESULTS})")
    table = steps.add_parser("table", help="tables and plots of the CSVs")
    table.add_argument("--results", type=Path, default=RESULTS, help=f"folder of the CSVs (default: {RESULTS})")
    apart = steps.add_parser("difference", help="between two arms, by seeds, with 95 %% intervals")
    apart.add_argument("arm", help="as tables name it")
    apart.add_argument("other", help="the one that it is compared with")
    apart.add_argument("--condition", default="balanced-web-256", help="(default: balanced-web-256)")
    apart.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    apart.add_argument("--results", type=Path, nargs="+", default=[RESULTS], help=f"one or more (default: {RESULTS})")
    batches = steps.add_parser("batches", help="what a batch of N holds to mine, counted by stored sentence features")
    batches.add_argument("--train-data", required=True, metavar="TARS", help="with braces")
    batches.add_argument("--features", type=Path, required=True, metavar="DIR", help="of embed, of the same tars")
    args = parser.parse_args()
    if args.step == "data":
        for flag, folder in (("--source", args.source), ("--captions", args.captions)):
            if folder is not None and not any(folder.glob("*.parquet")):
                data.error(f"{flag} {folder}: no parquet there")
        if args.flickr8k and (args.some, args.captions) != (None, None):
            data.error("--some, --captions: do not go with --flickr8k, which is used whole and has captions")
        if args.some is not None and args.captions is not None:
            data.error("--some: does not go with --captions, which are of all images, by their place")
        if args.flickr8k:
            from flickr import noisy

            noisy.make(args.flickr8k, args.data)
        else:
            from cifar.data import make

            make(args.source, args.data, args.captioner_steps, args.some, args.captions)
    elif args.step == "run":
        from cifar.curves import collect
        from cifar.runs import run_grid

        run_grid(args.data, args.test, args.grid, args.results, args.shares, args.seeds)
        if args.test is not None:
            collect(args.data, args.results)
    elif args.step == "batches":
        from cifar.batches import table

        from open_clip_fff.data.data_sets import expand_shards

        print(table(expand_shards(args.train_data), args.features))
    elif args.step == "difference":
        from cifar.report import differences

        print(differences(args.arm, args.other, args.condition, args.seeds, args.results))
    else:
        from cifar.report import report

        report(args.results)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RunFailed, UsageError) as error:
        sys.exit(f"scripts/study.py: error: {error}")
