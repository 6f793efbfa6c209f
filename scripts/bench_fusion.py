"""What the fusion model costs: a training step with ITM, and with ITM and MLM, beside one with ITC alone.

    python scripts/bench_fusion.py --out bench-fusion

A step is OpenCLIP's own loop over one prepared batch of images with a caption of 8 to 14 words each: ViT-S/32, a BERT
of six layers, 384 wide, with a vocabulary of 30,522, and a fusion model of that width; loss, backward, AdamW. Ways are
interleaved, and memory is counted, as in bench_step.py. Ratios are medians over rounds, to ITC in the same round.

Writes OUT/bench_fusion.csv.
"""

import argparse
import json
import logging
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random

import open_clip
import pandas as pd
import torch
from bench.captions import WORDS, drawn
from bench.models import SMALL, adamw, open_clip_args
from bench.peak import peak_bytes
from bench.steps import Bench, Candidate, OneBatch
from bench.turns import median_ratio, seconds_in_turns

from open_clip_fff.config.flags import split
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.data.batch import CaptionBatch
from open_clip_fff.host.fusion import add_fusion
from open_clip_fff.host.loader.data import HookedLoader
from open_clip_fff.host.own_loss import make_loss
from open_clip_fff.host.state import RunState
from open_clip_fff.models.multi_caption import take_many_captions

NAME, ITC = "bench-bert", "ITC"
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class FusionStep(Bench):
    """One way to train, with a model and an AdamW of its own, on a batch of images with a caption each."""

    def __init__(self, model: str, name: str, flags: list[str], captions: list[str]) -> None:
        self.args = open_clip_args(model, "cpu", "fp32")
        self.args.batch_size = len(captions)
        self.device, self.scaler, self.captions = torch.device("cpu"), None, [[text] for text in captions]
        torch.manual_seed(0)
        self.model = open_clip.create_model(model, output_dict=True, pretrained_hf=False)
        state = RunState(self.args, make_plan(split(flags)[0]))
        state.model = self.model
        take_many_captions(self.model, state.plan.text)
        if state.plan.fusion is not None:
            state.fusion = add_fusion(self.model, model, state.plan.fusion, state.plan.given, self.args)
        self.optimizer = adamw(self.model, self.args)
        images = torch.randn(len(captions), 3, *[self.model.visual.image_size[0]] * 2)
        tokens = open_clip.get_tokenizer(model)(captions)[:, None]
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool)
        batch = CaptionBatch(tokens, valid, torch.zeros_like(valid), torch.arange(len(tokens)), {})
        loss = make_loss(state)
        loader = HookedLoader(OneBatch(images, batch), self.device, [])
        inputs = [images, tokens, valid, batch.raw, batch.ids]
        self.candidate = Candidate(name, 1, "off", self.model, loss, loader, inputs, 0, state.after_step)

    def terms(self) -> dict[str, float]:
        """The terms of a step's loss."""
        found: dict[str, float] = {}
        seen = self.candidate.loss.register_forward_hook(
            lambda _, __, out: found.update({name: value.item() for name, value in out.items()})
        )
        self.step(self.candidate)
        seen.remove()
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(prog="bench_fusion.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-fusion"), help="folder (default: bench-fusion)")
    parser.add_argument("--batch-size", type=int, default=32, help="images (default: 32)")
    parser.add_argument("--fusion-layers", type=int, default=6, help="(default: 6, as in the paper)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken (default: 5)")
    arguments = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    arguments.out.mkdir(parents=True, exist_ok=True)
    open_clip.add_model_config(write_bert(arguments.out))
    draw = Random(0)
    captions = [drawn(draw) for _ in range(arguments.batch_size)]
    steps = {name: FusionStep(NAME, name, flags, captions) for name, flags in ways(arguments.fusion_layers).items()}
    table = pd.DataFrame(measure(steps, arguments.rounds)).assign(
        batch=arguments.batch_size, layers=arguments.fusion_layers
    )
    table.to_csv(arguments.out / "bench_fusion.csv", index=False, float_format="%.4g")
    print(table.to_string(index=False, float_format="{:.3g}".format))
    return 0


def ways(layers: int) -> dict[str, list[str]]:
    """What is compared, as flags of training."""
    albef = ["--method", "albef", "--fusion-layers", str(layers)]
    return {ITC: ["--loss", "softmax"], "ITC + ITM": [*albef, "--mlm-weight", "0"], "ITC + ITM + MLM": albef}


def measure(steps: dict[str, FusionStep], rounds: int) -> list[dict]:
    """A row for each way."""
    for step in steps.values():
        step.step(step.candidate)
    seconds = seconds_in_turns({name: partial(step.step, step.candidate) for name, step in steps.items()}, rounds)
    peaks = {name: peak_bytes(step, step.candidate) for name, step in steps.items()}
    return [
        {
            "step": name,
            "seconds": statistics.median(seconds[name]),
            "seconds_over_itc": median_ratio(seconds[name], seconds[ITC]),
            "peak_mib": peaks[name] / 2**20,
            "peak_over_itc": peaks[name] / peaks[ITC],
            "rounds": rounds,
            "threads": torch.get_num_threads(),
        }
        for name in steps
    ]


def write_bert(folder: Path) -> Path:
    """The architecture's json: the small bench's image tower, and a BERT without weights beside it."""
    from transformers import BertConfig, BertTokenizerFast

    bert = folder / "bert"
    bert.mkdir(exist_ok=True)
    (bert / "vocab.txt").write_text("\n".join([*MARKS, *dict.fromkeys(WORDS)]) + "\n")
    BertTokenizerFast(str(bert / "vocab.txt")).save_pretrained(bert)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    BertConfig(**sizes, **no_dropout).save_pretrained(bert)
    text = {"hf_model_name": str(bert), "hf_tokenizer_name": str(bert), "hf_model_pretrained": False}
    text |= {"hf_proj_type": "linear", "hf_pooler_type": "cls_pooler"}
    path = folder / f"{NAME}.json"
    path.write_text(json.dumps({**json.loads(SMALL.read_text()), "text_cfg": text}, indent=2) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
