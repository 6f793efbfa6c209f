"""The text tower on packed captions: shorter than OpenCLIP's towers take, each once, without padding."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from open_clip_fff.config.text import TextSettings
from open_clip_fff.models.text_design import TextDesign, design_of_model, text_tower
from open_clip_fff.models.unpadded_text import pack, unpack


class FewTokens:
    """Encodes rows of tokens by a model's own `encode_text`, and computes only what the features depend on.

    Args:
        model: an OpenCLIP model, or one of transformers; what its text tower does not allow is left whole.
        settings: what may be left out.
        design: of its text tower; None for what shows in an OpenCLIP model.
    """

    def __init__(self, model: nn.Module, settings: TextSettings, design: TextDesign | None = None) -> None:
        self.design: TextDesign = design_of_model(model) if design is None else design
        self.settings = settings

    # Row counts and lengths differ from batch to batch: torch.compile leaves this function alone, and compiles
    # `encode_text`, as of OpenCLIP, for the lengths that it meets.
    @torch.compiler.disable(recursive=False)
    def __call__(self, model: nn.Module, encode: Callable[[Tensor], Tensor], tokens: Tensor, valid: Tensor) -> Tensor:
        """Features of each row, zeros where it is padding.

        Args:
            model: whose text tower it is (the one given first, or a copy).
            encode: int64 [n, L] to features [n, D], by that tower.
            tokens: int64 [n, L].
            valid: bool [n], False where a row is padding.

        Returns:
            [n, D], with gradient where `encode` has it; that of equal captions comes back added up.
        """
        if self.settings.whole:
            return encode(tokens)
        groups, source = pack(tokens, valid, self.design, self.settings)
        features = []
        for group in groups:
            with shortened(model, group.shape[1]):
                features.append(encode(group))
        return unpack(features, source)


@contextmanager
def shortened(model: nn.Module, length: int) -> Iterator[None]:
    """Gives OpenCLIP's text tower the positions and the mask of `length` tokens, and the whole ones back at the end.

    Its forward uses them whole. A view of the parameter stands in for it, so that its gradient is zero beyond the view;
    blocks that are computed again for gradient checkpointing got the mask as an argument, and need neither. A Hugging
    Face tower takes any length.
    """
    tower: Any = text_tower(model)
    positions, mask = tower._parameters.get("positional_embedding"), tower._buffers.get("attn_mask")
    if positions is None or length >= tower.context_length:  # a class embedding has one position more
        yield
        return
    tower._parameters["positional_embedding"] = positions[:length]
    if mask is not None:
        tower._buffers["attn_mask"] = mask[:length, :length].contiguous()
    try:
        yield
    finally:
        tower._parameters["positional_embedding"] = positions
        if mask is not None:
            tower._buffers["attn_mask"] = mask
