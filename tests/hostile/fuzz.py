"""Damaged shards through the training loader: samples, counted losses or one line, and nothing else.

`python -m tests.hostile.fuzz --seconds 300` makes a long run of it, and prints what came of how many cases.
"""

import argparse
import logging
import random
import resource
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import open_clip_train.data as oc_data
import torch
from PIL import Image

from open_clip_fff.config.command_line import parse_open_clip
from open_clip_fff.config.flags import split
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.data import shard_reader as reading
from open_clip_fff.data.preview import preview_sets
from open_clip_fff.data.row_counts import RowCounts
from open_clip_fff.data.training_data import feature_reader, with_data_sets
from open_clip_fff.errors import UsageError
from open_clip_fff.host.fixes import fixes, image_reader
from open_clip_fff.host.loader.data import _dataset_fn
from open_clip_fff.host.state import RunState
from open_clip_fff.patching import replaced
from tests.hostile.damage import ROWS, shard

SECONDS, MEGABYTES = 20, 400  # the longest case; what it may take beyond what was there before it
PLANS = {
    "many captions": ["--method", "fff", "--mining-features", "off", "--captions-per-image", "3", "--class-key", "cls"],
    "stored features": ["--method", "fff", "--mining-features", "precomputed", "--captions-per-image", "2"],
    "one caption": ["--method", "clip", "--captions-per-image", "2", "--caption-policy", "sample"],
    "stock": [],
}


class Hung(BaseException):
    """No handler takes it for a damaged row."""


class Loader:
    """The training loader over one shard, `folder`/0.tar, by each of the plans."""

    def __init__(self, folder: Path) -> None:
        self.path, self.states = folder / "0.tar", {}
        for name, flags in PLANS.items():
            texts = ["--json-text-key", "captions"] if flags else []
            common = ["--train-data", str(self.path), "--train-num-samples", str(ROWS), "--batch-size", "2"]
            typed, rest = split([*flags, *texts, *common, "--workers", "0", "--model", "RN50"])
            args = parse_open_clip(rest)
            args.rank, args.world_size, args.distributed, args.device = 0, 1, False, "cpu"
            plan = with_data_sets(make_plan(typed), args.train_data)
            self.states[name] = RunState(args, plan, rows=RowCounts((str(self.path),)))

    def __call__(self, content: bytes, plan: str) -> Counter:
        """What came of a shard. Raises whatever is neither a sample, a counted loss, nor a UsageError."""
        self.path.write_bytes(content)
        state, came = self.states[plan], Counter()
        try:
            if state.plan.given:
                preview_sets(str(self.path), state.plan.captions, feature_reader(state.plan))
        except UsageError as error:
            came["refused"] += 1
            assert len(str(error).splitlines()) == 1, error
        try:
            came["rows"] += self._rows(state)
        except UsageError as error:
            came["ended"] += 1
            assert len(str(error).splitlines()) == 1, error
        counted = {kind: count for kind, count in state.counters.take().items() if count and kind.startswith("with")}
        came["damage"] += sum(counted.values())
        came["lost shards"] += len(state.counters.shards.take())
        return came

    def _rows(self, state: RunState) -> int:
        def tokenizer(texts: str | list[str]) -> torch.Tensor:
            return torch.zeros(1 if isinstance(texts, str) else len(texts), 4, dtype=torch.int64)

        with fixes(state.counters, 0, image_reader(state.plan)), replaced(reading, PAUSE=0.0):
            make = oc_data.get_dataset_fn
            if state.plan.given:
                make = lambda path, kind: _dataset_fn(state, oc_data.get_dataset_fn, path, kind)  # noqa: E731
            info = make(state.args.train_data, "webdataset")(
                state.args, _pixels, is_train=True, epoch=0, tokenizer=tokenizer
            )
            return sum(len(images) for images, _ in info.dataloader)


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.tensor(image.convert("RGB").resize((2, 2)).getpixel((0, 0)))


def fuzz(seed: int, cases: int | None = None, seconds: float | None = None) -> Counter:
    """So many cases, or as many as fit; what came of them. The seed is printed with a case that fails."""
    came: Counter = Counter()
    start = time.monotonic()
    logging.disable(logging.WARNING)
    previous = signal.signal(signal.SIGALRM, _hung)
    with tempfile.TemporaryDirectory() as folder:
        loader, number = Loader(Path(folder)), 0
        while number != cases and (seconds is None or time.monotonic() - start < seconds):
            rng = random.Random(f"{seed}/{number}")
            content, how = shard(rng)
            plan, before = rng.choice(sorted(PLANS)), held(reset=True)
            signal.alarm(SECONDS)
            try:
                outcome = loader(content, plan)
                assert held() - before < MEGABYTES, "memory"
                assert [path.name for path in Path(folder).iterdir()] == ["0.tar"], "a file was written"
            except BaseException as error:
                error.add_note(f"case {seed}/{number}: {plan}, a shard of {len(content)} bytes: {how}")
                raise
            finally:
                signal.alarm(0)
            number += 1
            came += Counter({"cases": 1, **{name: count for name, count in outcome.items()}})
            came["without a row"] += not outcome["rows"]
    signal.signal(signal.SIGALRM, previous)
    logging.disable(logging.NOTSET)
    return came


def _hung(*_: object) -> None:
    raise Hung(f"not done in {SECONDS} s")


def held(reset: bool = False) -> int:
    """The most megabytes that this process has held since the last reset; on Linux."""
    if not Path("/proc/self/clear_refs").exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    typed = parser.parse_args()
    print(f"seed {typed.seed}: {dict(fuzz(typed.seed, seconds=typed.seconds))}")
