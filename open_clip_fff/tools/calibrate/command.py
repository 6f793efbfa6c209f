"""open-clip-fff calibrate: a sample read, thresholds found, written and told."""

import argparse
import sys
from functools import partial

from tqdm import tqdm

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.training_data import preview_training_data, training_shards
from open_clip_fff.devices import usable
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.plural import plural
from open_clip_fff.tools.calibrate.proposal import check_size
from open_clip_fff.tools.calibrate.run import Wanted, calibrate
from open_clip_fff.tools.calibrate.written import summary, write
from open_clip_fff.tools.sampling.draw import Draw
from open_clip_fff.tools.sampling.extractors import extractor_of
from open_clip_fff.tools.sampling.match_scores import load_scorer
from open_clip_fff.tools.shards.tars import count_samples


def run(args: argparse.Namespace, plan: Plan) -> int:
    """Finds the thresholds, prints and writes them.

    Raises:
        UsageError: for shards that training would refuse, and what else cannot work.
    """
    plan, urls = training_shards(plan, args.training)
    check_size(args.images, args.global_batch, args.mined_per_image)
    try:  # before the work, not after it
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {args.out}: cannot be written ({reason(error)})") from error
    plan = preview_training_data(args.training, plan)[0]
    device = usable(args.device)
    wanted = Wanted(args.global_batch, args.mined_per_image, args.match_pairs, args.seed, args.workers, device)
    extractor = extractor_of(plan, device)
    judge = None if plan.connection is None else load_scorer(plan.connection, device)
    progress = partial(tqdm, disable=None, leave=False)
    draw = Draw(urls, args.images, args.seed, count_samples, progress)
    drawn = f"{plural(len(draw), 'samples')} of {len(draw.places)} of {plural(len(urls), 'shards')}"
    print(f"{drawn}; batches of {wanted.batch:,} {args.why}")
    try:
        findings = calibrate(plan, draw, extractor, judge, wanted, progress)
    finally:
        for url, why in draw.unreadable.items():
            print(f"{url} is left out from where it breaks off: {why}", file=sys.stderr)
    written = write(args.out, findings, plan, wanted)
    print(summary(findings, plan, wanted, plan.features if plan.miner is None else plan.miner.name))
    print(f"{args.out}/ holds {', '.join(written)}")
    return 1 if draw.unreadable else 0
