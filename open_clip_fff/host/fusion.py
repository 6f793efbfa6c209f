"""The fusion model beside OpenCLIP's: made with the model, trained by its optimizer, kept out of its checkpoints."""

import argparse
import logging
from collections.abc import Set
from pathlib import Path
from typing import Any

from open_clip_fff.config.fusion import FusionSettings
from open_clip_fff.errors import UsageError, named
from open_clip_fff.hub.fusion_files import read_fusion
from open_clip_fff.losses.fusion import FusionLoss, Vocabulary
from open_clip_fff.models.fusion import Fusion, FusionSizes, FusionSlot, load_fusion_weights, width_for
from open_clip_fff.models.tower_tokens import TowerTokens


def add_fusion(
    model: Any, model_name: str, settings: FusionSettings, given: Set[str], args: argparse.Namespace
) -> FusionLoss:
    """Adds a fusion model to an OpenCLIP model that takes K captions, on `args.device`; returns the fusion loss.

    Raises UsageError for a tower without tokens, for a given --mlm-weight without a mask token, for terms that leave
    nothing to learn, and for a tokenizer whose padding or mask token is not the text tower's.
    """
    tokens = TowerTokens(model)
    vocabulary = _vocabulary(model, model_name, tokens, args) if settings.mlm_weight else None
    if vocabulary is None and settings.mlm_weight and {"mlm_weight", "mlm_probability"} & given:
        raise UsageError(
            f"--mlm-weight {settings.mlm_weight:g}: the text tower of --model {model_name} has no mask token; use a "
            f"Hugging Face one, or --mlm-weight 0"
        )
    if vocabulary is None and not settings.itm_weight:
        raise UsageError("--itm-weight 0: without a mask token there is nothing else for the fusion model to learn")
    if vocabulary is None and settings.mlm_weight and args.rank == 0:
        logging.info("Fusion: no masked language modelling, since the text tower has no mask token.")
    sizes = FusionSizes(
        settings.layers,
        settings.width or width_for(tokens.text_width),
        tokens.image_width,
        tokens.text_width,
        0 if vocabulary is None else vocabulary.size,
    )
    network = Fusion(sizes)
    if settings.pretrained is not None:
        with named("--fusion-pretrained"):
            weights = dict(read_fusion(Path(settings.pretrained)).weights)
        if vocabulary is None:  # as when a model is fine-tuned for retrieval, by ITC and ITM alone
            weights = {name: weight for name, weight in weights.items() if not name.startswith("mlm_")}
        load_fusion_weights(network, weights, f"--fusion-pretrained {settings.pretrained}")
    if not settings.itm_weight:  # DDP waits for the gradient of each parameter that requires one
        network.itm_head.requires_grad_(False)
    network.to(args.device)
    model.fusion = FusionSlot(network)
    model.tower_tokens = tokens
    return FusionLoss(network, tokens.describe, settings, vocabulary, args.rank, args.world_size)


def _vocabulary(model: Any, model_name: str, tokens: TowerTokens, args: argparse.Namespace) -> Vocabulary | None:
    if not tokens.design.masked:
        return None
    from open_clip import get_tokenizer

    made = get_tokenizer(model_name, cache_dir=args.cache_dir, context_length=args.force_context_length)
    tokenizer: Any = getattr(made, "tokenizer", None)
    mask = getattr(tokenizer, "mask_token_id", None)
    if mask is None:
        return None
    if tokenizer.pad_token_id != tokens.design.token:  # it would be trained to predict padding
        raise UsageError(
            f"--model {model_name}: its tokenizer pads with token {tokenizer.pad_token_id}, and its text tower leaves "
            f"out token {tokens.design.token} as padding; make pad_token_id in both one, or set --mlm-weight 0"
        )
    embedding = model.text.transformer.get_input_embeddings()
    if mask >= embedding.num_embeddings:
        raise UsageError(
            f"--model {model_name}: its tokenizer's mask token is {mask}, and its text tower knows "
            f"{embedding.num_embeddings:,} tokens; enlarge it (resize_token_embeddings), or set --mlm-weight 0"
        )
    return Vocabulary(
        embedding.num_embeddings, mask, tokens.design.token, lambda: embedding.weight, tokens.encode_masked
    )
