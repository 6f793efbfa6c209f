"""The one question and the one number of a step: who is a positive for whom, and what does it cost.

The training loop hands over the model's whole output by keyword. The assignment is made here, not in the model,
because under gradient accumulation only the loss sees the whole batch.
"""

import inspect

from torch import Tensor, nn

from open_clip_fff.assignment.counts import MiningCounts
from open_clip_fff.assignment.labels import known_ids, own_assignment, positions
from open_clip_fff.assignment.mining import Mined, assign, mine
from open_clip_fff.assignment.reference import MiningFeatures
from open_clip_fff.ranks import gather_constant
from open_clip_fff.settings.mining import MiningConfig


class Criterion(nn.Module):
    """Gathers what mining needs, makes the assignment, calls the loss, counts.

    Args:
        loss: a module with the call of `FFFLoss`.
        mining: Eq. 1's settings, or None for own captions only.
        rank: this process's rank.
        world_size: number of ranks.
        accumulation: OpenCLIP's --accum-freq. The loop back-propagates the whole loss once per micro-batch, which
            makes the scalars' gradients that many times too large: they are weighed by its inverse.
    """

    def __init__(
        self, loss: nn.Module, mining: MiningConfig | None, rank: int = 0, world_size: int = 1, accumulation: int = 1
    ) -> None:
        super().__init__()
        self.loss, self.mining, self.rank, self.world_size = loss, mining, rank, world_size
        self.accumulation = accumulation
        self.counts = MiningCounts()
        parameters = inspect.signature(loss.forward).parameters
        self._takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._takes = frozenset(parameters)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        text_valid: Tensor | None = None,
        image_ids: Tensor | None = None,
        output_dict: bool = False,
        **extras: Tensor,
    ) -> Tensor | dict[str, Tensor]:
        """The loss of the global batch.

        Args:
            extras: `text_raw` bool [B, K], which captions are raw; what batch hooks added, [B, ...] each:
                `mining_image_features` [B, D'] and `mining_text_features` [B, K, D'] where pairs are mined, and
                whatever the loss names in its own signature.
        """
        labels, mined = self.assignment(text_features, text_valid, image_ids, **extras)
        self.counts.add(labels, mined)
        value = self.loss(
            image_features=image_features,
            text_features=text_features,
            logit_scale=self._weighed(logit_scale),
            logit_bias=self._weighed(logit_bias),
            text_valid=text_valid,
            image_ids=image_ids,
            assignment=labels,
            **{name: x for name, x in extras.items() if self._takes_all or name in self._takes},
        )
        terms = value if isinstance(value, dict) else {"contrastive_loss": value}
        return terms if output_dict else sum(terms.values())

    def assignment(
        self,
        text_features: Tensor,
        text_valid: Tensor | None = None,
        image_ids: Tensor | None = None,
        text_raw: Tensor | None = None,
        mining_image_features: Tensor | None = None,
        mining_text_features: Tensor | None = None,
        **_: Tensor,
    ) -> tuple[Tensor, Mined | None]:
        """The assignment of this rank's images, int8 [B, N, K], and the pairs mined for it."""
        size, k = text_features.shape[:2]
        valid = text_features.new_ones((size, k)).bool() if text_valid is None else text_valid
        ids = positions(size, self.rank, valid.device) if image_ids is None else known_ids(image_ids, self.rank)
        all_ids, all_valid = gather_constant(ids, self.world_size), gather_constant(valid, self.world_size)
        if self.mining is None:
            return own_assignment(ids, all_ids, all_valid), None
        if mining_image_features is None or mining_text_features is None:
            raise ValueError("mining needs mining_image_features and mining_text_features, which a batch hook adds")
        rows = MiningFeatures(mining_image_features, mining_text_features, valid, ids)
        columns = MiningFeatures(
            gather_constant(mining_image_features, self.world_size),
            gather_constant(mining_text_features, self.world_size),
            all_valid,
            all_ids,
        )
        mined = self._mine(rows, columns, text_raw)
        return assign(rows, columns, mined, self.mining.mined_as), mined

    def _mine(self, rows: MiningFeatures, columns: MiningFeatures, text_raw: Tensor | None) -> Mined:
        """Eq. 1, over generated captions alone where the settings leave raw ones out."""
        assert self.mining is not None
        if text_raw is not None and not self.mining.raw:
            rows = rows._replace(valid=rows.valid & ~text_raw)
            columns = columns._replace(valid=columns.valid & ~gather_constant(text_raw, self.world_size))
        return mine(rows, columns, self.mining)

    def _weighed(self, scalar: Tensor | None) -> Tensor | None:
        """The same number, its gradient divided by the accumulation."""
        if scalar is None or self.accumulation == 1 or not scalar.requires_grad:
            return scalar
        copy = scalar.clone()
        copy.register_hook(lambda gradient: gradient / self.accumulation)
        return copy
