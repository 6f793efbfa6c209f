"""Training steps of OpenCLIP's loop: stock, and ours as training builds them, all on the same weights."""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from open_clip_train.data import DataInfo
from open_clip_train.train import train_one_epoch
from torch import Tensor, nn

from bench.models import adamw, twin
from open_clip_fff.config.flags import split
from open_clip_fff.config.plan import Plan
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.data.batch import CaptionBatch
from open_clip_fff.data.tokens import STORED_IMAGE, STORED_TEXT
from open_clip_fff.host.loader.data import HookedLoader, data_factory
from open_clip_fff.host.own_loss import make_loss
from open_clip_fff.host.state import RunState
from open_clip_fff.mining.counts import rates
from open_clip_fff.models.multi_caption import take_many_captions

CLIP, SIGLIP = "stock CLIP", "stock SigLIP"
MINING = ("off", "online", "precomputed")
RATE = 2.0  # mined captions per image
STORED_WIDTH = 768  # D' of stored features: ViT-L/14's


class OneBatch:
    """A loader of one existing batch for OpenCLIP's loop: an epoch is a step."""

    num_batches = 1

    def __init__(self, images: Tensor, texts: Tensor | CaptionBatch) -> None:
        self.batch, self.num_samples = (images, texts), len(images)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | CaptionBatch]]:
        yield self.batch


@dataclass
class Candidate:
    """One way to train on the batch."""

    name: str
    k: int  # captions per image that it uses
    mining: str  # `off`, `online` or `precomputed`
    model: Any  # shares its parameters with the other candidates'
    loss: Any  # a module that returns a dict of terms
    loader: Any  # of one batch
    inputs: list[Tensor]  # of that batch
    text_tokens: int  # that the text tower computes, including padding
    after_step: Callable[[], None] = lambda: None  # called after the optimizer

    def mined_per_image(self) -> float | None:
        """Mined captions per image since the last call; None without mining."""
        return None if self.mining == "off" else rates(self.loss.counts.take(torch.device("cpu"))).mined


class Bench:
    """Candidates of one architecture, captions and batch size, and the optimizer that all of them share.

    The learning rate is zero: AdamW computes its step, and every step starts from the same weights.

    Args:
        args: OpenCLIP's namespace, with model, device, precision.
        model: the architecture, on its device, with a bias.
        captions: K of each image, as many as any candidate takes.
        ks: captions per image, of our candidates.
        mining: theirs.
    """

    def __init__(self, args: Namespace, model: Any, captions: list[list[str]], ks: list[int], mining: list[str]):
        self.args, self.model, self.captions = Namespace(**{**vars(args), "batch_size": len(captions)}), model, captions
        self.device = torch.device(args.device)
        self.tokenizer = open_clip.get_tokenizer(args.model)
        generator = torch.Generator().manual_seed(0)
        size = model.visual.image_size if isinstance(model.visual.image_size, tuple) else (model.visual.image_size,) * 2
        self.images = torch.randn(len(captions), 3, *size, generator=generator).to(self.device)
        centres = torch.randn(len(captions), 1, STORED_WIDTH, generator=generator)
        noise = torch.randn(len(captions), 1 + max(ks, default=0), STORED_WIDTH, generator=generator)
        self.stored = F.normalize(centres + noise, dim=-1).half().to(self.device)
        self.optimizer = adamw(model, args)
        self.scaler = torch.amp.GradScaler(self.device.type) if args.precision == "amp" else None
        found = [self.stock(CLIP, ClipLoss()), self.stock(SIGLIP, SigLipLoss())]
        self.candidates = {each.name: each for each in [*found, *(self.fff(k, how) for k in ks for how in mining)]}

    def stock(self, name: str, loss: nn.Module) -> Candidate:
        """OpenCLIP's model and loss on each image's first caption; CLIP has no bias."""
        model = self.model if name == SIGLIP else twin(self.model)
        if name == CLIP:
            model.logit_bias = None
        tokens = self.tokenizer([row[0] for row in self.captions]).to(self.device)
        return Candidate(
            name, 1, "off", model, loss, OneBatch(self.images, tokens), [self.images, tokens], tokens.numel()
        )

    def fff(self, k: int, mining: str, flags: Sequence[str] = ()) -> Candidate:
        """Our loss, text path and hooks on K captions of each image, with further flags."""
        plan = plan_of(k, mining, flags)
        state, model = RunState(self.args, plan), twin(self.model)
        take_many_captions(model, plan.text)
        state.model = model
        # training's own function, which builds the hooks, with our batch as the data
        data_factory(state, lambda *_, **__: None)(self.args, None, tokenizer=self.tokenizer)
        tokens = torch.stack([self.tokenizer(row[:k]) for row in self.captions]).to(self.device)
        valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=self.device)
        ids = torch.arange(len(tokens), device=self.device)
        stored = {STORED_IMAGE: self.stored[:, 0], STORED_TEXT: self.stored[:, 1 : 1 + k].contiguous()}
        extras = stored if mining == "precomputed" else {}
        batch = CaptionBatch(tokens, valid, torch.zeros_like(valid), ids, extras)
        return Candidate(
            f"FFF K={k}, mining {mining}",
            k,
            mining,
            model,
            make_loss(state),
            HookedLoader(OneBatch(self.images, batch), self.device, state.hooks),
            [self.images, tokens, valid, batch.raw, ids, *extras.values()],
            sum(rows.numel() for rows in model.unpadded_text.rows(tokens.flatten(0, 1)).groups),
            state.after_step,
        )

    def step(self, candidate: Candidate) -> None:
        """One step of OpenCLIP's loop, until the device has finished."""
        data = {"train": DataInfo(candidate.loader)}
        train_one_epoch(
            candidate.model, data, candidate.loss, 0, self.optimizer, self.scaler, None, None, self.args, tb_writer=None
        )
        candidate.after_step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def loss(self, candidate: Candidate) -> float:
        """A step's loss."""
        values: list[float] = []
        seen = candidate.loss.register_forward_hook(lambda _, __, terms: values.append(sum(terms.values()).item()))
        self.step(candidate)
        seen.remove()
        return values[0]


def plan_of(k: int, mining: str, more: Sequence[str] = ()) -> Plan:
    """The plan of these flags, with defaults for all others."""
    flags = ["--method", "fff", "--captions-per-image", str(k), "--mining-features", mining, *more]
    if mining != "off":
        flags += ["--mined-per-image", str(RATE)]
    if mining == "online":
        flags += ["--mining-warmup", "1"]  # ends, with its measurement, before the first step that counts
    return make_plan(split(flags)[0])
