"""A step's loss: makes the assignment from mining features, calls the loss on it, and counts what was mined.

OpenCLIP's loop hands over the model's whole output by keyword. The assignment is made here and not in the model,
because under gradient accumulation only the loss sees the whole batch.
"""

import inspect
import logging
from typing import Any

import torch
from torch import Tensor, nn

from open_clip_fff import renamed
from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.errors import UsageError
from open_clip_fff.losses.fusion import FusionLoss
from open_clip_fff.mining.assign import make_assignment, own_text_block
from open_clip_fff.mining.connections import ConnectionMiner
from open_clip_fff.mining.counts import MiningCounts, RunningSums
from open_clip_fff.mining.given import GivenPairs
from open_clip_fff.mining.global_texts import TextBlock
from open_clip_fff.mining.labels import IGNORED, NEGATIVE, all_valid, as_labels
from open_clip_fff.mining.miner import Miner
from open_clip_fff.mining.reference import MiningFeatures, pooled_text
from open_clip_fff.mining.tiles import Assignment, Tile, TileCallback
from open_clip_fff.normalised import FirstCall
from open_clip_fff.numerics import only_finite


class Criterion(nn.Module):
    """Makes the assignment, calls the loss, counts.

    Args:
        loss: called with `assignment` and `Criterion.forward`'s arguments by keyword, those that its signature names.
        mining: Eq. 1's settings; None for own captions only.
        accumulation: OpenCLIP's --accum-freq. The loop back-propagates the whole loss once per micro-batch, so the
            gradients of scale and bias come out that many times too large: they are divided by it.
        online: whether to mine with the trained model's own features; else a batch hook adds the mining features.
        given: which images the user pairs; None for none.

    Attributes:
        connections: labels the hardest negatives; None without a discriminator.
        fusion: matching and masked language modelling by a fusion model; None without one.
        keep_last: whether `last_batch` is needed.
        not_finite: number of images and of captions whose mining features held NaN or infinity; a step counts each once
            per micro-batch.
    """

    def __init__(
        self,
        loss: nn.Module,
        mining: MiningConfig | None,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        online: bool = False,
        given: GivenPairs | None = None,
    ) -> None:
        super().__init__()
        self.loss, self.rank, self.world_size, self.accumulation = loss, rank, world_size, accumulation
        self.miner, self.online = None if mining is None else Miner(mining, rank, world_size), online
        self.given = given
        self.connections: ConnectionMiner | None = None
        self.fusion: FusionLoss | None = None
        self.counts = MiningCounts()
        self.not_finite = RunningSums(2)
        self.keep_last = False
        self._last: tuple[Tensor, Tensor, Tensor, Tensor | None] | None = None
        self._check = FirstCall()
        parameters = inspect.signature(loss.forward).parameters
        self._takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._takes = frozenset(parameters)
        self._old_name = renamed.has_old_name(self._takes)
        if self._old_name and rank == 0:
            logging.warning(renamed.warning(type(loss).__name__))
        self._by_tiles = getattr(loss, "by_tiles", False)  # else the loss gets int8 [B, N, K]
        self._ring = getattr(loss, "dist_impl", "gather") == "ring"

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
        **more: Any,
    ) -> Tensor | dict[str, Tensor]:
        """The loss of the global batch.

        Args:
            image_features, text_features, logit_scale, logit_bias: as `FFFLoss`.
            output_dict: whether to return the loss's terms by name.
            more: `caption_valid` and `image_ids`, as `FFFLoss`; `text_raw` bool [B, K], which captions are raw;
                `image_classes` int64 [B] (negative: unknown), for statistics; `positive_keys` and `row_ids`, int64 [B]
                (negative: none), by which the user pairs images; what batch hooks added, [B, ...] each:
                `mining_image_features` [B, D'] and `mining_text_features` [B, K, D'], `caption_hashes` int64 [B, K]
                for a discriminator, and whatever the loss names.
        """
        valid, ids = more.get("caption_valid"), more.get("image_ids")
        if self.keep_last and ids is not None:
            self._last = ids, image_features.detach(), text_features.detach(), valid
        assignment = self.assignment(image_features, text_features, on_tile=self._count, **more)
        given: dict[str, Any] = {
            "image_features": image_features,
            "text_features": text_features,
            "logit_scale": self._divided_gradient(logit_scale),
            "logit_bias": self._divided_gradient(logit_bias),
            "assignment": assignment if self._by_tiles else assignment.to_tensor(),
            "caption_valid": valid,
            "image_ids": ids,
            **more,
        }
        if self._old_name:
            given[renamed.OLD] = valid
        value = self.loss(**{name: x for name, x in given.items() if self._takes_all or name in self._takes})
        terms = self._terms(value)
        if self.fusion is not None:
            labelled = None if self.connections is None else self.connections.last
            more |= {"labelled": labelled, "negatives": self._negatives(assignment.global_texts.own)}
            terms = {**terms, **self.fusion(image_features, text_features, logit_scale, **more)}
        return terms if output_dict else sum(terms.values())

    def assignment(
        self,
        image_features: Tensor,
        text_features: Tensor,
        caption_valid: Tensor | None = None,
        text_raw: Tensor | None = None,
        mining_image_features: Tensor | None = None,
        mining_text_features: Tensor | None = None,
        image_ids: Tensor | None = None,
        image_classes: Tensor | None = None,
        caption_hashes: Tensor | None = None,
        positive_keys: Tensor | None = None,
        row_ids: Tensor | None = None,
        on_tile: TileCallback | None = None,
        skip_warmup: bool = False,
        **_: Any,
    ) -> Assignment:
        """The assignment of this rank's images; each tile is computed when it is read.

        Args:
            on_tile: called with each tile that is computed.
            skip_warmup: whether to mine as if the warm-up were over, to estimate the initial bias.

        Raises:
            ValueError: if mining needs features that are missing, or if the first ones are not L2-normalised.
        """
        valid = all_valid(text_features) if caption_valid is None else caption_valid
        own = own_text_block(
            valid,
            image_ids,
            self.rank,
            classes=image_classes,
            captions=caption_hashes,
            keys=positive_keys,
            rows=row_ids,
        )
        self._check(own.valid, mining_image_features=mining_image_features, mining_text_features=mining_text_features)
        if self.online:
            mining_image_features, mining_text_features = image_features.detach(), text_features.detach()
        features = None
        if mining_text_features is not None:
            features = self._finite(mining_image_features, mining_text_features, own, counting=on_tile is not None)
        if self.connections is not None:
            counting, negatives = on_tile is not None, self._negatives(own)
            own = self.connections(image_features, text_features, own, features, counting, negatives)
        mine = None
        if self.miner is not None and (skip_warmup or self.miner.needs_features):
            if features is None:
                raise ValueError("mining needs mining_text_features, which a batch hook adds")
            if text_raw is not None and not self.miner.config.raw:  # Eq. 1 over generated captions alone
                features = features._replace(valid=features.valid & ~text_raw)
            own = own._replace(features=features)
            mine = self.miner.without_warmup if skip_warmup else self.miner
        return make_assignment(own, self.rank, self.world_size, self._ring, mine, on_tile, self.given)

    def last_batch(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Ids, image features and pooled text features of this rank's last batch, without gradient, if kept."""
        if self._last is None:
            return None
        ids, image, text, valid = self._last
        return ids, image, pooled_text(text, all_valid(text) if valid is None else valid)

    def set_epoch(self, epoch: int) -> None:
        """Called when an epoch begins, counted from 0."""
        if self.connections is not None:
            self.connections.set_epoch(epoch)
        if (set_epoch := getattr(self.loss, "set_epoch", None)) is not None:  # a loss may use the epoch, as S-ITC does
            set_epoch(epoch)

    def after_step(self) -> None:
        """Called on every rank after each optimizer step."""
        if self.miner is not None:
            self.miner.after_step()

    def _terms(self, value: Any) -> dict[str, Any]:
        """The loss's terms by name. Raises UsageError for one that is no scalar, or is not named as a loss."""
        terms = value if isinstance(value, dict) else {"contrastive_loss": value}
        for name, term in terms.items():
            found = list(term.shape) if isinstance(term, Tensor) else type(term).__name__
            if found:
                raise UsageError(f"--loss: {type(self.loss).__name__} gave {name} {found}: a term is a scalar tensor")
            if not name.endswith("_loss"):
                raise UsageError(
                    f"--loss: {type(self.loss).__name__} gave {name}, and all that it gives are added up: drop it, or "
                    f"name it {name}_loss if it is one of the loss's terms"
                )
        return terms

    def _negatives(self, own: TextBlock) -> Tensor | None:
        """This rank's pairs of images that may be hard negatives, bool [B, B]; None for all."""
        return None if self.given is None else self.given.labels(own, own) == NEGATIVE

    def _finite(self, image: Tensor | None, text: Tensor, own: TextBlock, counting: bool) -> MiningFeatures:
        """Mining features, in which images and captions with NaN or infinity are marked as not valid."""
        text, captions = only_finite(text)
        images = captions.new_ones(len(text))
        if image is not None:
            image, images = only_finite(image)
        if counting:
            self.not_finite.add_sums(torch.stack([(~images).sum(), (own.valid & ~captions).sum()]))
        return MiningFeatures(image, text, own.valid & captions & images[:, None], own.ids)

    def _count(self, rows: TextBlock, columns: TextBlock, tile: Tile) -> None:
        """Counts a tile; its images only where the columns begin at 0, so that each image is counted once."""
        agreement = given = None
        if rows.classes is not None and columns.classes is not None:
            ours, theirs = rows.classes[:, None], columns.classes
            agreement = as_labels(ours == theirs).masked_fill((ours < 0) | (theirs < 0), IGNORED)
        if tile.named is not None:
            given = ((tile.named != NEGATIVE) * columns.valid.sum(dim=1)).sum()
        self.counts.add(tile.labels.merged(), tile.mined, agreement, 0 if columns.offset else len(rows.ids), given)

    def _divided_gradient(self, scalar: Tensor | None) -> Tensor | None:
        """The same number, whose gradient is divided by `accumulation`."""
        if scalar is None or self.accumulation == 1 or not scalar.requires_grad:
            return scalar
        copy = scalar.clone()
        copy.register_hook(lambda gradient: gradient / self.accumulation)
        return copy
