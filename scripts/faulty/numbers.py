"""Numbers that are not finite, in steps and in checkpoints."""

import io

import numpy as np
import pyarrow.parquet as pq
import torch

from open_clip_fff.data.features import FEATURE_COLUMN, unpack_features

from .lab import CLIP, MANY, SCRIPTS, Ended, Lab, finite
from .rows import Outcome, fault, require

TOPIC = "a number that is not finite never goes on"
POISON = ("--plugin", "faulty.plugin", "--batch-hooks", "poison", "--logit-bias-init", "-10")
FFF = (*MANY, *POISON)


def skipped_step(lab: Lab, ended: Ended) -> Outcome:
    """Checks that one step of four was skipped."""
    ended.succeeded()
    state = lab.state(1)
    finite(state)
    steps = {int(each["step"]) for each in state["optimizer"]["state"].values()}
    require(steps == {3}, f"the optimizer has taken {steps} steps of 4")
    return Outcome(ended.line(r"Steps left out in epoch 0: .+"), "the step")


@fault(TOPIC, "a loss of NaN in one step")
def one_step(lab: Lab) -> Outcome:
    return skipped_step(lab, lab.train(*FFF, data=lab.shards(32, 32), POISON="2"))


@fault(TOPIC, "a loss of NaN in one step, on one of two ranks")
def one_step_of_one_rank(lab: Lab) -> Outcome:
    return skipped_step(lab, lab.train(*FFF, data=lab.shards(32, 32), ranks=2, POISON="2@1"))


@fault(TOPIC, "a loss of NaN from step 5 on, --delete-previous-checkpoint")
def for_ever(lab: Lab) -> Outcome:
    flags = ("--epochs", "9", "--delete-previous-checkpoint")
    ended = lab.train(*FFF, *flags, data=lab.shards(32, 32), POISON="5-")
    (kept,) = lab.checkpoint(1).parent.glob("epoch_*.pt")
    finite(torch.load(kept, weights_only=True))
    return Outcome(ended.refusal(), f"what came after {kept.name}, which is finite")


@fault(TOPIC, "OpenCLIP's own loss and a rate of 1e30")
def stock_loss(lab: Lab) -> Outcome:
    ended = lab.train(*CLIP, "--lr", "1e30", "--epochs", "9", data=lab.shards(32, 32))
    for path in lab.checkpoint(1).parent.glob("epoch_*.pt"):
        finite(torch.load(path, weights_only=True))
    return Outcome(ended.refusal(), "the run; no checkpoint holds a NaN")


@fault(TOPIC, "a checkpoint with a NaN, --resume")
def resumed(lab: Lab) -> Outcome:
    data = lab.shards(32)
    lab.train(*CLIP, "--epochs", "2", data=data).succeeded()
    state = lab.state(2)
    next(iter(state["state_dict"].values())).fill_(torch.nan)
    torch.save(state, lab.checkpoint(2))
    ended = lab.train(*CLIP, "--epochs", "3", "--resume", lab.checkpoint(2), "--name", "y", data=data)
    return Outcome(ended.refusal(), "nothing")


@fault(TOPIC, "a NaN among stored features")
def stored(lab: Lab) -> Outcome:
    data, folder = lab.shards(32), lab.folder / "features"
    lab.train(*CLIP, data=data).succeeded()
    frozen = ["--mining-model", "tiny-clip", "--mining-pretrained", lab.checkpoint(1), "--model-config", lab.config]
    lab.run([SCRIPTS / "embed.py", "--out", folder, "--", *data, "--json-text-key", "captions", *frozen]).succeeded()
    table = pq.read_table(folder / "00.parquet")
    rows = table.to_pylist()
    features, file = unpack_features(rows[3][FEATURE_COLUMN]), io.BytesIO()
    features.image[0] = np.nan
    np.savez(file, **features._asdict())
    rows[3][FEATURE_COLUMN] = file.getvalue()
    pq.write_table(table.from_pylist(rows), folder / "00.parquet")
    mined = ["--mining-features", "precomputed", "--feature-sidecar", folder, "--mined-per-image", "1"]
    ended = lab.train(*MANY, *mined, "--name", "y", data=data).succeeded()
    finite(lab.state(1, "y"))
    ended.line(r"its stored features are not finite")
    return Outcome(ended.line(r"Rows skipped or damaged in epoch 0: .+"), "the row")
