"""The fusion model: a transformer whose text tokens attend to an image's, with heads for matching and masked tokens.

It is the multimodal half of ALBEF (arXiv 2107.07651), GRIT-VLP and MAFA, on the tokens of OpenCLIP's towers. Unlike
theirs, it follows the text tower's last layer instead of a middle one, starts from random weights, and has no dropout.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_clip_fff.errors import UsageError
from open_clip_fff.hub.fusion_files import TASK, read_fusion

HEAD_WIDTH = 64


def width_for(text_width: int) -> int:
    """The text tower's width, rounded down to whole attention heads."""
    return text_width if text_width < 2 * HEAD_WIDTH else text_width // HEAD_WIDTH * HEAD_WIDTH


@dataclass(frozen=True)
class FusionSizes:
    """The network's sizes."""

    layers: int  # of the transformer
    width: int  # of the transformer
    image_width: int  # of the towers' tokens
    text_width: int  # of the towers' tokens
    vocabulary: int = 0  # tokens that the masked-language head tells apart; 0 for no such head

    @property
    def tied(self) -> bool:
        """Whether the masked-language head's weights are the text tower's embedding, as in BERT."""
        return self.vocabulary > 0 and self.width == self.text_width


class Fusion(nn.Module):
    """Fuses each caption's tokens with an image's.

    Example:
        >>> fusion = Fusion(FusionSizes(layers=1, width=32, image_width=48, text_width=32))
        >>> image, text = torch.randn(4, 10, 48), torch.randn(4, 7, 32)
        >>> states = fusion(image, text, torch.ones(4, 7, dtype=torch.bool))
        >>> fusion.match(states, torch.full((4,), 6)).shape  # the caption's own position
        torch.Size([4, 2])
    """

    def __init__(self, sizes: FusionSizes) -> None:
        from transformers.models.blip.configuration_blip import BlipTextConfig
        from transformers.models.blip.modeling_blip_text import BlipTextModel, BlipTextPredictionHeadTransform

        super().__init__()
        self.sizes = sizes
        config = BlipTextConfig(
            vocab_size=1,
            hidden_size=sizes.width,
            encoder_hidden_size=sizes.image_width,
            intermediate_size=4 * sizes.width,
            num_hidden_layers=sizes.layers,
            num_attention_heads=max(sizes.width // HEAD_WIDTH, 1),
            max_position_embeddings=1,
            is_decoder=True,  # else it has no cross-attention
            **dict.fromkeys(("bos_token_id", "eos_token_id", "sep_token_id")),  # type: ignore[arg-type]
        )
        self.project = nn.Linear(sizes.text_width, sizes.width) if sizes.text_width != sizes.width else nn.Identity()
        self.transformer = BlipTextModel(config, add_pooling_layer=False)
        self.transformer.embeddings = nn.Identity()  # type: ignore[assignment]  # the text tower has embedded the tokens
        self.itm_head = nn.Linear(sizes.width, 2)
        if sizes.vocabulary:
            self.mlm_transform = BlipTextPredictionHeadTransform(config)
            self.mlm_bias = nn.Parameter(torch.zeros(sizes.vocabulary))
            if not sizes.tied:
                self.mlm_decoder = nn.Linear(sizes.width, sizes.vocabulary, bias=False)

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """States [P, L, W] of P pairs.

        Args:
            image: tokens [P, T, image width].
            text: tokens [P, L, text width].
            mask: bool [P, L], which tokens belong to the caption.
        """
        if not torch.is_autocast_enabled(image.device.type):  # towers in half precision, as of --precision pure_bf16
            image, text = (tokens.to(self.itm_head.weight.dtype) for tokens in (image, text))
        return self.transformer(
            encoder_embeds=self.project(text),
            attention_mask=mask.long(),
            encoder_hidden_states=image,
            is_decoder=False,  # every token sees all others
        ).last_hidden_state

    def own(self, states: Tensor, pooled: Tensor) -> Tensor:
        """The states [P, W] at the captions' pooled positions, int64 [P], from states [P, L, W]."""
        return states[torch.arange(len(states), device=states.device), pooled]

    def match(self, states: Tensor, pooled: Tensor) -> Tensor:
        """Logits [P, 2], no match and match, of states [P, L, W] at the captions' pooled positions, int64 [P]."""
        return self.itm_head(self.own(states, pooled))

    def predict(self, states: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Logits [m, vocabulary] of masked tokens' states [m, W]; `embedding` is the text tower's, where tied."""
        states = self.mlm_transform(states)
        if not self.sizes.tied:
            return self.mlm_decoder(states) + self.mlm_bias
        assert embedding is not None
        return F.linear(states, embedding.to(self.mlm_bias.dtype), self.mlm_bias)


class FusionSlot(nn.Module):
    """Holds a fusion model in an OpenCLIP model: optimizer and DDP see it, the state dict does not contain it.

    So a run's checkpoints load in stock OpenCLIP.
    """

    def __init__(self, network: Fusion) -> None:
        super().__init__()
        self.network = network
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_pre_hook(_fill_in)


def _leave_out(_slot: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]


def _fill_in(slot: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(slot, FusionSlot)
    state.update({f"{prefix}network.{name}": value for name, value in slot.network.state_dict().items()})


def check_match_head(path: Path, where: str) -> None:
    """Raises UsageError for a folder that `vqa` or `nlvr2` wrote; `where` begins the line."""
    if (path / TASK).is_file():
        raise UsageError(
            f"{where}: was fine-tuned for VQA or NLVR2, which does not train its ITM head along; name the model that "
            f"it was fine-tuned from"
        )


def load_fusion(path: Path) -> Fusion:
    """The fusion model of an exported folder, a run or a checkpoint, on the CPU, in eval mode and frozen.

    Raises:
        UsageError: if there is none, or it cannot be read.
    """
    saved = read_fusion(path)
    try:
        network = Fusion(FusionSizes(**saved.sizes))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: its fusion model has sizes that do not go together ({error})") from error
    load_fusion_weights(network, saved.weights, str(path))
    return network.eval().requires_grad_(False)


def load_fusion_weights(fusion: Fusion, weights: Mapping[str, Tensor], source: str) -> None:
    """Loads `Fusion.state_dict()`. Raises UsageError if it is another network's; `source` names it."""
    if fusion.sizes.vocabulary and "mlm_bias" not in weights:
        raise UsageError(
            f"{source}: its fusion model was trained without masked language modelling, and has no head for it; use "
            f"--mlm-weight 0, or name another one"
        )
    try:
        fusion.load_state_dict(dict(weights))
    except RuntimeError as error:
        message = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{source}: its fusion model is another one, by --fusion-layers, --fusion-width or --model ({message}…)"
        ) from error
