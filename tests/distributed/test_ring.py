"""In a ring no rank holds the global batch: bytes per rank do not grow with the number of ranks."""

import json

import pytest

from tests.distributed.test_parity import torchrun

pytestmark = pytest.mark.slow


def test_memory_per_rank_is_flat(tmp_path):
    peaks = {}
    for ranks in (3, 6):  # from three on a rank holds its own block, the one at hand and the next
        torchrun(ranks, "-m", "tests.distributed.ring_worker", tmp_path / f"{ranks}.json")
        peaks[ranks] = json.loads((tmp_path / f"{ranks}.json").read_text())
    print(peaks)
    for name, bytes_of_three in peaks[3].items():
        if name.startswith("ring"):
            assert peaks[6][name] <= 1.05 * bytes_of_three, name
        else:
            assert peaks[6][name] >= 1.5 * bytes_of_three, name  # what is gathered does grow
