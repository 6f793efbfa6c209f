"""The table of methods: what `--method NAME` stands for. Flags that the user types win over it."""

from collections.abc import Mapping
from types import MappingProxyType

from open_clip_fff.settings.safety import PIXELS, STOP, TIMEOUT
from open_clip_fff.settings.words import CLIP, FFF, GRIT, MAFA, SIGLIP

Preset = Mapping[str, object]

# Keys are the flags' names with underscores; settings/flags.py documents each.
_ONE_CAPTION = {"captions_per_image": 1, "caption_policy": "first", "mining_features": "off"}
_FFF = {
    "captions_per_image": 5,
    "caption_policy": "all",
    "mining_features": "frozen",
    # The paper's analysis figures use a frozen CLIP ViT-L/14; which features mine in its training is not established.
    "mining_model": "ViT-L-14-quickgelu",
    "mining_pretrained": "openai",
    # Starting values for CLIP features, not known to be the paper's.
    "p1": 0.27,
    "p2": 0.92,
    "p3": 0.99,
    "p1_prime": 0.24,
}

METHODS: Mapping[str, Preset] = MappingProxyType(
    {
        "clip": MappingProxyType({"loss": "clip", **_ONE_CAPTION}),
        "siglip": MappingProxyType({"loss": "siglip", **_ONE_CAPTION}),
        "fff": MappingProxyType(
            {
                "loss": "fff",
                **_FFF,
                # Small-scale probes of ours: SigLIP's -10 is a bad start at small batch, 25 is a worse scale than 10,
                # and both scalars want a faster rate than the towers.
                "logit_scale_init": 10.0,
                "logit_bias_init": "auto",
                "logit_lr_mult": 20.0,
            }
        ),
        # COSMO is MAFA's first version: the same parts under another name, as far as what is public tells.
        # Plain CLIP's loss: a softmax over one caption per image. Ours, because ids and features have to be seen.
        "grit": MappingProxyType({"loss": "softmax", **_ONE_CAPTION, "batch_hooks": ("grit",)}),
        "mafa": MappingProxyType({"loss": "s-itc", **_ONE_CAPTION, "batch_hooks": ("grit",)}),
        "cosmo": MappingProxyType({"loss": "s-itc", **_ONE_CAPTION, "batch_hooks": ("grit",)}),
        "fff-softmax": MappingProxyType({"loss": "softmax", **_FFF}),
    }
)

# What each is, in words.
TITLES: Mapping[str, str] = MappingProxyType(
    {
        "clip": f"CLIP (Radford et al., 2021, {CLIP}) as OpenCLIP trains it",
        "siglip": f"SigLIP (Zhai et al., 2023, {SIGLIP}) as OpenCLIP trains it",
        "fff": f"FFF, Fixing Flawed Foundations (Bulat et al., CVPR 2024, {FFF})",
        "grit": f"CLIP in GRIT-VLP's grouped mini-batches (Byun et al., ECCV 2022, {GRIT})",
        "mafa": f"MAFA's grouped mini-batches, connection mining and smoothed ITC (Byun et al., CVPR 2024, {MAFA})",
        "cosmo": f"COSMO, which is MAFA under the name of its first version (Byun et al., CVPR 2024, {MAFA})",
        "fff-softmax": f"FFF's captions and mining (Bulat et al., CVPR 2024, {FFF}) under open_clip_fff's softmax",
    }
)

# What a flag means where neither the user nor a method says anything.
DEFAULTS: Preset = MappingProxyType(
    {
        "loss": None,
        "loss_reduction": "images",
        "loss_impl": "auto",
        "captions_per_image": 1,
        "caption_policy": None,
        "text_key": ("txt",),
        "json_text_key": (),
        "caption_sidecar": None,
        "val_caption_sidecar": None,
        "sidecar_text_key": ("captions",),
        "split_sentences": False,
        "caption_words": (0, None),
        "raw_weight": 1.0,
        "min_coverage": 0.0,
        "class_key": None,
        "trim_tokens": None,
        "trim_multiple": 4,
        "length_groups": 6,
        "distinct_captions": None,
        "mining_features": "off",
        "mining_model": None,
        "mining_pretrained": None,
        "feature_sidecar": None,
        "mining_warmup": None,
        "mining_guard": None,
        "mined_per_image": None,
        "p1": 0.27,
        "p2": 0.92,
        "p3": 0.99,
        "p1_prime": 0.24,
        "text_text": "pooled",
        "mined_cap": None,
        "mined_as": "positive",
        "ignore_band": 0.0,
        "mine_raw": True,
        "group_search_space": 1920,
        "group_queue": 48000,
        "group_scope": "rank",
        "group_share": 1.0,
        "group_quantile": 1.0,
        "group_features": "bank",
        "discriminator": None,
        "match_positive": 0.8,
        "match_negative": 0.5,
        "match_gate": None,
        "discriminator_cache": None,
        "discriminator_batch": 64,
        "discriminator_start": 0,
        "smoothing": 0.5,
        "smoothing_over": "all",
        "smoothing_start": 1,
        "itc_stop_gradient": False,
        "itc_consistency": 0.0,
        "logit_scale_init": None,
        "logit_bias_init": None,
        "logit_lr_mult": 1.0,
        "ema_decay": None,
        "on_nonfinite": STOP,
        "max_image_pixels": PIXELS,
        "timeout": TIMEOUT,
        "save_every_n_steps": None,
        "zeroshot_data": None,
        "zeroshot_sets": ("all",),
        "model_config": (),
        "batch_hooks": (),
        "plugin": (),
    }
)
