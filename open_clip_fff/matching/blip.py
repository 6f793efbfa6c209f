"""BLIP (arXiv 2201.12086) and BLIP-2 (arXiv 2301.12597) of transformers, by the parts of their retrieval models."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.matching.model import MatchingModel


class Blip(MatchingModel):
    """A text encoder with cross-attention to the image; the matching head reads its first token."""

    kind = "blip"

    @property
    def text_config(self) -> Any:
        return self.model.config.text_config

    def match(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        fused = self.model.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=states)
        return self.model.itm_head(fused.last_hidden_state[:, 0])

    def align(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        texts = self.model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        images = F.normalize(self.model.vision_proj(states[:, 0]).float(), dim=-1)
        return images @ F.normalize(self.model.text_proj(texts).float(), dim=-1).T


class Blip2(MatchingModel):
    """A Q-Former, whose learned queries attend to image and text; the head's logits are averaged over the queries."""

    kind = "blip2"

    @property
    def text_config(self) -> Any:
        return self.model.config.qformer_config

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
        """The cosine of each caption with the image's most similar query."""
        image = self.model.qformer(query_embeds=self._queries(states), encoder_hidden_states=states).last_hidden_state
        text = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=ids), query_length=0, attention_mask=mask
        ).last_hidden_state[:, 0]
        images = F.normalize(self.model.vision_projection(image).float(), dim=-1)  # [U, queries, E]
        texts = F.normalize(self.model.text_projection(text).float(), dim=-1)  # [P, E]
        return (images @ texts.T).amax(dim=1)

    def _queries(self, states: Tensor) -> Tensor:
        return self.model.query_tokens.expand(len(states), -1, -1)
