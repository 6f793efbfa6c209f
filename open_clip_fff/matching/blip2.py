"""BLIP-2 (arXiv 2301.12597) as transformers has it, by the parts of `Blip2ForImageTextRetrieval.forward`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.matching.model import MatchingModel


class Blip2(MatchingModel):
    """A Q-Former, whose learned queries look at the image and at the text; the mean of what they say is matched."""

    kind = "blip2"

    @property
    def text_config(self) -> Any:
        return self.model.config.qformer_config

    def encode(self, pixels: Tensor) -> Tensor:
        return self.model.vision_model(pixel_values=pixels).last_hidden_state

    def match(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        queries = self._queries(states)
        fused = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=ids, query_embeds=queries),
            query_length=queries.shape[1],
            attention_mask=torch.cat([mask.new_ones(queries.shape[:2]), mask], dim=1),
            encoder_hidden_states=states,
        ).last_hidden_state
        return self.model.itm_head(fused[:, : queries.shape[1]]).mean(dim=1)

    def align(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The cosine of a caption with the query that is most like it."""
        seen = self.model.qformer(query_embeds=self._queries(states), encoder_hidden_states=states).last_hidden_state
        read = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=ids), query_length=0, attention_mask=mask
        ).last_hidden_state[:, 0]
        images = F.normalize(self.model.vision_projection(seen).float(), dim=-1)  # [U, queries, E]
        texts = F.normalize(self.model.text_projection(read).float(), dim=-1)  # [P, E]
        return (images @ texts.T).amax(dim=1)

    def _queries(self, states: Tensor) -> Tensor:
        return self.model.query_tokens.expand(len(states), -1, -1)
