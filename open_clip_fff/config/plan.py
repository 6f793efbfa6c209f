"""What a run does beyond OpenCLIP, in one frozen object."""

from dataclasses import dataclass
from typing import Any

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.config.fields import Settings, setting
from open_clip_fff.config.fusion import FusionSettings
from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.config.mining import FEATURES, FrozenSource, MiningConfig, StoredBy
from open_clip_fff.config.objective import LogitSettings, LossSettings
from open_clip_fff.config.safety import SafetySettings
from open_clip_fff.config.text import TextSettings
from open_clip_fff.config.zero_shot import ZeroShotSettings

GROUPING_HOOK = "grit"  # the batch hook that groups
EMA_DECAY = 0.999  # where the moving average mines and no decay is given


@dataclass(frozen=True)
class Plan(Settings):
    """What a run does beyond OpenCLIP; fields with a flag are documented by its help."""

    method: str | None  # the preset's name; None without --method
    loss: LossSettings
    captions: CaptionSettings
    text: TextSettings  # how text towers save work
    safety: SafetySettings  # on numbers that are not finite, large images and hanging ranks
    mining: MiningConfig | None  # Eq. 1's settings; None with mining off
    miner: FrozenSource | None  # the frozen model whose features mine, or that made the stored ones; None without one
    connection: ConnectionSettings | None  # the discriminator of hardest negatives; None without one
    fusion: FusionSettings | None  # the fusion model over both towers' tokens; None without one
    grouping: GroupingSettings | None  # grouping of mini-batches; None for the loader's order
    zero_shot: ZeroShotSettings | None  # the sets that are scored every few epochs; None for none
    logits: LogitSettings  # where scale and bias start
    given: frozenset[str]  # the flags (with underscores) that the user gave; if none, training is OpenCLIP's own
    values: dict[str, Any]  # every flag's final value, for params.txt
    features: str = setting(
        "mining_features",
        "off",
        "what mines: a frozen model, its precomputed features, a text model alone, the trained model's moving average "
        "(ema), the trained model itself (online), or nothing",
        choices=FEATURES,
        group="mining",
    )
    feature_sidecar: str | None = setting(
        "feature_sidecar",
        None,
        "precomputed features from a parquet per shard",
        unset="from the tars' members KEY.feat.npz",
        metavar="DIR",
        group="mining",
        when=lambda plan: plan.stored,
        needs="--mining-features precomputed or --group-features stored",
    )
    ema_decay: float | None = setting(
        "ema_decay",
        None,
        "keep a moving average of the weights, min(D, steps / (10 + steps)) of the old ones each step: validated, "
        "saved and exported beside them",
        unset=f"none; {EMA_DECAY} with --mining-features ema",
        metavar="D",
        group="weights",
        check=(lambda decay: 0.0 < decay < 1.0, "--ema-decay is {:g}: 0 < decay < 1"),
    )
    model_config: tuple[str, ...] = setting(
        "model_config",
        (),
        "registers architecture(s), OpenCLIP json",
        metavar="FILE|DIR",
        repeated=True,
        group="extend",
    )
    batch_hooks: tuple[str, ...] = setting(
        "batch_hooks", (), "hooks on each batch before the towers, in order", group="extend"
    )
    plugins: tuple[str, ...] = setting(
        "plugin", (), "imports your module, which registers its parts", metavar="MODULE", repeated=True, group="extend"
    )
    # the model that made the stored features, once these were read (`with_stored_model`); else None
    stored_by: StoredBy | None = None

    @property
    def parts(self) -> dict[type, object]:
        """The settings that are used, by class."""
        smoothing = self.loss.smoothing if self.loss.name == "s-itc" else None
        features = (self.mining, self.miner, self.connection, self.fusion, self.grouping)
        found = (self, self.loss, smoothing, self.captions, self.text, *features)
        every = (*found, self.zero_shot, self.logits, self.safety)
        return {type(part): part for part in every if part is not None}

    @property
    def stored(self) -> bool:
        """Whether stored features are read."""
        return self.features == "precomputed" or (self.grouping is not None and self.grouping.source == "stored")

    @property
    def text_only(self) -> bool:
        """Whether text features alone mine: a sentence model's, computed in the step or stored."""
        if self.features == "precomputed":
            return self.stored_by is not None and not self.stored_by.images
        return self.features == "text"
