"""The text tower without padding: the fewest and shortest rows of tokens that give a batch's features."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from open_clip_fff.config.text import TextSettings
from open_clip_fff.devices import PerDevice
from open_clip_fff.models.text_design import TextDesign, design_of_model

# Each further group of rows is one more pass over the tower's weights and kernels, as expensive as so many tokens; a
# group that saves fewer tokens is not worth it. On a CPU the cost is the weights' gradient once more, above all the
# embedding's, which is as large as the vocabulary. On a GPU it is launches, some 700 in 12 layers forward and backward:
# about 5 ms, in which a base tower encodes several thousand tokens (estimated, not timed yet).
PASS_TOKENS = PerDevice(128, 4096)


class UnpaddedRows(NamedTuple):
    """Rows to encode, in groups of similar length."""

    groups: list[Tensor]  # int64 [n_g, L_g] each, at least one row in all
    source: Tensor  # int64 [n], the index of each row's features in the concatenated groups; -1 for padding


class UnpaddedText:
    """Encodes rows of tokens by a model's own `encode_text`, without padding and each distinct caption once.

    The model is one of OpenCLIP's, or with `design` any other. A text tower that needs its padding is not trimmed.
    """

    def __init__(self, model: nn.Module, settings: TextSettings, design: TextDesign | None = None) -> None:
        self.design: TextDesign = design_of_model(model) if design is None else design
        self.settings = settings

    def __call__(
        self, model: nn.Module, encode: Callable[[Tensor], Tensor], tokens: Tensor, valid: Tensor | None = None
    ) -> Tensor:
        """Features [n, D] of each row of tokens int64 [n, L], zeros where it is padding; arguments as below."""
        return self.encode_rows(model, encode, self.rows(tokens, valid))

    def rows(self, tokens: Tensor, valid: Tensor | None = None) -> UnpaddedRows:
        """The rows to encode of tokens int64 [n, L]; `valid`, bool [n], is False for padding rows, None for none.

        On CUDA this waits for the device: best called while little is queued there.
        """
        if self.settings.as_open_clip:
            return UnpaddedRows([tokens], torch.arange(len(tokens), device=tokens.device))
        if valid is None:
            valid = torch.ones_like(tokens[:, 0], dtype=torch.bool)
        return remove_padding(tokens, valid, self.design, self.settings)

    # Row counts and lengths differ from batch to batch, so torch.compile skips this function, and compiles
    # `encode_text`, as OpenCLIP does, for the lengths that occur.
    @torch.compiler.disable(recursive=False)
    def encode_rows(self, model: nn.Module, encode: Callable[[Tensor], Tensor], rows: UnpaddedRows) -> Tensor:
        """Features [n, D] of each row, zeros where it is padding; the gradients of equal captions add up.

        `model` is the constructor's or a copy of it; `encode` maps int64 [n, L] to features [n, D] by its text tower.
        """
        if self.settings.as_open_clip:
            return encode(rows.groups[0])
        features = []
        for group in rows.groups:
            with short_context(model, group.shape[1]):
                features.append(encode(group))
        return restore_padding(features, rows.source)


@torch.compiler.disable  # its shapes depend on the batch's values, which breaks a compiled graph anew for each shape
def remove_padding(tokens: Tensor, valid: Tensor, design: TextDesign, settings: TextSettings) -> UnpaddedRows:
    """Leaves out padding rows, copies of a caption, and the tokens that its feature does not depend on.

    One row stays where none is valid, so that every rank of DDP reaches the tower's parameters. On CUDA this waits for
    the device, since the shapes depend on the batch. `tokens` are int64 [n, L]; `valid`, bool [n], is False where a row
    is padding.
    """
    places = valid.nonzero().squeeze(1)
    source = torch.full_like(tokens[:, 0], -1)
    rows = tokens[places] if len(places) else tokens[:1]
    copies = torch.arange(len(places), device=tokens.device)
    if settings.distinct:
        rows, inverse = rows.unique(dim=0, return_inverse=True)
        copies = inverse[: len(places)]
    if not settings.trim:
        source[places] = copies
        return UnpaddedRows([rows], source)
    whole = -(-design.lengths(rows) // settings.multiple) * settings.multiple
    lengths, order = whole.clamp(max=tokens.shape[1]).sort(stable=True)
    source[places] = order.argsort()[copies]
    rows, groups, start = rows[order], [], 0
    for size, length in length_groups(lengths.tolist(), settings.groups, PASS_TOKENS.on(tokens.device)):
        groups.append(rows[start : start + size, :length].contiguous())
        start += size
    return UnpaddedRows(groups, source)


@torch.compiler.disable
def restore_padding(features: list[Tensor], source: Tensor) -> Tensor:
    """The groups' features [n_g, ...] in the order of `source`, int64 [n], as [n, ...]; zeros for padding."""
    return torch.cat([*features, torch.zeros_like(features[0][:1])])[source]  # -1 is the last row


def length_groups(lengths: list[int], most: int, pass_tokens: int) -> list[tuple[int, int]]:
    """The cheapest cut of rows in at most `most` groups, as (rows, length) of each.

    A group costs its rows times its longest length, plus `pass_tokens`. Exact, by dynamic programming over the few
    places where the length changes; `lengths` are ascending.
    """
    ends = [i for i in range(1, len(lengths)) if lengths[i] != lengths[i - 1]] + [len(lengths)]
    # by number of rows from the start, in exactly 0, 1, 2, ... groups: the least cost, and the groups
    cheapest: dict[int, tuple[int, list[tuple[int, int]]]] = {0: (0, [])}
    complete = []
    for _ in range(most):
        cheapest = {
            end: min(
                (cost + (end - start) * lengths[end - 1] + pass_tokens, [*groups, (end - start, lengths[end - 1])])
                for start, (cost, groups) in cheapest.items()
                if start < end
            )
            for end in ends
            if min(cheapest) < end
        }
        if len(lengths) not in cheapest:  # there are fewer distinct lengths than groups
            break
        complete.append(cheapest[len(lengths)])
    return min(complete)[1]


@contextmanager
def short_context(model: nn.Module, length: int) -> Iterator[None]:
    """Gives OpenCLIP's text tower the positions and the mask of `length` tokens, and restores them at the end.

    Its forward uses them at full length. A view stands in for the parameter, so that its gradient is zero beyond the
    view; blocks that are recomputed for gradient checkpointing got the mask as an argument, and need neither. A
    Hugging Face tower takes any length.
    """
    tower: Any = getattr(model, "text", model)  # OpenCLIP's `CLIP` has the positions itself
    positions, mask = tower._parameters.get("positional_embedding"), tower._buffers.get("attn_mask")
    if positions is None or length >= tower.context_length:  # a class embedding has one position more
        yield
        return
    short = tower._parameters["positional_embedding"] = positions[:length]
    if mask is not None:
        tower._buffers["attn_mask"] = mask[:length, :length].contiguous()
    try:
        yield
    finally:
        if tower._parameters["positional_embedding"] is short:  # else FSDP2 has put its shard there in between
            tower._parameters["positional_embedding"] = positions
        if mask is not None:
            tower._buffers["attn_mask"] = mask
