"""BLIP (arXiv 2201.12086) as transformers has it, by the parts of `BlipForImageTextRetrieval.forward`."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.matching.model import MatchingModel


class Blip(MatchingModel):
    """A text encoder whose layers look at the image; its first token's state is matched."""

    kind = "blip"

    @property
    def text_config(self) -> Any:
        return self.model.config.text_config

    def encode(self, pixels: Tensor) -> Tensor:
        return self.model.vision_model(pixel_values=pixels).last_hidden_state

    def match(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        fused = self.model.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=states)
        return self.model.itm_head(fused.last_hidden_state[:, 0])

    def align(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        texts = self.model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        images = F.normalize(self.model.vision_proj(states[:, 0]).float(), dim=-1)
        return images @ F.normalize(self.model.text_proj(texts).float(), dim=-1).T
