"""The alternating walk of GRIT-VLP: an order with similar neighbours. `reference.py` has it as a plain loop."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from open_clip_fff.numerics import exact_float32, full_precision


def alternating_walk(image_features: Tensor, text_features: Tensor, *, start: int = 0, quantile: float = 1.0) -> Tensor:
    """Orders S samples by a greedy walk from image to text to image (GRIT-VLP, arXiv 2208.04060, as used by MAFA).

    From the first sample's image it goes to the unvisited sample with the nearest text, from this text to the unvisited
    sample with the nearest image, and so on. Of equal cosines the lowest index is taken.

    The authors' code marks visited samples by a softmax probability of zero. Unvisited samples' probabilities may round
    to zero as well, so it visits some samples twice and others never. Here visited samples have a cosine of -inf, and
    the order is a permutation for any features.

    The cosines, S x S in float32 (float64 for float64 features), are computed where the features are; the walk is on
    the CPU.

    Args:
        image_features: [S, D], floating point, of any length; row i and text row i are one sample.
        text_features: [S, D].
        start: the first sample.
        quantile: of the `left` unvisited samples in falling order of cosine, the walk takes number
            floor((1 - quantile) * (left - 1)), from 0: at 1 the nearest, at 0.5 the median.

    Returns:
        int64 [S], on the CPU: a permutation of 0 ... S - 1 that begins with `start`.

    Raises:
        ValueError: if the shapes do not go together, S or D is 0, a feature is not finite, or `start` or `quantile` is
            out of range.

    Example:
        >>> angle = torch.tensor([0.0, 2.0, 0.1, 2.2])
        >>> features = torch.stack([angle.cos(), angle.sin()], dim=1)
        >>> alternating_walk(features, features).tolist()  # 0 and 2 are similar, and 1 and 3
        [0, 2, 1, 3]
    """
    check_features(image_features, text_features)
    if 0 in image_features.shape:
        raise ValueError(f"features of shape {tuple(image_features.shape)}: a walk needs at least one sample")
    if not 0 <= start < len(image_features):
        raise ValueError(f"start is {start}: the samples are 0 to {len(image_features) - 1}")
    if not 0.0 < quantile <= 1.0:
        raise ValueError(f"quantile is {quantile}: more than 0, and at most 1, which is the nearest")
    device, dtype = image_features.device, torch.promote_types(image_features.dtype, text_features.dtype)
    with torch.no_grad(), exact_float32(device):
        image, text = (_unit(full_precision(x.to(device, dtype))) for x in (image_features, text_features))
        cosine = (image @ text.T).cpu().numpy()
    if not np.isfinite(cosine).all():  # a feature that is not finite makes its whole row or column not finite
        raise ValueError("features hold values that are not finite numbers: there is no nearest sample")
    return torch.from_numpy(_walk(cosine, start, quantile))


def check_features(image: Tensor, text: Tensor) -> None:
    """Raises ValueError unless both are [S, D] and floating point."""
    if image.ndim != 2 or image.shape != text.shape:
        raise ValueError(f"image and text features are both [S, D], not {tuple(image.shape)} and {tuple(text.shape)}")
    for kind, features in ("image", image), ("text", text):
        if not features.is_floating_point():
            raise ValueError(f"{kind} features are {features.dtype}: they must be floating point")


def _unit(x: Tensor) -> Tensor:
    """Rows [S, D] at length 1, also rows whose squares over- or underflow; zeros stay zeros."""
    return F.normalize(x / x.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny), dim=-1)


def _walk(cosine: np.ndarray, start: int, quantile: float) -> np.ndarray:
    """The walk over finite cosines [S, S], image by text."""
    size = len(cosine)
    order = np.empty(size, dtype=np.int64)
    order[0] = current = start
    # 0 for unvisited samples and -inf for visited ones, added to a row or a column. This is cheap beside the matrix
    # product; reading columns with a stride costs less time and memory than transposing the matrix.
    visited = np.zeros(size, dtype=cosine.dtype)
    candidates = np.empty(size, dtype=cosine.dtype)
    for step in range(1, size):
        visited[current] = -np.inf
        np.add(cosine[current] if step % 2 else cosine[:, current], visited, out=candidates)
        rank = math.floor((1 - quantile) * (size - step - 1) + 1e-9)  # 1e-9: see the reference
        order[step] = current = int(candidates.argmax()) if rank == 0 else _at_rank(candidates, rank)
    return order


def _at_rank(values: np.ndarray, rank: int) -> int:
    """The index of value number `rank`, from 0, in falling order; ties stay in their order."""
    value = np.partition(values, -1 - rank)[-1 - rank]
    equal = np.flatnonzero(values == value)
    return int(equal[rank - np.count_nonzero(values > value)])
