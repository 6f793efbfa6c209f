"""What a GPU shows of this package, part by part, each under its own time limit: at most 8 minutes together.

    bash scripts/gpu_check.sh --out gpu-check

    triton       the tests of the Triton kernel, on the device
    losses       ours, OpenCLIP's and, where it is installed, siglip-kernel's: time, memory, error against float64
    step         bench_step.py for ViT-B/32 and ViT-B/16, K = 5
    step_parts   what a step of FFF costs beside stock SigLIP's, by settings of the text path and forms of the loss
    ranks        the losses on NCCL, a rank per GPU, gathered and in a ring
    amp          ten steps of the trainer with float16 and a GradScaler
    half_mining  pairs that mining decides otherwise with float16 and bfloat16 features

A part that fails does not keep the others from running; the exit code is then 1, and the last line names it. Writes
OUT/gpu.json after each part, OUT/gpu.md, a page of it, OUT/gpu.log, all that was printed, and OUT/bench_step.*.

`--device cpu` runs all of it at sizes that mean nothing, with gloo and Triton's interpreter: to try the command.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from faulty.inputs import TINY
from gpu.page import page
from gpu.running import Ended, run

from open_clip_fff.atomic_io import write_atomically

SCRIPTS = Path(__file__).parent
# seconds; 480 in all
LIMITS = {
    "triton": 80,
    "losses": 170,
    "step": 80,
    "step_parts": 60,
    "ranks": 30,
    "amp": 35,
    "half_mining": 25,
}
ROOMY = 40 * 2**30  # bytes of GPU memory from which on steps have 256 images


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts, and writes what they found."""
    arguments = parse(argv)
    device, out = torch.device(arguments.device), arguments.out.resolve()
    if device.type == "cuda" and not torch.cuda.is_available():
        print("scripts/gpu_check.py: error: PyTorch sees no GPU here; --device cpu tries the command", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.log").unlink(missing_ok=True)
    found, began = {**machine(device), "parts": {}}, time.monotonic()
    for name in arguments.only:

        def say(line: str, name: str = name) -> None:
            print(f"[{time.monotonic() - began:5.0f} s] {name}: {line}", flush=True)

        say(f"at most {LIMITS[name]} s")
        command, result = command_of(name, device, out)
        result.unlink(missing_ok=True)
        ended = run(command, LIMITS[name], out / "gpu.log", environment(device), say)
        figures, fault = outcome(name, ended, result)
        found["parts"][name] = {"fault": fault, "seconds": ended.seconds, "figures": figures}
        say(f"FAILED, {fault}" if fault else f"passed in {ended.seconds:.0f} s")
        found["seconds"] = time.monotonic() - began
        write_atomically(out / "gpu.json", json.dumps(found, indent=1) + "\n")
        write_atomically(out / "gpu.md", page(found))
    failed = [name for name, part in found["parts"].items() if part["fault"]]
    print(f"{arguments.out}/ holds gpu.json, gpu.md and gpu.log", flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "all parts passed")
    return 1 if failed else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_check.sh", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder (default: gpu-check)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", choices=LIMITS, default=list(LIMITS), help="parts (default: all)")
    return parser.parse_args(argv)


def machine(device: torch.device) -> dict[str, Any]:
    """The device and the versions."""
    cuda = device.type == "cuda"
    driver = None
    if cuda and shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout.partition("\n")[0].strip()
    commit = ["git", "-C", str(SCRIPTS), "rev-parse", "--short", "HEAD"]
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "memory_gib": torch.cuda.get_device_properties(0).total_memory / 2**30 if cuda else None,
        "gpus": torch.cuda.device_count() if cuda else 0,
        "driver": driver,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip() if shutil.which("git") else "",
        "date": datetime.date.today().isoformat(),
    }


def command_of(name: str, device: torch.device, out: Path) -> tuple[list[str], Path]:
    """A part's command, and the file of its figures."""
    cuda = device.type == "cuda"
    if name == "triton":
        tests = [str(SCRIPTS.parent / "tests" / "test_triton.py"), "-k", f"{device.type} or compiles"]
        return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], out / "none"
    if name == "step":
        size = "4"
        models = ["ViT-B-32", "ViT-B-16"]
        if cuda:
            size = "256" if torch.cuda.get_device_properties(0).total_memory > ROOMY else "64"
        else:
            models = [str(out / "tiny-clip.json")]
            write_atomically(Path(models[0]), json.dumps(TINY))
        options = ["--batch-sizes", size, "--captions-per-image", "5", "--mining", "off", "precomputed"]
        options += ["--model", *models, "--rounds", "7" if cuda else "1", "--device", device.type, "--out", str(out)]
        return [sys.executable, str(SCRIPTS / "bench_step.py"), *options], out / "bench_step.csv"
    launch = []
    if name == "ranks":
        ranks = min(2 ** (torch.cuda.device_count().bit_length() - 1), 8) if cuda else 2  # divides the batch
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    result = out / f".{name}.json"
    rest = ["--device", device.type, "--out", str(result)]
    return [sys.executable, *launch, "-m", "gpu.part", name, *rest], result


def environment(device: torch.device) -> dict[str, str]:
    """This process's, with our folders, and on a CPU with Triton's interpreter."""
    paths = [str(SCRIPTS.parent), str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    more = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}  # the largest batches leave no room for fragments
    more |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    if device.type == "cpu":
        more |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return os.environ | {"HF_HUB_OFFLINE": "1"} | more


def outcome(name: str, ended: Ended, result: Path) -> tuple[Any, str | None]:
    """What a part found, and why it failed, if it did."""
    fault = ended.fault
    if name == "triton":
        counts = re.findall(r"(\d+) (passed|failed|skipped|error)", ended.text.rstrip().rpartition("\n")[2])
        figures = {what: int(number) for number, what in counts}
        return figures, fault or (None if figures.get("passed") else "no test ran")
    if not result.exists():
        return None, fault or "it left no figures"
    if name == "step":
        table = pd.read_csv(result)
        return json.loads(table[table["images_per_second"].notna()].to_json(orient="records")), fault
    figures = json.loads(result.read_text())
    result.unlink()
    return figures, fault


if __name__ == "__main__":
    sys.exit(main())
