"""The table of methods: what `--method NAME` stands for. Flags that the user gives win over it."""

from collections.abc import Mapping
from types import MappingProxyType

from open_clip_fff.config.all_settings import DEFAULTS
from open_clip_fff.config.mining import THRESHOLDS
from open_clip_fff.config.topics import ALBEF, CLIP, FFF, GRIT, MAFA, SIGLIP

Preset = Mapping[str, object]

# Keys are the flags' names with underscores.
_ONE_CAPTION = {"captions_per_image": 1, "caption_policy": "first", "mining_features": "off"}
_GROUPED_ITC = {"loss": "s-itc", **_ONE_CAPTION, "batch_hooks": ("grit",)}
LAYERS = 6  # as in ALBEF, whose text tower has as many
_FFF = {
    "captions_per_image": 5,
    "caption_policy": "all",
    "mining_features": "frozen",
    # The paper's analysis figures use a frozen CLIP ViT-L/14; which features mine in its training is not established.
    "mining_model": "ViT-L-14-quickgelu",
    "mining_pretrained": "openai",
    **{name: DEFAULTS[name] for name in THRESHOLDS},
}

_PRESETS: Mapping[str, Preset] = {
    "clip": {"loss": "clip", **_ONE_CAPTION},
    "siglip": {"loss": "siglip", **_ONE_CAPTION},
    "fff": {
        "loss": "fff",
        **_FFF,
        # Our small-scale probes: SigLIP's -10 is a bad start at small batches, scale 25 is worse than 10, and both
        # scalars need a higher learning rate than the towers.
        "logit_scale_init": 10.0,
        "logit_bias_init": "auto",
        "logit_lr_mult": 20.0,
    },
    # CLIP's softmax over one caption per image, in our implementation, since the hook needs ids and features.
    "grit": {"loss": "softmax", **_ONE_CAPTION, "batch_hooks": ("grit",)},
    "mafa": {**_GROUPED_ITC, "fusion_layers": LAYERS},
    # COSMO is MAFA's first version: the same parts under another name, as far as what is public tells.
    "cosmo": {**_GROUPED_ITC, "fusion_layers": LAYERS},
    "mafa-itc": _GROUPED_ITC,
    "grit-vlp": {
        **_GROUPED_ITC,
        "smoothing": 0.0,
        "itc_stop_gradient": True,
        "itc_consistency": 0.2,
        "fusion_layers": LAYERS,
    },
    "albef": {"loss": "softmax", **_ONE_CAPTION, "fusion_layers": LAYERS, "itm_negatives": "multinomial"},
    "fff-softmax": {"loss": "softmax", **_FFF},
}
METHODS: Mapping[str, Preset] = MappingProxyType({name: MappingProxyType(preset) for name, preset in _PRESETS.items()})

# The methods in words.
TITLES: Mapping[str, str] = {
    "clip": f"CLIP (Radford et al., 2021, {CLIP}) as OpenCLIP trains it",
    "siglip": f"SigLIP (Zhai et al., 2023, {SIGLIP}) as OpenCLIP trains it",
    "fff": f"FFF, Fixing Flawed Foundations (Bulat et al., CVPR 2024, {FFF})",
    "grit": f"CLIP in GRIT-VLP's grouped mini-batches (Byun et al., ECCV 2022, {GRIT})",
    "mafa": f"MAFA (Byun et al., CVPR 2024, {MAFA}): grouped mini-batches, connection mining, S-ITC, ITM and MLM",
    "mafa-itc": f"MAFA's grouped mini-batches, connection mining and smoothed ITC (Byun et al., CVPR 2024, {MAFA})",
    "grit-vlp": f"GRIT-VLP (Byun et al., ECCV 2022, {GRIT}): grouped mini-batches, its ITC, ITM and MLM",
    "albef": f"ALBEF's ITC, ITM and MLM (Li et al., 2021, {ALBEF}) without its momentum model",
    "cosmo": f"COSMO, which is MAFA under the name of its first version (Byun et al., CVPR 2024, {MAFA})",
    "fff-softmax": f"FFF's captions and mining (Bulat et al., CVPR 2024, {FFF}) under open_clip_fff's softmax",
}
