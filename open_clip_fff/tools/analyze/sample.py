"""A sample's images with all their captions and features, flattened."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.tools.sampling.extractors import caption_masks
from open_clip_fff.tools.sampling.reading import SampleChunk, SampleReader


class CaptionSample(NamedTuple):
    """N images and their T captions, image-major."""

    shards: list[str]  # of the images, by name, or by url where data sets have equal names
    keys: list[str]  # likewise
    thumbnails: list[bytes]  # likewise, JPEG
    captions: list[str]  # the texts
    owner: Tensor  # int64 [T], the image of each caption
    raw: Tensor  # bool [T], whether it is from a text key, and not generated
    image: Tensor | None  # float32 [N, D], L2-normalised; None if the model embeds captions only
    text: Tensor  # float32 [T, D], L2-normalised


def read_sample(reader: SampleReader) -> CaptionSample:
    """Reads and embeds; the reader has one extractor and keeps thumbnails.

    Raises OneRankError for stored features of another model or of other captions.
    """
    sample, parts = CaptionSample([], [], [], [], torch.empty(0), torch.empty(0), None, torch.empty(0)), []
    for chunk in reader.chunks():
        parts.append(_flatten(chunk, len(sample.keys)))
        for each in chunk.samples:
            sample.keys.append(each.key)
            sample.shards.append(each.url)
            sample.thumbnails.append(each.image)
            sample.captions.extend(each.row.captions)
    if not parts:
        return sample
    owner, raw, image, text = zip(*parts, strict=True)
    images = None if image[0] is None else torch.cat(image)
    names = {url: url.rstrip("/").rsplit("/", 1)[-1] for url in sample.shards}
    if len(set(names.values())) == len(names):
        sample = sample._replace(shards=[names[url] for url in sample.shards])
    return sample._replace(owner=torch.cat(owner), raw=torch.cat(raw), image=images, text=torch.cat(text))


def _flatten(chunk: SampleChunk, start: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Owner, raw, image and text features of some images, the first of which is image `start`."""
    (features,) = chunk.features
    valid = features.valid
    _, raw = caption_masks([each.row for each in chunk.samples], valid.shape[1], valid.device)
    owner = (start + torch.arange(len(valid), device=valid.device))[:, None].expand(valid.shape)[valid]
    return owner, raw[valid], features.image, features.text[valid]
