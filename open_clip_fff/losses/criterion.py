"""The one question and the one number of a step: who is a positive for whom, and what does it cost.

The training loop hands over the model's whole output by keyword. The assignment is made here, not in the model,
because under gradient accumulation only the loss sees the whole batch.
"""

import inspect

from torch import Tensor, nn

from open_clip_fff.assignment.counts import MiningCounts
from open_clip_fff.assignment.labels import IGNORED, as_labels, known_ids, positions
from open_clip_fff.assignment.miner import Miner
from open_clip_fff.assignment.mining import Mined, assign
from open_clip_fff.assignment.reference import MiningFeatures
from open_clip_fff.assignment.tiles import ALL, Assignment, GivenLabels, OwnCaptions, Watch
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
        self._by_tiles = getattr(loss, "by_tiles", False)  # else it wants int8 [B, N, K]

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
        watch = self._counter(extras.get("image_classes"))
        labels = self.assignment(image_features, text_features, text_valid, image_ids, watch=watch, **extras)
        value = self.loss(
            image_features=image_features,
            text_features=text_features,
            logit_scale=self._weighed(logit_scale),
            logit_bias=self._weighed(logit_bias),
            text_valid=text_valid,
            image_ids=image_ids,
            assignment=labels if self._by_tiles else labels.tile(),
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
        watch: Watch | None = None,
        **_: Tensor,
    ) -> Assignment:
        """The assignment of this rank's images, worked out for each tile that is asked for.

        A guarded miner must see all pairs before it can say which are the best, and makes the whole of it at once.

        Args:
            watch: is shown each part of it that is made.
        """
        size, k = text_features.shape[:2]
        valid = text_features.new_ones((size, k)).bool() if text_valid is None else text_valid
        ids = positions(size, self.rank, valid.device) if image_ids is None else known_ids(image_ids, self.rank)
        all_ids, all_valid = gather_constant(ids, self.world_size), gather_constant(valid, self.world_size)
        own = OwnCaptions(ids, all_ids, all_valid, watch)
        if self.miner is None or not self.miner.watching:
            return own
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
        rows = MiningFeatures(image, text, used, ids)
        columns = MiningFeatures(all_image, gather_constant(text, self.world_size), all_used, all_ids)
        if not self.miner.config.guarded:
            return self.miner.by_tiles(own, rows, columns, watch)
        mined = self.miner(rows, columns)
        if mined is None:
            return own
        labels = assign(ids, all_ids, all_valid, mined, self.miner.config.mined_as)
        if watch is not None:
            watch(ALL, ALL, labels, mined)
        return GivenLabels(labels, all_valid)

    def after_step(self) -> None:
        """The optimizer has stepped: called once per step, on every rank."""
        if self.miner is not None:
            self.miner.after_step()

    def _counter(self, classes: Tensor | None) -> Watch:
        """Counts each tile, or the whole: an image once, in its first columns.

        Args:
            classes: int64 [B], negative where not known; None where none are.
        """
        all_classes = None if classes is None else gather_constant(classes, self.world_size)

        def watch(rows: slice, columns: slice, labels: Tensor, mined: Mined | None) -> None:
            agreement = None
            if classes is not None and all_classes is not None:
                ours, theirs = classes[rows][:, None], all_classes[columns]
                agreement = as_labels(ours == theirs).masked_fill((ours < 0) | (theirs < 0), IGNORED)
            self.counts.add(labels, mined, agreement, rows=0 if columns.start else len(labels))

        return watch

    def _weighed(self, scalar: Tensor | None) -> Tensor | None:
        """The same number, its gradient divided by the accumulation."""
        if scalar is None or self.accumulation == 1 or not scalar.requires_grad:
            return scalar
        copy = scalar.clone()
        copy.register_hook(lambda gradient: gradient / self.accumulation)
        return copy
