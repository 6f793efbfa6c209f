"""open-clip-fff gallery: a sample read, the miners asked, the page written."""

import argparse
import sys
from functools import partial

from tqdm import tqdm

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.config.description import describe
from open_clip_fff.config.open_clip import Upstream
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.plan_text import plain
from open_clip_fff.data.training_data import preview_training_data, training_shards
from open_clip_fff.devices import usable
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.hub.loading import load_model
from open_clip_fff.models.frozen import FrozenModel
from open_clip_fff.tools.gallery.run import Wanted, gallery
from open_clip_fff.tools.sampling.draw import Draw
from open_clip_fff.tools.sampling.extractors import FeatureExtractor, FrozenExtractor, extractor_of
from open_clip_fff.tools.sampling.sizes import GALLERY_SHARDS
from open_clip_fff.tools.shards.tars import count_samples

TOPICS = ("captions", "mining", "discriminator")  # of the plan, that the page is about


def run(args: argparse.Namespace, plan: Plan, command: str) -> int:
    """A page; `command` is what was typed.

    Raises:
        UsageError: for shards that training would refuse, and what else cannot work.
    """
    plan, urls = training_shards(plan, args.training)
    try:  # before the work, not after it
        args.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {args.out}: cannot be written ({reason(error)})") from error
    args.device = usable(args.device)
    plan = preview_training_data(args.training, plan)[0]
    wanted = Wanted(args.show, args.batch_size, *extractors(args, plan), args.device)
    bar = partial(tqdm, disable=None)
    draw = Draw(urls, args.samples, 0, count_samples, bar, GALLERY_SHARDS)
    html = gallery(plan, draw, wanted, topics(plan), command, bar)
    try:
        write_atomically(args.out, html)
    except OSError as error:
        raise UsageError(f"--out {args.out}: cannot be written ({reason(error)})") from error
    print("".join(f"{sentence}\n" for sentence in draw.sentences()), end="", file=sys.stderr)
    print(f"{args.out} is written ({len(html) / 2**20:.1f} MiB): open it in a browser")
    return 1 if draw.unreadable else 0


def extractors(args: argparse.Namespace, plan: Plan) -> tuple[FeatureExtractor | None, FeatureExtractor | None]:
    """What mines, and what finds the hardest pairs, loaded.

    Raises:
        UsageError: if one cannot be, or nothing that is named can find the hardest pairs.
    """
    sees_both = plan.features in ("frozen", "precomputed") and not plan.text_alone
    if plan.connection is not None and args.hardest_by is None and not sees_both:
        raise UsageError(
            "--discriminator: the model that is trained finds the hardest pairs; name it, or one like it: "
            "--hardest-by RUN_OR_MODEL, before the --"
        )
    mining = None if plan.mining is None else extractor_of(plan, args.device)
    if plan.connection is None:
        return mining, None
    if args.hardest_by is None:
        return mining, mining
    loaded = load_model(args.hardest_by, args.device)
    return mining, FrozenExtractor(FrozenModel(loaded.model, loaded.tokenizer))


def topics(plan: Plan) -> list[tuple[str, str]]:
    """What the plan says of captions and mining."""
    topics = describe(plan, Upstream(dataset_type="webdataset"))
    return [(topic.name, plain("; ".join(topic.parts))) for topic in topics if topic.name in TOPICS]
