"""What a ring gains by sending while it computes: a step of the FFF loss over gloo ranks joined by a slow link.

    python scripts/bench_ring.py --out bench-ring --ranks 4 --mbit 200

Ranks of this machine have no slow link between them, so one is simulated: a message is there no sooner than its bytes
take at --mbit. Three ways take turns in one run: over the simulated link; over it, but waiting for each message before
anything is computed, which is what a ring without overlap does; and without it. Loss and gradients are the same.

Writes OUT/bench_ring.csv: seconds of loss and gradients, medians over rounds of the slowest rank.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from bench.turns import median_ratio

from open_clip_fff import FFFLoss, MultiPositiveSoftmaxLoss
from open_clip_fff.patching import replaced

LOSSES = {"fff": FFFLoss, "fff-softmax": MultiPositiveSoftmaxLoss}
OVERLAPPED, IN_TURN, NO_LINK = "while computing", "before computing", "no slow link"


class SlowWork:
    """A message on its way, which takes its time."""

    def __init__(self, requests: list[dist.Work], until: float) -> None:
        self.requests, self.until = requests, until

    def wait(self) -> None:
        while self.requests:  # gloo waits for ever for what was waited for
            self.requests.pop().wait()
        time.sleep(max(0.0, self.until - time.monotonic()))


class SlowLink:
    """Sends what `dist.batch_isend_irecv` sends, at `mbit` megabits per second, and may `wait` for each message.

    Messages in one direction go one after the other.
    """

    def __init__(self, mbit: float, wait: bool) -> None:
        self.rate, self.at_once, self.free, self.send = mbit * 1e6 / 8, wait, 0.0, dist.batch_isend_irecv

    def __call__(self, operations: list[dist.P2POp]) -> list[SlowWork]:
        size = sum(each.tensor.nbytes for each in operations if each.op is dist.isend)
        self.free = max(self.free, time.monotonic()) + size / self.rate
        work = SlowWork(self.send(operations), self.free)
        if self.at_once:
            work.wait()
        return [work]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(prog="bench_ring.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-ring"), help="folder (default: bench-ring)")
    parser.add_argument("--ranks", type=int, default=4, help="(default: 4)")
    parser.add_argument("--batch-size", type=int, default=256, help="images of a rank (default: 256)")
    parser.add_argument("--captions", type=int, default=5, help="of an image (default: 5)")
    parser.add_argument("--width", type=int, default=512, help="of features (default: 512)")
    parser.add_argument("--mbit", type=float, default=200.0, help="of the link, megabits per second (default: 200)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken (default: 5)")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, (arguments, Path(folder)), nprocs=arguments.ranks, start_method="fork")
        seconds = torch.load(Path(folder) / "seconds.pt", weights_only=True)
    rows = []
    for loss, ways in seconds.items():
        medians = {way: statistics.median(times) for way, times in ways.items()}
        ratio = median_ratio(ways[OVERLAPPED], ways[IN_TURN])
        rows.append({"loss": loss, "ranks": arguments.ranks, "mbit": arguments.mbit, **medians, "ratio": ratio})
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "bench_ring.csv", index=False, float_format="%.4g")
    print(table.to_string(index=False, float_format="{:.3g}".format))
    print(f"  seconds of a step; ratio: sent {OVERLAPPED} to sent {IN_TURN}, median over rounds")
    return 0


def _rank(rank: int, arguments: argparse.Namespace, folder: Path) -> None:
    torch.set_num_threads(1)
    world_size = arguments.ranks
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    torch.manual_seed(rank)
    shapes = (arguments.batch_size, arguments.width), (arguments.batch_size, arguments.captions, arguments.width)
    leaves = [F.normalize(torch.randn(shape), dim=-1).requires_grad_() for shape in shapes]
    leaves += [torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)]
    links = {OVERLAPPED: partial(SlowLink, arguments.mbit, False), IN_TURN: partial(SlowLink, arguments.mbit, True)}
    seconds: dict[str, dict[str, list[float]]] = {}
    for name, make in LOSSES.items():
        loss, found = make(rank, world_size, dist_impl="ring"), {}
        seconds[name] = {way: [] for way in (*links, NO_LINK)}
        for number in range(arguments.rounds + 1):  # the first warms up
            for way, times in seconds[name].items():
                with replaced(dist, batch_isend_irecv=links[way]()) if way in links else nullcontext():
                    dist.barrier()
                    began = time.monotonic()
                    found[way] = torch.autograd.grad(loss(*leaves), leaves)
                    taken = torch.tensor(time.monotonic() - began)
                dist.all_reduce(taken, dist.ReduceOp.MAX)
                if number:
                    times.append(taken.item())
        for way in links:
            for ours, plain in zip(found[way], found[NO_LINK], strict=True):
                torch.testing.assert_close(ours, plain, rtol=0, atol=0)
    if rank == 0:
        torch.save(seconds, folder / "seconds.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    raise SystemExit(main())
