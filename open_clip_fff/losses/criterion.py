"""The one question and the one number of a step: who is a positive for whom, and what does it cost.

The training loop hands over the model's whole output by keyword. The assignment is made here, not in the model,
because under gradient accumulation only the loss sees the whole batch.
"""

import inspect
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.mining.assign import make_assignment, own_text_block
from open_clip_fff.mining.clauses import Mined
from open_clip_fff.mining.connections import ConnectionMiner
from open_clip_fff.mining.counts import MiningCounts, RunningSums
from open_clip_fff.mining.global_texts import TextBlock
from open_clip_fff.mining.labels import IGNORED, as_labels
from open_clip_fff.mining.miner import Miner
from open_clip_fff.mining.reference import MiningFeatures, pooled_text
from open_clip_fff.mining.tiles import Assignment, TileCallback
from open_clip_fff.normalised import FirstCall
from open_clip_fff.numerics import only_finite


@runtime_checkable
class ChangesByEpoch(Protocol):
    """A loss that is told when an epoch begins."""

    def set_epoch(self, epoch: int) -> None: ...


class Criterion(nn.Module):
    """Brings together what mining needs, makes the assignment, calls the loss, counts.

    Args:
        loss: a module with the call of `FFFLoss`.
        mining: Eq. 1's settings, or None for own captions only.
        rank: this process's rank.
        world_size: number of ranks.
        accumulation: OpenCLIP's --accum-freq. The loop back-propagates the whole loss once per micro-batch, which
            makes the scalars' gradients that many times too large: they are weighed by its inverse.
        online: whether the trained model's own features mine; else a batch hook adds those that do.

    Attributes:
        connections: has hardest negatives judged; None where nobody asks for it.
        remembers: whether somebody will ask for `last`.
        not_finite: images and captions whose mining features held NaN or infinity, once for each micro-batch of a step.
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
        self.connections: ConnectionMiner | None = None
        self.counts = MiningCounts()
        self.not_finite = RunningSums(2)
        self._check = FirstCall()
        self.remembers = False
        self._last: tuple[Tensor, Tensor, Tensor, Tensor | None] | None = None
        parameters = inspect.signature(loss.forward).parameters
        self._takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._takes = frozenset(parameters)
        self._by_tiles = getattr(loss, "by_tiles", False)  # else it wants int8 [B, N, K]
        self._ring = getattr(loss, "dist_impl", "gather") == "ring"

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
                and `mining_text_features` [B, K, D'], `caption_hashes` int64 [B, K] for a discriminator, and whatever
                the loss names in its own signature.
        """
        if self.remembers and image_ids is not None:
            self._last = image_ids, image_features.detach(), text_features.detach(), text_valid
        on_tile = self._counter(extras.get("image_classes"))
        options: dict[str, Any] = {"on_tile": on_tile, **extras}
        labels = self.assignment(image_features, text_features, text_valid, image_ids, **options)
        value = self.loss(
            image_features=image_features,
            text_features=text_features,
            logit_scale=self._weighed(logit_scale),
            logit_bias=self._weighed(logit_bias),
            text_valid=text_valid,
            image_ids=image_ids,
            assignment=labels if self._by_tiles else labels.to_tensor(),
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
        image_classes: Tensor | None = None,
        mining_image_features: Tensor | None = None,
        mining_text_features: Tensor | None = None,
        caption_hashes: Tensor | None = None,
        on_tile: TileCallback | None = None,
        foreseen: bool = False,
        **_: Tensor,
    ) -> Assignment:
        """The assignment of this rank's images, worked out for each tile that is asked for.

        Args:
            on_tile: is shown each part of it that is made.
            foreseen: whether to mine as it will be once the warm-up is over.

        Raises:
            ValueError: where mining features first come, if they are not L2-normalised.
        """
        size, valid = len(text_features), _valid(text_features, text_valid)
        self._check(valid, mining_image_features=mining_image_features, mining_text_features=mining_text_features)
        own = own_text_block(valid, image_ids, self.rank, classes=image_classes, captions=caption_hashes)
        if self.online:
            mining_image_features, mining_text_features = image_features.detach(), text_features.detach()
        used = valid
        if mining_text_features is not None:
            mining_text_features, captions = only_finite(mining_text_features)
            images = captions.new_ones(size)
            if mining_image_features is not None:
                mining_image_features, images = only_finite(mining_image_features)
            used = valid & captions & images[:, None]
            if on_tile is not None:
                self.not_finite.add_sums(torch.stack([(~images).sum(), (valid & ~captions).sum()]))
        if self.connections is not None:
            gate = None
            if mining_image_features is not None and mining_text_features is not None:
                gate = mining_image_features, mining_text_features
            own = self.connections(image_features, text_features, own, gate, counting=on_tile is not None)
        # Eq. 1 over generated captions alone, if told so
        if self.miner is not None and text_raw is not None and not self.miner.config.raw:
            used = used & ~text_raw
        mine = None
        if self.miner is not None and (foreseen or self.miner.watching):
            if mining_text_features is None:
                raise ValueError("mining needs mining_text_features, which a batch hook adds")
            own = own._replace(features=MiningFeatures(mining_image_features, mining_text_features, used, own.ids))
            mine = self.miner.foreseen if foreseen else self.miner
        return make_assignment(own, self.rank, self.world_size, self._ring, mine, on_tile)

    def last(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Ids, image features and pooled text features of this rank's last batch, without gradient, if remembered."""
        if self._last is None:
            return None
        ids, image, text, valid = self._last
        return ids, image, pooled_text(text, _valid(text, valid))

    def set_epoch(self, epoch: int) -> None:
        """An epoch begins, from 0."""
        if self.connections is not None:
            self.connections.set_epoch(epoch)
        if isinstance(self.loss, ChangesByEpoch):
            self.loss.set_epoch(epoch)

    def after_step(self) -> None:
        """The optimizer has stepped: called once per step, on every rank."""
        if self.miner is not None:
            self.miner.after_step()

    def _counter(self, classes: Tensor | None) -> TileCallback:
        """Counts each tile, and an image once, in its first columns.

        Args:
            classes: int64 [B], negative where not known; None where none are.
        """

        def on_tile(rows: slice, columns: TextBlock, labels: Tensor, mined: Mined | None) -> None:
            agreement = None
            if classes is not None and columns.classes is not None:
                ours, theirs = classes[rows][:, None], columns.classes
                agreement = as_labels(ours == theirs).masked_fill((ours < 0) | (theirs < 0), IGNORED)
            self.counts.add(labels, mined, agreement, rows=0 if columns.offset else len(labels))

        return on_tile

    def _weighed(self, scalar: Tensor | None) -> Tensor | None:
        """The same number, its gradient divided by the accumulation."""
        if scalar is None or self.accumulation == 1 or not scalar.requires_grad:
            return scalar
        copy = scalar.clone()
        copy.register_hook(lambda gradient: gradient / self.accumulation)
        return copy


def _valid(text: Tensor, valid: Tensor | None) -> Tensor:
    """bool [B, K]; all of text [B, K, D] where nothing else is said."""
    return text.new_ones(text.shape[:2]).bool() if valid is None else valid
