"""Times the loader of tars: ours against OpenCLIP's own on the same shards, and against reading and decoding alone.

    python scripts/bench_loader.py --shards 'flickr8k/train-{00..05}.tar' --out loader.csv

The shards hold an image, `txt`, and a field `captions` of `json` with K captions; without --shards the program makes
two of 128-px JPEGs with five captions. An epoch of each loader with OpenCLIP's augmentation:

- `floor`: tarfile, Pillow and the augmentation, and nothing else;
- `tokens`: tokenising K captions of each image, and nothing else;
- `stock`: OpenCLIP's pipeline, which reads `txt`;
- `ours`: FFF's loader with K captions, and with the features of a ViT-L/14 stored as `open-clip-fff embed` does.

Interleaved: each round times each of them once. `cpu_ms` is the processor time of all processes per sample, user and
system, the median over rounds; ratios are medians over rounds of this time over another's in the same round. `+ tokens`
is stock's with the tokens of K captions in the place of one's. Other load on the machine hardly affects them with
--workers 0; with workers their start is in it. Writes a CSV, and prints it.
"""

import argparse
import gc
import io
import json
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import open_clip_train.data as oc_data
import pandas as pd
import torch
from bench.models import open_clip_args
from bench.processor import processor_seconds
from bench.shards import K, made_shards, store_features
from PIL import Image

from open_clip_fff.config.flags import split
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.data.data_sets import expand_shards
from open_clip_fff.data.shards import read_samples
from open_clip_fff.data.training_data import with_data_sets
from open_clip_fff.host.fixes import fixes, image_reader
from open_clip_fff.host.loader.data import data_factory
from open_clip_fff.host.loader.stages import unpack_batch
from open_clip_fff.host.state import RunState
from open_clip_fff.patching import View, replaced

FLOOR, STOCK = "floor", "stock"


class Measured(NamedTuple):
    """One epoch: seconds on the clock, processor seconds, and samples."""

    clock: float
    cpu: float
    samples: int


class Bench:
    """The loaders, each a function that goes through an epoch and returns how many samples it gave."""

    def __init__(self, shards: str, features: Path, rows: int, arguments: argparse.Namespace) -> None:
        self.shards, self.urls, self.features = shards, expand_shards(shards), features
        self.preprocess = open_clip.image_transform(arguments.image_size, is_train=True)
        self.tokenizer = open_clip.get_tokenizer("ViT-B-32")
        self.args = open_clip_args("ViT-B-32", "cpu", "fp32")
        batch = min(arguments.batch_size, rows)
        vars(self.args).update(train_data=shards, dataset_type="webdataset", workers=arguments.workers)
        vars(self.args).update(batch_size=batch, train_num_samples=rows // batch * batch)
        self.captions = [json.loads(sample["json"])["captions"] for sample in read_samples(self.urls)]
        self.loaders: dict[str, Callable[[], int]] = {FLOOR: self.floor, STOCK: self.stock}
        for k in (1, K):
            self.loaders[f"tokens K={k}"] = partial(self.tokens, k)
            self.loaders[f"ours K={k}"] = partial(self.ours, k, False)
            self.loaders[f"ours K={k}, features"] = partial(self.ours, k, True)

    def floor(self) -> int:
        """Reads, decodes and augments, as a loop that is written down in a minute."""
        rows = 0
        for url in self.urls:
            with tarfile.open(url) as tar:
                for member in tar:
                    if member.name.endswith((".jpg", ".png", ".jpeg", ".webp")):
                        content = tar.extractfile(member).read()
                        self.preprocess(Image.open(io.BytesIO(content)).convert("RGB"))
                        rows += 1
        return rows

    def tokens(self, k: int) -> int:
        """Tokenises K captions of each image."""
        for captions in self.captions:
            self.tokenizer(captions[:k])
        return len(self.captions)

    def stock(self) -> int:
        """OpenCLIP's, but for the empty sample at a shard's end by which webdataset >= 0.2.90 breaks it."""
        expander = partial(oc_data.tar_file_expander, eof_value=None)
        with replaced(oc_data, tar_file_expander=expander):
            return self._epoch(oc_data.get_data)

    def ours(self, k: int, features: bool) -> int:
        """FFF's, from the same shards, with the hooks before a step."""
        flags = ["--method", "fff", "--captions-per-image", str(k)]
        flags += ["--text-key", "", "--json-text-key", "captions"] if k > 1 else []
        flags += ["--mining-features", "precomputed" if features else "off"]
        flags += ["--feature-sidecar", str(self.features)] if features else []
        plan = with_data_sets(make_plan(split(flags)[0]), self.shards)
        state = RunState(self.args, plan)
        state.model = View(None, visual=View(None, image_mean=(0.5,) * 3, image_std=(0.5,) * 3))
        with fixes(state.counters, self.args.seed, image_reader(plan)):
            return self._epoch(data_factory(state, oc_data.get_data))

    def _epoch(self, get_data: Callable) -> int:
        data = get_data(self.args, (self.preprocess,) * 2, tokenizer=self.tokenizer)
        return sum(len(unpack_batch(batch)[0]) for batch in data["train"].dataloader)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    arguments = parser().parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = arguments.shards or made_shards(Path(folder), arguments.rows)
        rows = store_features(expand_shards(shards), Path(folder))
        bench = Bench(shards, Path(folder), rows, arguments)
        names = [n for n in bench.loaders if not arguments.loaders or n in (FLOOR, STOCK, *arguments.loaders)]
        gc.collect()
        gc.freeze()  # else looking for garbage among all modules would be measured
        rounds = [{name: measured(bench.loaders[name]) for name in names} for _ in range(arguments.rounds + 1)][1:]
        gc.unfreeze()
    table = pd.DataFrame([row(name, rounds) for name in names])
    table.to_csv(arguments.out, index=False)
    print(table.to_string(index=False, na_rep="", float_format="{:.3f}".format))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench_loader.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-loader.csv"), help="the CSV")
    parser.add_argument("--shards", metavar="TARS", help="local tars (default: made here)")
    parser.add_argument("--rows", type=int, default=1024, help="of the shards that are made here (default: 1024)")
    parser.add_argument("--image-size", type=int, default=96, help="of the model, in pixels (default: 96)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7, help="of which the median is taken (default: 7)")
    parser.add_argument("--loaders", nargs="+", metavar="NAME", help="only these, beside the floor and stock")
    return parser


def row(name: str, rounds: list[dict[str, Measured]]) -> dict[str, Any]:
    """A loader's figures."""

    def median(of: Callable[[dict[str, Measured]], float]) -> float:
        return statistics.median(map(of, rounds))

    def per_sample(round_: dict[str, Measured], name: str) -> float:
        return round_[name].cpu / round_[name].samples

    made: dict[str, Any] = {
        "loader": name,
        "samples_per_second": median(lambda each: each[name].samples / each[name].clock),
        "cpu_ms": median(lambda each: 1000 * per_sample(each, name)),
    }
    for other in (FLOOR, STOCK):
        made[f"cpu_over_{other}"] = median(lambda each, other=other: per_sample(each, name) / per_sample(each, other))
    tokens = [f"tokens K={k}" for k in (K if f"K={K}" in name else 1, 1)]
    if name.startswith("ours") and all(each in rounds[0] for each in tokens):
        more, less = tokens
        made["over_stock_and_tokens"] = median(
            lambda each: (
                per_sample(each, name) / (per_sample(each, STOCK) + per_sample(each, more) - per_sample(each, less))
            )
        )
    return made


def measured(epoch: Callable[[], int]) -> Measured:
    """An epoch's times; its workers have ended by then."""
    torch.manual_seed(0)
    clock, cpu = time.perf_counter(), processor_seconds()
    samples = epoch()
    gc.collect()  # ends workers that are left
    return Measured(time.perf_counter() - clock, processor_seconds() - cpu, samples)


if __name__ == "__main__":
    sys.exit(main())
