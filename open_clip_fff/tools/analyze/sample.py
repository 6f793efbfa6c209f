"""A sample's images with all their captions and features, flattened."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff.tools.sampling.extractors import caption_masks
from open_clip_fff.tools.sampling.reading import SampleChunk, SampleReader


class CaptionSample(NamedTuple):
    """N images and their T captions, image-major."""

    shards: list[str]  # the images' shards, by name, or by url where names repeat
    keys: list[str]  # likewise
    thumbnails: list[bytes]  # likewise, JPEG
    captions: list[str]  # the texts
    owner: Tensor  # int64 [T], the image of each caption
    raw: Tensor  # bool [T], whether it is from a text key, and not generated
    image: Tensor | None  # float32 [N, D], L2-normalised; None if the model embeds captions only
    text: Tensor  # float32 [T, D], L2-normalised
    copies: int = 0  # samples that repeat an earlier image; their captions join that image's


def read_sample(reader: SampleReader) -> CaptionSample:
    """Reads and embeds; the reader has one extractor and keeps thumbnails. Copies of an image are one image, by its id.

    Raises OneRankError for stored features of another model or of other captions.
    """
    sample, parts = CaptionSample([], [], [], [], torch.empty(0), torch.empty(0), None, torch.empty(0)), []
    numbers: dict[int, int] = {}  # of the images, by id
    for chunk in reader.chunks():
        owners, new = [], []
        for place, each in enumerate(chunk.samples):
            owners.append(numbers.setdefault(each.row.id, len(numbers)))
            sample.captions.extend(each.row.captions)
            if len(numbers) > len(sample.keys):
                new.append(place)
                sample.keys.append(each.key)
                sample.shards.append(each.url)
                sample.thumbnails.append(each.image)
        parts.append(_flatten(chunk, owners, new))
        sample = sample._replace(copies=sample.copies + len(owners) - len(new))
    if not parts:
        return sample
    owner, raw, image, text = zip(*parts, strict=True)
    images = None if image[0] is None else torch.cat(image)
    names = {url: url.rstrip("/").rsplit("/", 1)[-1] for url in sample.shards}
    if len(set(names.values())) == len(names):
        sample = sample._replace(shards=[names[url] for url in sample.shards])
    order = torch.cat(owner).argsort(stable=True)  # a copy's captions stand with those of its image
    return sample._replace(
        captions=[sample.captions[index] for index in order.tolist()],
        owner=torch.cat(owner)[order],
        raw=torch.cat(raw)[order],
        image=images,
        text=torch.cat(text)[order],
    )


def _flatten(chunk: SampleChunk, owners: list[int], new: list[int]) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Owner, raw, new images' features, and text features of some samples.

    `owners` are the numbers of the samples' images, `new` the indices of samples whose image is new.
    """
    (features,) = chunk.features
    valid = features.valid
    _, raw = caption_masks([each.row for each in chunk.samples], valid.shape[1], valid.device)
    owner = torch.tensor(owners, device=valid.device)[:, None].expand(valid.shape)[valid]
    return owner, raw[valid], None if features.image is None else features.image[new], features.text[valid]
