"""A plug-in with hooks, losses and discriminators of a user's own: some right, most with a mistake."""

from functools import partial

import torch

from open_clip_fff import Batch, register_batch_hook, register_discriminator, register_loss

HOOKS = {
    "picked": lambda batch: batch.captions.picking(order(batch)),
    "two-picked": lambda batch: batch.captions.picking(order(batch)[:, :2]),
    "moved": lambda batch: batch.captions._replace(
        **{name: moved(getattr(batch.captions, name), order(batch)) for name in ("tokens", "valid", "raw")}
    ),
    "two-moved": lambda batch: batch.captions._replace(
        **{name: getattr(batch.captions, name)[:, :2] for name in ("tokens", "valid", "raw")}
    ),
    "fewer-tokens": lambda batch: batch.captions._replace(tokens=batch.captions.tokens[:, :2]),
    "blanked": lambda batch: batch.captions._replace(tokens=batch.captions.tokens.clone().fill_(0)),
    "counting": lambda batch: batch.captions._replace(extras={"count": 3}),
    "half": lambda batch: batch.captions._replace(ids=batch.captions.ids[::2]),
}
LOSSES = {
    "vector": lambda loss: loss.repeat(2),
    "nothing": lambda loss: None,
    "with-accuracy": lambda loss: {"own_loss": loss, "accuracy": torch.tensor(5.0)},
    "two-terms": lambda loss: {"own_loss": loss, "other_loss": loss},
}
SCORES = {
    "logits": lambda n: torch.full((n,), 7.0),
    "nan": lambda n: torch.full((n,), torch.nan),
    "list": lambda n: [0.5] * n,
}


def order(batch: Batch) -> torch.Tensor:
    """The captions backwards, int64 [B, K]."""
    size, k = batch.captions.valid.shape
    return torch.arange(k - 1, -1, -1).expand(size, k)


def moved(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return x[torch.arange(len(x))[:, None], places]


class Hook:
    def __init__(self, change, context) -> None:
        self.change = change

    def __call__(self, batch: Batch) -> Batch:
        return batch._replace(captions=self.change(batch))


class Forgetful(Hook):
    def __call__(self, batch: Batch) -> None:
        super().__call__(batch)


class Own(torch.nn.Module):
    def __init__(self, change, context) -> None:
        super().__init__()
        self.change = change
        self.register_buffer("weight", torch.tensor(1.0))

    def forward(self, image_features, text_features, assignment):
        return self.change(self.weight * (image_features[:, None] - text_features).square().mean())


class Learnt(Own):
    def __init__(self, context) -> None:
        super().__init__(None, context)
        self.margin = torch.nn.Parameter(torch.tensor(0.2))


class Scoring:
    identity = 3

    def __init__(self, scores, context) -> None:
        self.scores = scores

    def __call__(self, images, captions):
        return self.scores(len(captions))


for name, change in HOOKS.items():
    register_batch_hook(name)(partial(Hook, change))
for name, change in LOSSES.items():
    register_loss(name)(partial(Own, change))
for name, scores in SCORES.items():
    register_discriminator(name)(partial(Scoring, scores))
register_batch_hook("forgetful")(partial(Forgetful, HOOKS["picked"]))
register_loss("learnt")(Learnt)
