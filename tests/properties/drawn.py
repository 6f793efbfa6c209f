"""Batches as hypothesis draws them: few images, many ties, padding, repeated ids."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from open_clip_fff import MiningConfig
from open_clip_fff.mining.reference import MiningFeatures
from tests.properties.conftest import TIMES

SEEDS = st.integers(0, 2**32 - 1)


def times(examples: int) -> settings:
    """So many cases of a property; FFF_EXAMPLES multiplies them."""
    return settings(max_examples=max(int(examples * TIMES), 1))


class Drawn(NamedTuple):
    """Features in float64, and what hangs on them."""

    features: MiningFeatures
    generator: torch.Generator


def vectors(kind: str, generator: torch.Generator, *shape: int, d: int = 4) -> Tensor:
    """Unit vectors [*shape, d]; `coarse` ones have cosines that are exact however they are added up, and often tie."""
    if kind == "normal":
        return F.normalize(torch.randn(*shape, d, generator=generator, dtype=torch.float64), dim=-1)
    halves = torch.randint(0, 2, (*shape, d), generator=generator).double() - 0.5
    if kind == "equal":
        return torch.full_like(halves, 0.5)
    axes = F.one_hot(torch.randint(0, d, shape, generator=generator), d).double()
    which = torch.randint(0, 5, shape, generator=generator)[..., None]
    return torch.where(which == 0, 0.0, torch.where(which < 3, axes, halves))


@st.composite
def batches(draw: st.DrawFn, most: int = 7, kinds: tuple[str, ...] = ("normal", "coarse", "equal")) -> Drawn:
    """1 to `most` images of 1 to 4 captions, any of them padding; ids may repeat."""
    n, k, kind = draw(st.integers(1, most)), draw(st.integers(1, 4)), draw(st.sampled_from(kinds))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    valid = torch.rand(n, k, generator=generator) < draw(st.sampled_from([0.0, 0.5, 0.8, 1.0]))
    ids = torch.tensor(draw(st.lists(st.integers(0, 2 * n), min_size=n, max_size=n)))
    image, text = vectors(kind, generator, n), vectors(kind, generator, n, k)
    return Drawn(MiningFeatures(image, text, valid, ids), generator)


BARS = st.one_of(st.none(), st.floats(-1, 1), st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]))
MARGINS = st.sampled_from([None, None, None, 0.0, 0.3, -0.1, 2.0, "100%", "95%", "50%"])


@st.composite
def configs(draw: st.DrawFn, caps: st.SearchStrategy = st.one_of(st.none(), st.integers(1, 5))) -> MiningConfig:  # noqa: B008
    """Eq. 1 with typed thresholds, some of them off."""
    return MiningConfig(
        *(draw(BARS) for _ in range(4)),
        text_text=draw(st.sampled_from(["pooled", "max", "mean"])),
        cap=draw(caps),
        band=draw(st.sampled_from([0.0, 0.1, 0.5])),
        margin=draw(MARGINS),
        mined_as=draw(st.sampled_from(["positive", "ignore"])),
    )
