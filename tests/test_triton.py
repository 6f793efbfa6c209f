"""The sigmoid's Triton kernel: PyTorch's numbers, through the interpreter and on a GPU where there is one."""

import importlib
import os
import subprocess
import sys
from math import log
from pathlib import Path

import pandas as pd
import pytest
import torch

from open_clip_fff import FFFLoss, MultiPositiveSoftmaxLoss
from tests import programs
from tests.once import once
from tests.test_tiled import batch

pytest.importorskip("triton")
ROOT = Path(__file__).parent.parent
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def python(*argv: object, **environment: str) -> str:
    """What a Python of its own prints, with Triton's interpreter off unless asked for."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *map(str, argv)]
    done = subprocess.run(
        command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=on_a_gpu)])
def found(request, tmp_path_factory) -> dict:
    """What tests/triton_worker.py found, on a GPU or interpreted."""
    interpreter = {"TRITON_INTERPRET": "1"} if request.param == "cpu" else {}

    def make(folder: Path) -> None:
        python("-m", "tests.triton_worker", request.param, folder / "found.pt", **interpreter)

    return torch.load(once(tmp_path_factory, f"triton-{request.param}", make) / "found.pt", weights_only=True)


def same(one: dict | list, other: dict | list) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def test_a_tile_is_what_pytorch_finds(found):
    assert len(found["tiles"]) == 36
    for name, runs in found["tiles"].items():
        ours, theirs = runs["kernel"], runs["torch"]
        size = theirs["gradient"].abs().sum().item()
        assert ours["loss"].dtype == ours["sum"].dtype == torch.float64 and ours["counted"].dtype == torch.int64
        assert ours["loss"].item() == pytest.approx(theirs["loss"].item(), rel=1e-6), name
        assert ours["sum"].item() == pytest.approx(theirs["sum"].item(), abs=1e-6 * size), name
        assert ours["counted"] == theirs["counted"], name
        apart = (ours["gradient"] - theirs["gradient"]).norm()
        assert apart <= 1e-6 * theirs["gradient"].norm(), name
        # each by itself, down to where float32 has no more digits, which a GPU makes 0
        torch.testing.assert_close(ours["gradient"], theirs["gradient"], rtol=5e-6, atol=1e-37, msg=name)


def test_a_tile_that_is_ignored_or_empty_adds_nothing(found):
    nothing = [name for name in found["tiles"] if "ignored" in name or "0" in name.replace("130", "")]
    assert len(nothing) == 16
    for name in nothing:
        ours = found["tiles"][name]["kernel"]
        assert all(not x.any() for x in ours.values()), name


def test_the_same_bits_twice(found):
    for runs in (*found["tiles"].values(), *found["losses"].values()):
        assert same(runs["kernel"], runs["again"])


def test_without_a_gradient_the_value_is_the_same(found):
    for runs in found["tiles"].values():
        alone = runs["value alone"]
        torch.testing.assert_close(alone["loss"], runs["kernel"]["loss"], rtol=1e-6, atol=0)
        assert alone["counted"] == runs["kernel"]["counted"] and alone["sum"] == 0
    for runs in found["losses"].values():
        torch.testing.assert_close(runs["value alone"][0], runs["kernel"][0], rtol=1e-6, atol=0)


def test_a_pair_alone_is_exact_however_small(found):
    for name, exact in found["pairs"]["exact"].items():
        torch.testing.assert_close(found["pairs"]["kernel"][name], exact, rtol=5e-6, atol=0)


def test_the_loss_is_the_dense_one(found):
    assert len(found["losses"]) == 12
    for name, runs in found["losses"].items():
        tolerance = 1e-5 if "float32" in name else 2e-2
        for ours, theirs in zip(runs["kernel"], runs["dense"], strict=True):
            assert (ours.double() - theirs).norm() <= tolerance * theirs.norm(), name


def test_what_the_kernel_does_not_take(found):
    assert found["refusals"] == {
        "float64": "impl is 'triton': its kernel takes float32, not torch.float64; use 'tiled'",
        "strided": "the kernel writes over its logits, which have to be contiguous",
        "shape": "labels are torch.int8 [3, 4], not int8 [6, 4]",
        "dtype": "labels are torch.bool [6, 4], not int8 [6, 4]",
    }


def test_more_pairs_than_an_int32_counts(found):
    if found["huge"] is None:
        pytest.skip("takes a GPU with 16 GiB free")
    pairs = 2**31 + 2**16
    assert found["huge"]["counted"] == pairs and (found["huge"]["last"] == 0.5).all()
    assert found["huge"]["sum"] == pairs / 2 and found["huge"]["loss"] == pytest.approx(pairs * log(2), rel=1e-6)


@pytest.mark.slow
def test_it_compiles_for_gpus_that_are_not_here(tmp_path):
    """The interpreter runs Python; a compiler takes less. No atomics, and places in a tile are 64 bits wide."""
    code = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from open_clip_fff.losses.sigmoid_triton import BLOCK, OPTIONS, _kernel
types = ("*fp32", "*i8", "*fp32", "*fp32", "*i32", "i32", "constexpr", "constexpr")
for generation in (80, 90):
    for wants in (True, False):
        fixed = {"NEEDS_GRADIENT": wants, "BLOCK": BLOCK}
        source = ASTSource(_kernel, dict(zip(_kernel.arg_names, types)), fixed)
        made = compile(source, target=GPUTarget("cuda", generation, 32), options=OPTIONS).asm
        assert made["cubin"] and "atom" not in made["ptx"] and "tensor<4096xi64>" in made["ttir"]
        print(generation, wants)
"""
    assert len(python("-c", code, TRITON_CACHE_DIR=str(tmp_path)).splitlines()) == 4


@pytest.mark.slow
def test_triton_is_optional():
    code = """
import sys
sys.modules["triton"] = None  # as where it is not installed
from open_clip_fff import FFFLoss, MultiPositiveSoftmaxLoss
FFFLoss(), FFFLoss(impl="tiled"), MultiPositiveSoftmaxLoss()
try:
    FFFLoss(impl="triton")
except ValueError as error:
    print(error)
"""
    assert python("-c", code) == "impl is 'triton': Triton is not installed; use 'tiled'\n"
    code = (
        "import sys, open_clip_fff; open_clip_fff.FFFLoss(); print([m for m in sys.modules if 'sigmoid_triton' in m])"
    )
    assert programs.run("-c", code).stdout == "[]\n"  # a fork of what has imported all that training does


def test_features_on_the_cpu_are_refused(monkeypatch):
    from open_clip_fff.losses import sigmoid_triton

    monkeypatch.setattr(sigmoid_triton, "INTERPRETED", False)
    leaves, valid, ids = batch(5, 2, torch.float32)
    loss = FFFLoss(impl="triton")
    with pytest.raises(ValueError, match="its kernel runs on cuda, not on cpu; use 'tiled'"):
        loss(*leaves, valid, ids)
    with pytest.raises(ValueError, match="choose from auto, dense, tiled, triton"):
        FFFLoss(impl="fused")


def test_the_softmax_has_no_kernel():
    with pytest.raises(ValueError, match="the kernel is the sigmoid loss's"):
        MultiPositiveSoftmaxLoss(impl="triton")


def test_the_benchmark_says_where_it_had_no_gpu(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    bench = importlib.import_module("bench_loss")
    sizes = ["--images", "8", "--captions", "1", "--width", "4", "--rounds", "1", "--device", "cpu"]
    assert bench.main([*sizes, "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "bench_loss.csv").set_index("loss")
    kernel = table.index.str.contains("triton")
    assert kernel.sum() == 2 and (table.loc[kernel, "note"] == "no GPU here").all()
    assert table.loc[kernel, "seconds"].isna().all() and table.loc[~kernel, "seconds"].notna().all()
    assert table.loc[~kernel, "note"].isna().all()
