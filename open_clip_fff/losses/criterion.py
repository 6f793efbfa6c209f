"""The one question and the one number of a step: who is a positive for whom, and what does it cost.

The training loop hands over the model's whole output by keyword. The assignment is made here, not in the model,
because under gradient accumulation only the loss sees the whole batch.
"""

import inspect

from torch import Tensor, nn

from open_clip_fff.assignment.counts import MiningCounts
from open_clip_fff.assignment.labels import IGNORED, as_labels, known_ids, own_assignment, positions
from open_clip_fff.assignment.miner import Miner
from open_clip_fff.assignment.mining import Mined, assign
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
        online: whether the trained model's own features mine; else a batch hook adds those that do.
    """

    def __init__(
        self,
        loss: nn.Module,
        mining: MiningConfig | None,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        online: bool = False,
    ) -> None:
        super().__init__()
        self.loss, self.rank, self.world_size, self.accumulation = loss, rank, world_size, accumulation
        self.miner, self.online = None if mining is None else Miner(mining, rank, world_size), online
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
            extras: `text_raw` bool [B, K], which captions are raw; `image_classes` int64 [B] (negative: unknown), by
                which mined pairs are judged; what batch hooks added, [B, ...] each: `mining_image_features` [B, D']
                and `mining_text_features` [B, K, D'], and whatever the loss names in its own signature.
        """
        labels, mined = self.assignment(image_features, text_features, text_valid, image_ids, **extras)
        self.counts.add(labels, mined, self._agreement(extras.get("image_classes")))
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
        image_features: Tensor,
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
        mined = None
        if self.miner is not None and self.miner.watching:
            if self.online:
                mining_image_features, mining_text_features = image_features.detach(), text_features.detach()
            if mining_text_features is None:
                raise ValueError("mining needs mining_text_features, which a batch hook adds")
            used, all_used = valid, all_valid
            if text_raw is not None and not self.miner.config.raw:  # Eq. 1 over generated captions alone
                used = valid & ~text_raw
                all_used = gather_constant(used, self.world_size)
            image, text = mining_image_features, mining_text_features
            all_image = None if image is None else gather_constant(image, self.world_size)
            mined = self.miner(
                MiningFeatures(image, text, used, ids),
                MiningFeatures(all_image, gather_constant(text, self.world_size), all_used, all_ids),
            )
        if mined is None or self.miner is None:
            return own_assignment(ids, all_ids, all_valid), None
        return assign(ids, all_ids, all_valid, mined, self.miner.config.mined_as), mined

    def after_step(self) -> None:
        """The optimizer has stepped: called once per step, on every rank."""
        if self.miner is not None:
            self.miner.after_step()

    def _agreement(self, classes: Tensor | None) -> Tensor | None:
        """Which images have the same class, int8 [B, N]: +1 the same, -1 another, 0 unknown; None without classes."""
        if classes is None:
            return None
        rows, columns = classes[:, None], gather_constant(classes, self.world_size)
        return as_labels(rows == columns).masked_fill((rows < 0) | (columns < 0), IGNORED)

    def _weighed(self, scalar: Tensor | None) -> Tensor | None:
        """The same number, its gradient divided by the accumulation."""
        if scalar is None or self.accumulation == 1 or not scalar.requires_grad:
            return scalar
        copy = scalar.clone()
        copy.register_hook(lambda gradient: gradient / self.accumulation)
        return copy
