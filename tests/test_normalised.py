"""Features that are not L2-normalised are refused: always by the assignment, by a loss in its first call."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from open_clip_fff import FFFLoss, MiningConfig, MultiPositiveSoftmaxLoss, SmoothedITCLoss, similarity_assignment
from open_clip_fff.losses.bias_init import cosine_sums
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.mining.assign import make_assignment, own_text_block

SCALE, BIAS = torch.tensor(10.0), torch.tensor(-5.0)
LOSSES = [
    FFFLoss,
    lambda: FFFLoss(impl="dense"),
    MultiPositiveSoftmaxLoss,
    lambda: MultiPositiveSoftmaxLoss(impl="dense"),
    SmoothedITCLoss,
    lambda: SmoothedITCLoss(consistency=0.2),
]
P = {"p1": 0.27, "p2": 0.92, "p3": 0.99, "p1_prime": 0.24}


def raw(n: int = 8, k: int = 3, d: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Features as a tower without a last normalisation gives them."""
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=g), torch.randn(n, k, d, generator=g)


def unit(*features: torch.Tensor) -> list[torch.Tensor]:
    return [F.normalize(x, dim=-1) for x in features]


def says(name: str, rows: str) -> str:
    return rf"^{name} are not L2-normalised: {rows} rows have .* {name} = F.normalize\({name}, dim=-1\)$"


def test_the_assignment_refuses_them_in_each_call():
    image, text = raw()
    for _ in range(2):
        assert similarity_assignment(*unit(image, text), **P).diagonal().all()
        with pytest.raises(ValueError, match=says("image_features", "8 of 8")):
            similarity_assignment(image, text, **P)
    with pytest.raises(ValueError, match=says("text_features", "1 of 24")):
        wrong = unit(text)[0]
        wrong[2, 1] *= 1.02
        similarity_assignment(unit(image)[0], wrong, **P)


@pytest.mark.parametrize("make", LOSSES)
def test_a_loss_refuses_them_in_its_first_call_alone(make):
    image, text = raw()
    loss = make()
    for _ in range(2):  # a call that failed is none
        with pytest.raises(ValueError, match=says("image_features", "8 of 8")):
            loss(image, text, SCALE, BIAS)
    with pytest.raises(ValueError, match=says("text_features", "24 of 24")):
        loss(unit(image)[0], text, SCALE, BIAS)
    assert loss(*unit(image, text), SCALE, BIAS).isfinite()
    assert loss(image, text, SCALE, BIAS).isfinite()  # a step asks the device nothing


@pytest.mark.parametrize("make", LOSSES)
def test_half_precision_zeros_and_padding_are_allowed(make):
    image, text = raw(64, 3, 512)
    valid = torch.ones(64, 3, dtype=torch.bool)
    valid[:, 2] = False
    padded = F.normalize(text, dim=-1)
    padded[:, 2] = 7.0
    assert make()(F.normalize(image, dim=-1), padded, SCALE, BIAS, caption_valid=valid).isfinite()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = unit(image.to(dtype), text.to(dtype))
            assert make()(*half, SCALE, BIAS).isfinite()
            similarity_assignment(*half, **P)
            half[0][3], half[1][5, 0] = 0.0, 0.0
            assert make()(*half, SCALE, BIAS).isfinite()
            similarity_assignment(*half, **P)
    with pytest.raises(ValueError, match="of 64 rows have"):
        make()(image.bfloat16(), text.bfloat16(), SCALE, BIAS)


def test_features_that_mine_are_looked_at_when_they_first_come():
    image, text = unit(*raw())
    mining = MiningConfig(0.2, 0.3, 0.4, 0.1)
    for name, other in (("mining_image_features", "mining_text_features"), ("mining_text_features",) * 2):
        wrong = dict(zip(("mining_image_features", "mining_text_features"), (image, text), strict=True))
        wrong[name] = 3 * wrong[name]
        with pytest.raises(ValueError, match=f"^{name} are not"):
            FFFLoss(mining=mining)(image, text, SCALE, BIAS, **wrong)
        criterion = Criterion(FFFLoss(), mining)
        with pytest.raises(ValueError, match=f"^{name} are not"):
            criterion(image, text, SCALE, BIAS, **wrong)
        criterion(image, text, SCALE, BIAS, mining_image_features=image, mining_text_features=text)
        criterion(image, text, SCALE, BIAS, **{other: text if "text" in other else image, **wrong})


def test_what_the_bias_starts_from_is_looked_at():
    image, text = raw()
    assignment = make_assignment(own_text_block(torch.ones(text.shape[:2]).bool(), None, 0))
    with pytest.raises(ValueError, match=r"^image are not"):
        cosine_sums(image, text, assignment)
    assert cosine_sums(*unit(image, text), assignment)[1] == 8 * 8 * 3


@pytest.mark.skipif(torch.__version__.startswith("2.6"), reason="its compiler knows no namedtuple._replace")
@pytest.mark.parametrize("make", LOSSES[:5])
def test_inside_of_a_compiled_graph(make):
    image, text = raw()
    torch.compiler.reset()
    compiled = torch.compile(make(), backend="eager", fullgraph=True)
    assert compiled(*unit(image, text), SCALE, BIAS) == make()(*unit(image, text), SCALE, BIAS)
    with pytest.raises(RuntimeError, match=r"^image_features are not L2-normalised; .*F.normalize\(image_features"):
        compiled(image, text, SCALE, BIAS)


class Model(nn.Module):
    def __init__(self, normalise: bool) -> None:
        super().__init__()
        self.tower, self.normalise, self.loss = nn.Linear(16, 16), normalise, FFFLoss()

    def forward(self, image, text):
        features = self.tower(image), self.tower(text)
        return self.loss(*(unit(*features) if self.normalise else features), SCALE, BIAS)


def test_under_ddp():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        image, text = raw()
        model = DistributedDataParallel(Model(True))
        model(image, text).backward()
        assert model.module.tower.weight.grad.abs().sum() > 0
        with pytest.raises(ValueError, match=r"^image_features are not"):
            DistributedDataParallel(Model(False))(image, text)
    finally:
        dist.destroy_process_group()


def test_a_loss_that_mines_by_itself_has_no_memory_of_steps():
    for more in ({"per_image": 2.0}, {"warmup": 5}, {"guarded": True}):
        with pytest.raises(ValueError, match="use a Miner"):
            FFFLoss(mining=MiningConfig(**more))
