"""Checks an exported folder: stock OpenCLIP loads it in a separate process and gives the same outputs."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from open_clip_fff.errors import UsageError, as_mistake, reason
from open_clip_fff.hub import stock_outputs
from open_clip_fff.hub.float32_text import half_precision_fix
from open_clip_fff.hub.loading import LoadedModel

STOCK = f"stock OpenCLIP {open_clip.__version__}"
TOLERANCE = 1e-5  # of the largest logit: above errors of summation order, far below those of a wrong activation or crop


def check_in_stock_process(folder: Path, loaded: LoadedModel) -> float:
    """Compares a folder in OpenCLIP's hub format with the model it was written from, on the CPU and in eval mode.

    The folder is loaded by the same OpenCLIP in a process where our package cannot be imported. Returns the largest
    difference between logits: 0.0, or float error if the processes sum in different orders.

    Raises UsageError if stock OpenCLIP does not load the folder, or its pixels, token ids or logits differ.
    """
    why = f"{loaded.given}: OpenCLIP cannot run it as the hub format describes it"
    with as_mistake(why, Exception, fix="it builds a timm tower at its own image size"):  # the weights may fit any
        ours = stock_outputs.model_outputs(loaded.model, loaded.preprocess, loaded.tokenizer)
    if not ours["logits"].isfinite().all():
        raise UsageError(f"{loaded.given}: its logits are not finite, so the training diverged; nothing was exported")
    try:
        theirs = _stock_outputs(folder, loaded.given)
    except UsageError as error:
        raise UsageError(f"{error}{half_precision_fix(loaded.description or {})}") from error
    return _difference(ours, theirs, loaded.given)


def _stock_outputs(folder: Path, given: str) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as exchange:
        outputs = Path(exchange) / "outputs.pt"
        # -E -P ignore PYTHONPATH, which may hold OpenCLIP's main branch, and our folder; -I would also hide packages in
        # the user's site folder
        source = Path(open_clip.__path__[0]).parent
        arguments = (stock_outputs.__file__, folder, outputs, torch.get_num_threads(), source)
        command = [sys.executable, "-E", "-P", *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if ended.returncode or not outputs.is_file():
            last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
            raise UsageError(f"{given}: {STOCK} does not load what was written ({reason(Exception(last))})")
        return torch.load(outputs, weights_only=True)


def _difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], given: str) -> float:
    for name, part in (("tokens", "token ids"), ("pixels", "preprocessing")):
        if not torch.equal(ours[name], theirs[name]):
            raise UsageError(f"{given}: in {STOCK} the {part} of what was written differ")
    difference = (ours["logits"] - theirs["logits"]).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, ours["logits"].abs().max().item()):
        raise UsageError(f"{given}: in {STOCK} the logits of what was written differ by {difference:.3g}")
    return difference
