"""What grouped mini-batches and a discriminator cost beside a training step, all in one run.

    python scripts/bench_grouping.py --out bench-grouping.csv --search-spaces 960 1920

Grouping: the CPU seconds that a worker of the loader spends on finding features in the bank and on the walk, per
mini-batch, over the median of the steps; workers spend them beside the step, and not in it.
A discriminator: the wall time of scoring a step's hardest pairs, first without a cache, then with all of them in it.
In each round all are timed once.

Writes a CSV with a row per thing measured, and prints it.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from bench.captions import sources
from bench.models import SMALL, build, open_clip_args
from bench.steps import CLIP, Bench
from bench.turns import seconds_in_turns

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.data.shards import ID
from open_clip_fff.devices import or_best
from open_clip_fff.grouping.bank import BankWriter
from open_clip_fff.grouping.feature_sources import LastEpochFeatures
from open_clip_fff.grouping.lookahead import Lookahead
from open_clip_fff.hub.loading import add_architectures
from open_clip_fff.matching.discriminators import make_discriminator
from open_clip_fff.matching.scorer import PairScorer
from open_clip_fff.mining.hardest import hardest_negatives

SAMPLE = b"x" * 20_000  # bytes of an undecoded image


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("bench-grouping.csv"), help="the CSV")
    parser.add_argument("--model", default=SMALL.stem, help=f"OpenCLIP's architecture (default: {SMALL.stem})")
    parser.add_argument("--batch-size", type=int, default=64, metavar="B", help="images (default: 64)")
    parser.add_argument("--search-spaces", type=int, nargs="+", metavar="S", help="(default: 5 and 15 mini-batches)")
    parser.add_argument("--width", type=int, default=512, metavar="D", help="of the features in the bank")
    parser.add_argument("--discriminator", metavar="KIND:NAME", help="(default: none is measured)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken (default: 5)")
    parser.add_argument("--device", default=or_best(None))
    arguments = parser.parse_args()

    add_architectures([str(SMALL)])
    args = open_clip_args(arguments.model, arguments.device, "fp32")
    captions = next(iter(sources(None, 1).values()))(arguments.batch_size)
    bench = Bench(args, build(args), captions, [1], ["off"])
    scorers = scoring(bench, captions, arguments) if arguments.discriminator else {}
    step = bench.candidates[CLIP]
    bench.step(step)
    timed = {"a step of stock CLIP": partial(bench.step, step), **scorers}
    seconds = seconds_in_turns(timed, arguments.rounds)
    rows = [{"what": name, "seconds": statistics.median(values)} for name, values in seconds.items()]
    for space in arguments.search_spaces or [5 * arguments.batch_size, 15 * arguments.batch_size]:
        rows.append({"what": f"grouping, S = {space}, CPU", "seconds": grouping(space, arguments)})
    table = pd.DataFrame(rows)
    table["over a step"] = table["seconds"] / table["seconds"].iloc[0]
    table = table.assign(model=arguments.model, batch=arguments.batch_size, device=args.device, width=arguments.width)
    table.to_csv(arguments.out, index=False)
    print(table.to_string(index=False, float_format="{:.4f}".format))


def grouping(space: int, arguments: argparse.Namespace) -> float:
    """CPU seconds per mini-batch, of a queue of eight search spaces."""
    batch, count = arguments.batch_size, 8 * space
    samples = [{ID: number, "jpg": SAMPLE} for number in range(count)]
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        writer = BankWriter(Path(folder), 0, 0)
        for start in range(0, count, batch):
            part = samples[start : start + batch]
            features = F.normalize(torch.randn(2, len(part), arguments.width, generator=generator), dim=-1)
            writer.add(torch.tensor([sample[ID] for sample in part]), *features)
        writer.publish()
        settings = GroupingSettings(search_space=space, queue=count)
        lookahead = Lookahead(settings, batch, LastEpochFeatures([Path(folder)]), lambda: 1)
        lookahead.begin(count // batch)
        given = sum(1 for _ in lookahead.arrivals(lookahead(samples)))
    return lookahead.seconds / (given // batch)


def scoring(bench: Bench, captions: list[list[str]], arguments: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Scoring the hardest pairs of one batch, without a cache and with a filled one."""
    device, size = bench.device, len(captions)
    visual = bench.model.visual
    discriminator = make_discriminator(
        ConnectionSettings(arguments.discriminator), device, tuple(visual.image_mean), tuple(visual.image_std)
    )
    with torch.no_grad():
        image = bench.model.encode_image(bench.images, normalize=True)
        text = bench.model.encode_text(bench.tokenizer([row[0] for row in captions]).to(device), normalize=True)
    ids = torch.arange(size, device=device)
    hardest = hardest_negatives(image, text[:, None], ids, torch.ones(size, 1, dtype=torch.bool, device=device))
    images = torch.cat([ids, hardest.image.flatten()])
    texts = torch.cat([hardest.caption, ids])
    strings = [captions[place][0] for place in texts.tolist()]

    def call(scorer: PairScorer) -> Callable[[], object]:
        return lambda: scorer(images, strings, texts, lambda places: bench.images[images[places]])

    cached = PairScorer.with_cache(discriminator, tempfile.mkdtemp())
    call(cached)()
    name = f"{2 * size} pairs to the discriminator"
    return {name: call(PairScorer(discriminator)), "the same, from the cache": call(cached)}


if __name__ == "__main__":
    main()
