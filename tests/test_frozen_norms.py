"""--lock-image-freeze-bn-stats with timm's norms that have an activation in them, and norms of several ranks."""

import open_clip
import open_clip_train.main as oc_main
import pytest
import torch

from open_clip_fff.data.counters import LoaderCounters
from open_clip_fff.data.images import read_image
from open_clip_fff.errors import UsageError
from open_clip_fff.host.fixes import AnyDeviceDDP, fixes
from open_clip_fff.host.generation import PARALLEL

TOWER = {
    "embed_dim": 16,
    "vision_cfg": {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


@pytest.mark.parametrize("unlocked", [0, 2])
def test_a_locked_tower_is_the_same_function(unlocked):
    torch.manual_seed(0)
    model = open_clip.CLIP(**TOWER)
    images = torch.randn(8, 3, 32, 32)
    for _ in range(3):
        model.encode_image(images)  # running statistics
    wanted, weights = model.eval().encode_image(images), {name: x.clone() for name, x in model.state_dict().items()}
    with fixes(LoaderCounters(), 0, read_image):
        model.lock_image_tower(unlocked_groups=unlocked, freeze_bn_stats=True)
    torch.testing.assert_close(model.encode_image(images), wanted)
    norms = [name for name, x in weights.items() if name.endswith("running_mean")]
    model.train().encode_image(images + 1.0)
    kept = model.state_dict()
    moved = [name for name in norms if not torch.equal(kept[name], weights[name])]
    assert (0 < len(moved) < len(norms)) if unlocked else not moved
    unlocked_again = open_clip.CLIP(**TOWER)
    unlocked_again.load_state_dict(kept)
    torch.testing.assert_close(unlocked_again.eval().encode_image(images), model.eval().encode_image(images))


def test_norms_of_several_ranks_are_the_same_function():
    torch.manual_seed(0)
    model, images = open_clip.CLIP(**TOWER), torch.randn(8, 3, 32, 32)
    for _ in range(3):
        model.encode_image(images)  # running statistics
    wanted = model.eval().encode_image(images)
    with fixes(LoaderCounters(), 0, read_image):
        model = oc_main.torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # as OpenCLIP does it
        assert PARALLEL.torch.nn.parallel.DistributedDataParallel is AnyDeviceDDP
    assert any(isinstance(each, torch.nn.SyncBatchNorm) for each in model.modules())
    torch.testing.assert_close(model.encode_image(images), wanted)


def test_norms_of_several_ranks_need_a_gpu():
    with pytest.raises(UsageError, match="--use-bn-sync: torch computes the norms of several ranks on a GPU alone"):
        AnyDeviceDDP(torch.nn.Sequential(torch.nn.SyncBatchNorm(4)), device_ids=[torch.device("cpu")])
