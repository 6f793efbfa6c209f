"""One frozen object that says what a run does."""

from dataclasses import dataclass
from typing import Any

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.config.fields import Settings, setting
from open_clip_fff.config.grouping import GroupingSettings
from open_clip_fff.config.mining import FrozenSource, MiningConfig, StoredBy
from open_clip_fff.config.objective import LogitSettings, LossSettings
from open_clip_fff.config.safety import SafetySettings
from open_clip_fff.config.text import TextSettings
from open_clip_fff.config.zero_shot import ZeroShotSettings

GRIT = "grit"  # the batch hook that groups
EMA_DECAY = 0.999  # where the moving average mines and no other decay is typed


@dataclass(frozen=True)
class Plan(Settings):
    """What a run does beyond OpenCLIP; what a flag's field means, its help says.

    Attributes:
        method: the preset's name, None where no --method was typed.
        text: how the text towers save work, where they can.
        safety: what is done about numbers that are not finite, and images that are too large.
        mining: Eq. 1's settings, None where nothing is mined.
        miner: the frozen model whose features mine, or made the stored ones; None where there is none.
        connection: the discriminator of hardest negatives; None without one.
        grouping: of mini-batches; None where the loader's order is left alone.
        zero_shot: what is scored every few epochs; None for nothing.
        logits: where scale and bias start.
        typed: the flags (with underscores) that the user typed; empty leaves training to OpenCLIP alone.
        values: every flag's final value, for params.txt.
        stored_by: who made stored features, once some were looked at (`knowing`); None before, or where none are read.
    """

    method: str | None
    loss: LossSettings
    captions: CaptionSettings
    text: TextSettings
    safety: SafetySettings
    mining: MiningConfig | None
    miner: FrozenSource | None
    connection: ConnectionSettings | None
    grouping: GroupingSettings | None
    zero_shot: ZeroShotSettings | None
    logits: LogitSettings
    typed: frozenset[str]
    values: dict[str, Any]
    features: str = setting(
        "mining_features",
        "off",
        "what mines: a frozen model, its precomputed features, a text model alone, the trainee's moving average "
        "(ema), the trainee itself (online), or nothing",
        choices=("off", "frozen", "precomputed", "text", "ema", "online"),
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
    stored_by: StoredBy | None = None

    @property
    def parts(self) -> dict[type, object]:
        """The settings that take part, by class."""
        smoothing = self.loss.smoothing if self.loss.name == "s-itc" else None
        features = (self.mining, self.miner, self.connection, self.grouping)
        found = (self, self.loss, smoothing, self.captions, self.text, *features)
        every = (*found, self.zero_shot, self.logits, self.safety)
        return {type(part): part for part in every if part is not None}

    @property
    def stored(self) -> bool:
        """Whether features that are stored beside the images are read."""
        return self.features == "precomputed" or (self.grouping is not None and self.grouping.source == "stored")

    @property
    def text_alone(self) -> bool:
        """Whether what mines has features of captions alone: a sentence model's, made in the step or stored."""
        if self.features == "precomputed":
            return self.stored_by is not None and not self.stored_by.images
        return self.features == "text"
