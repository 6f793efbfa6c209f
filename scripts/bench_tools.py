"""Images per second of open-clip-fff pack, embed, analyze and calibrate, beside plain PIL and OpenCLIP loops.

    python scripts/bench_tools.py --out tools.csv

Makes a folder of JPEGs of 128 to 256 pixels with a raw and four more captions. Each candidate works through all of them
in this process, one after the other in each round; the program's start is not measured. `clock` is images per second,
`cpu_ms` the processor time of an image, of all threads and processes, which other load on the machine hardly affects;
`against` names the plain loop that does the same, and the ratios are medians over rounds of the times over that loop's
in the same round. `analyze` and `calibrate` are held against the loop that embeds, and do more: thumbnails, pairs,
plots. Writes a CSV, and prints it.
"""

import argparse
import io
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from bench import plain_tools
from bench.captions import drawn
from bench.models import tiny
from bench.processor import processor_seconds
from bench.turns import in_turns, median_ratio
from PIL import Image

from open_clip_fff.cli import main as open_clip_fff
from open_clip_fff.hub.loading import add_architectures

SHARDS, K, SMALL = 2, 5, 96
AGAINST = {
    "pack --no-verify": "copy",
    "pack": "copy, decode",
    f"pack --resize {SMALL}": "resize",
    "embed": "encode",
    "analyze, model": "encode",
    "analyze, stored": "encode",
    "calibrate, model": "encode",
    "calibrate, stored": "encode",
}


class Measured(NamedTuple):
    """Seconds on the clock, and of the processor."""

    clock: float
    cpu: float


class Bench:
    """The candidates, each a function of an empty folder."""

    def __init__(self, folder: Path, images: int, batch: int, workers: int) -> None:
        source, config = folder / "images", folder / "tiny-tools.json"
        made_images(source, images)
        config.write_text(json.dumps(tiny(64, layers=2, context=32)))
        add_architectures([str(config)])
        packed = partial(self.ours, ["pack", str(source), "--workers", str(workers)])
        packed(["--images-per-shard", str(-(-images // SHARDS))], out=folder / "shards")
        shards = sorted(map(str, (folder / "shards").glob("*.tar")))
        data = ["--train-data", f"{folder}/shards/{{00000..{SHARDS - 1:05d}}}.tar", "--workers", str(workers)]
        data += ["--json-text-key", "captions"]
        weights = folder / "tiny.pt"
        torch.manual_seed(0)
        torch.save(plain_tools.open_clip.create_model(config.stem).state_dict(), weights)
        model = ["--mining-model", config.stem, "--mining-pretrained", str(weights)]
        embedded = partial(self.ours, ["embed", "--batch-size", str(batch), *data, *model])
        embedded([], out=folder / "features")
        stored = ["--mining-features", "precomputed", "--feature-sidecar", str(folder / "features")]
        sample = ["--images", str(images), *data]
        analyzed = partial(self.ours, ["analyze", *sample])
        calibrated = partial(
            self.ours, ["calibrate", *sample, "--captions-per-image", str(K), "--global-batch", str(batch)]
        )
        frozen = ["--mining-features", "frozen", *model]
        self.run: dict[str, Callable[[Path], Any]] = {
            "copy": lambda out: plain_tools.pack(source, out / "0.tar"),
            "pack --no-verify": lambda out: packed(["--no-verify"], out=out),
            "copy, decode": lambda out: plain_tools.pack(source, out / "0.tar", decode=True),
            "pack": lambda out: packed([], out=out),
            "resize": lambda out: plain_tools.pack(source, out / "0.tar", resize=SMALL),
            f"pack --resize {SMALL}": lambda out: packed(["--resize", str(SMALL)], out=out),
            "encode": lambda out: plain_tools.embed(shards, config.stem, str(weights), batch, workers, out),
            "embed": lambda out: embedded([], out=out),
            "analyze, model": lambda out: analyzed(frozen, out=out),
            "analyze, stored": lambda out: analyzed(stored, out=out),
            "calibrate, model": lambda out: calibrated(frozen, out=out),
            "calibrate, stored": lambda out: calibrated(stored, out=out),
        }

    @staticmethod
    def ours(command: list[str], flags: list[str], out: Path) -> None:
        """Runs a command of open-clip-fff; raises what it printed where it fails."""
        printed = io.StringIO()
        with redirect_stdout(printed), redirect_stderr(printed):
            code = open_clip_fff([*command, *flags, "--out", str(out)])
        if code:
            raise RuntimeError(f"{' '.join(command)} ended with {code}: {printed.getvalue()[-2000:]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(prog="bench_tools.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-tools.csv"), help="the CSV")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=256, help="of embed and of the loop (default: 256)")
    parser.add_argument("--workers", type=int, default=1, help="threads of ours, processes of the loop's (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken (default: 3)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these, with what they are held against")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.images, arguments.batch_size, arguments.workers)
        only = arguments.only or AGAINST
        names = [name for name in bench.run if name in only or any(AGAINST.get(other) == name for other in only)]
        rounds: dict[str, list[Measured]] = {name: [] for name in names}
        for turn, name in enumerate(in_turns(names, arguments.rounds + 1)):
            found = measured(bench.run[name], Path(folder) / "out")
            if turn >= len(names):  # else it warms up
                rounds[name].append(found)
    table = pd.DataFrame([row(name, rounds, arguments.images) for name in names])
    table.to_csv(arguments.out, index=False)
    print(table.to_string(index=False, na_rep="", float_format="{:.2f}".format))
    return 0


def made_images(folder: Path, images: int) -> None:
    """JPEGs as detailed as photographs, each with a raw caption in its txt and four more in its json."""
    noise, draw = np.random.default_rng(0), random.Random(0)
    folder.mkdir()
    for number in range(images):
        coarse = Image.fromarray(noise.integers(0, 255, (24, 24, 3), dtype=np.uint8))
        size = draw.randint(128, 256), draw.randint(128, 256)
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:06d}.jpg", quality=85)
        (folder / f"{number:06d}.txt").write_text(drawn(draw))
        (folder / f"{number:06d}.json").write_text(json.dumps({"captions": [drawn(draw) for _ in range(K - 1)]}))


def measured(run: Callable[[Path], Any], out: Path) -> Measured:
    """One run into an empty folder, which is removed."""
    out.mkdir()
    clock, cpu = time.perf_counter(), processor_seconds()
    run(out)
    found = Measured(time.perf_counter() - clock, processor_seconds() - cpu)
    shutil.rmtree(out)
    return found


def row(name: str, rounds: dict[str, list[Measured]], images: int) -> dict[str, Any]:
    """A candidate's figures."""
    found = rounds[name]
    made: dict[str, Any] = {
        "candidate": name,
        "images/s": statistics.median(images / each.clock for each in found),
        "cpu_ms": statistics.median(1000 * each.cpu / images for each in found),
    }
    if name in AGAINST:
        plain = rounds[AGAINST[name]]
        made["against"] = AGAINST[name]
        for field in Measured._fields:
            made[f"{field} ratio"] = median_ratio(*([getattr(each, field) for each in run] for run in (found, plain)))
    return made


if __name__ == "__main__":
    sys.exit(main())
