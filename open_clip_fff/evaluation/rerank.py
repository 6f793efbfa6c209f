"""Retrieval re-ranked by a fusion model, as in ALBEF and MAFA: the nearest by ITC, ordered by the match logit (ITM)."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.benchmark import EvalOutcome, EvalSettings, make_loader, progress_bars
from open_clip_fff.evaluation.layouts import LocalSet
from open_clip_fff.evaluation.protocol import IMAGE_TO_TEXT, ORDERS, RECALL_AT, TEXT_TO_IMAGE
from open_clip_fff.fingerprint import fingerprint
from open_clip_fff.hub.fusion_files import read_fusion
from open_clip_fff.hub.loading import LoadedModel, local_path
from open_clip_fff.models.fusion import Fusion, check_match_head, load_fusion
from open_clip_fff.models.tower_tokens import TextTokens, TowerTokens
from open_clip_fff.numerics import no_autocast

PAIRS = 256  # that are fused at a time
AREA = 2**22  # cosines that are sorted at a time


def rerank(loaded: LoadedModel, local: LocalSet, settings: EvalSettings, candidates: int) -> EvalOutcome:
    """Scores a model on a retrieval set, re-ranking the nearest `candidates` by the towers' features.

    Raises UsageError for a model without a fusion model (an exported folder, a run or a checkpoint may have one), or
    with one that was fine-tuned for a task.
    """
    device = torch.device(settings.device)
    fusion = load_fusion(_place_of_fusion(loaded)).to(device)
    loader = make_loader(local, loaded.preprocess, settings)
    with torch.no_grad(), torch.autocast(device.type, enabled=settings.amp):
        encoded = _encode(loaded.model, loaded.tokenizer, loader, device)
        return _reranked(fusion, encoded, candidates, settings, local.spec.name)


def rerank_conditions(loaded: LoadedModel, _: LocalSet) -> dict[str, str]:
    """What a score depends on besides the set and the towers. Raises UsageError as `rerank`."""
    return {"fusion model": fingerprint(read_fusion(_place_of_fusion(loaded)).weights)[:8]}


def _place_of_fusion(loaded: LoadedModel) -> Path:
    path = local_path(loaded.given)
    if path is None:
        raise UsageError(f"{loaded.given}: --rerank needs a fusion model, which an exported folder or a run has")
    check_match_head(path, f"--rerank: {loaded.given}")
    return path


class EncodedSet(NamedTuple):
    """A set's N images and M captions; tokens on the CPU."""

    images: Tensor  # [N, D]
    texts: Tensor  # [M, D]
    owner: Tensor  # int64 [M], each caption's image
    image_tokens: list[Tensor]  # [T, W'] each
    text_tokens: list[tuple[Tensor, int]]  # [length, W], and the position of the caption's own feature


def _encode(model: Any, tokenizer: Callable, loader: Any, device: torch.device) -> EncodedSet:
    tokens = TowerTokens(model)
    images, texts, owner = [], [], []
    image_tokens: list[Tensor] = []
    text_tokens: list[tuple[Tensor, int]] = []
    for pixels, captions in loader:
        with tokens.capture() as captured:
            images.append(F.normalize(model.encode_image(pixels.to(device)).float(), dim=-1))
            flat = [caption for each in captions for caption in each]
            ids = tokenizer(flat).to(device)
            texts.append(F.normalize(model.encode_text(ids).float(), dim=-1))
        owner += [len(image_tokens) + row for row, each in enumerate(captions) for _ in each]
        image_tokens += list(captured.images[0].cpu())
        found = tokens.describe(captured.texts[0], ids)
        text_tokens += [
            (features[mask].cpu(), int(position))
            for features, mask, position in zip(found.features, found.mask, found.pooled, strict=True)
        ]
    return EncodedSet(torch.cat(images), torch.cat(texts), torch.tensor(owner), image_tokens, text_tokens)


def _reranked(fusion: Fusion, encoded: EncodedSet, candidates: int, settings: EvalSettings, name: str) -> EvalOutcome:
    with no_autocast(encoded.images.device):  # half precision would make ties of nearly equal cosines
        cosines = (encoded.images @ encoded.texts.T).cpu()
    images, captions = cosines.shape
    samples: dict[str, np.ndarray] = {"image_of_text": encoded.owner.numpy()}
    metrics: dict[str, float] = {}
    ways = (IMAGE_TO_TEXT, cosines), (TEXT_TO_IMAGE, cosines.T)
    pairs = sum(len(itc) * min(candidates, itc.shape[1]) for _, itc in ways)
    with progress_bars(f"{name}, re-ranking", settings)(total=pairs, unit="pairs") as bar:
        for way, itc in ways:
            nearest = _nearest(itc, candidates)
            rows = torch.arange(len(itc))[:, None].expand_as(nearest).flatten()
            columns, cosine = nearest.flatten(), itc.gather(1, nearest)
            of_images, of_texts = (rows, columns) if way == IMAGE_TO_TEXT else (columns, rows)
            itm = torch.cat(list(_logits(fusion, encoded, of_images, of_texts, bar))).view_as(cosine)
            found = (encoded.owner[of_texts] == of_images).view_as(cosine)
            metrics[f"{way}_ceiling"] = found.any(dim=1).float().mean().item()
            metrics[f"{way}_auc"] = _auc(itm, found)
            for order, score in zip(ORDERS, (cosine, itm, cosine + itm), strict=True):
                ranked = found.gather(1, score.argsort(dim=1, descending=True, stable=True))
                for k in RECALL_AT:
                    hits = ranked[:, :k].any(dim=1)
                    samples[f"{order}{way}@{k}"] = hits.numpy()
                    metrics[f"{order}{way}@{k}"] = hits.float().mean().item()
    metrics["candidates"] = candidates
    return EvalOutcome(metrics, samples, {"images": images, "captions": captions})


def _nearest(itc: Tensor, candidates: int) -> Tensor:
    """Columns of the highest cosines of each row, int64; ties in column order, which topk does not guarantee."""
    blocks = itc.split(max(1, AREA // itc.shape[1]))  # a whole sort would take 24 bytes a pair
    return torch.cat([x.argsort(dim=1, descending=True, stable=True)[:, :candidates].clone() for x in blocks])


def _auc(logits: Tensor, right: Tensor) -> float:
    """ROC AUC of match logits for matching against other candidates; NaN where there is only one kind."""
    if bool(right.all()) or not bool(right.any()):
        return math.nan
    return float(roc_auc_score(right.flatten().numpy(), logits.flatten().numpy()))


def _logits(fusion: Fusion, encoded: EncodedSet, images: Tensor, texts: Tensor, bar: Any) -> Iterator[Tensor]:
    """Match logits of pairs, float32 [n] on the CPU, PAIRS at a time."""
    device = next(fusion.parameters()).device
    for of_images, of_texts in zip(images.split(PAIRS), texts.split(PAIRS), strict=True):
        found = [encoded.text_tokens[index] for index in of_texts.tolist()]
        features = torch.nn.utils.rnn.pad_sequence([features for features, _ in found], batch_first=True).to(device)
        lengths = torch.tensor([len(features) for features, _ in found], device=device)
        mask = torch.arange(features.shape[1], device=device) < lengths[:, None]
        text = TextTokens(features, mask, torch.tensor([position for _, position in found], device=device))
        pixels = torch.stack([encoded.image_tokens[index] for index in of_images.tolist()]).to(device)
        yield fusion.match(fusion(pixels, text.features, text.mask), text.pooled)[:, 1].float().cpu()
        bar.update(len(found))
