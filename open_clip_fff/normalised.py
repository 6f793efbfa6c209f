"""Refuses features that do not go together, or are not L2-normalised (their products are not cosines); odd labels."""

import torch
from torch import Tensor

TOLERANCE = 0.01  # of the length 1; bfloat16 makes errors of up to 0.004


def check_normalised(name: str, features: Tensor, valid: Tensor | None = None) -> None:
    """Refuses features that are not L2-normalised. Rows of zeros (padding) are allowed.

    It waits for the accelerator. Inside of `torch.compile`, where values cannot be read, the check becomes a part of
    the graph, which raises RuntimeError in each call (on CUDA as a device-side assertion, without waiting).

    Args:
        name: the argument, for the error line.
        features: [..., D].
        valid: bool [...], rows that are checked; None for all.

    Raises:
        ValueError: if the length of a row is neither 1, within TOLERANCE, nor 0. (NaN and infinity are not refused
            here.)
    """
    length = torch.linalg.vector_norm(features.detach().float(), dim=-1)
    wrong = ((length - 1).abs() > TOLERANCE) & (length > 0) & length.isfinite()
    if valid is not None:
        wrong &= valid
    fix = f"normalise them first: {name} = F.normalize({name}, dim=-1)"
    if torch.compiler.is_compiling():
        torch._assert_async(~wrong.any(), f"{name} are not L2-normalised; {fix}")
    elif not features.is_meta and wrong.any():
        off = length[wrong]
        raise ValueError(
            f"{name} are not L2-normalised: {len(off):,} of {length.numel():,} rows have another length than 1 "
            f"(from {off.min():.3g} to {off.max():.3g}); {fix}"
        )


def check_pair(image: Tensor, text: Tensor) -> None:
    """Raises ValueError unless they are [N, D] and [N, K, D], of one type, with K >= 1."""
    if text.ndim != 3 or not text.shape[1] or image.shape != (len(text), text.shape[-1]) or image.dtype != text.dtype:
        images, texts = (f"{list(x.shape)} of {x.dtype}" for x in (image, text))
        expected = "[N, D] and [N, K, D] are expected, K >= 1, of one type"
        raise ValueError(f"images {images} do not go with texts {texts}: {expected}")


class FirstCall:
    """Checks the tensors of each name in the first call only, because checking waits for the accelerator."""

    def __init__(self) -> None:
        self._passed: set[str] = set()

    def __call__(self, valid: Tensor | None = None, **features: Tensor | None) -> None:
        """Raises ValueError for features [..., D], by the names of their arguments, that are not L2-normalised.

        `valid`, bool [B, K], tells padding from captions in features [B, K, D].
        """
        for name, x in features.items():
            if x is None or name in self._passed:
                continue
            check_normalised(name, x, valid if x.ndim == 3 else None)
            if not torch.compiler.is_compiling():
                self._passed.add(name)

    def labels(self, **assignments: Tensor | None) -> None:
        """Raises ValueError for an int8 assignment with another value than +1, -1 and 0; not inside `torch.compile`."""
        for name, x in assignments.items():
            if x is None or x.dtype != torch.int8 or x.is_meta or name in self._passed or torch.compiler.is_compiling():
                continue
            if ((x > 1) | (x < -1)).any():
                raise ValueError(f"{name} has values from {x.min()} to {x.max()}: it is +1, -1 or 0, or bool")
            self._passed.add(name)
