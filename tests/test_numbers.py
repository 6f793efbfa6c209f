"""A threshold that is printed can be pasted: it cuts at the same place, wherever it was printed."""

import re

import numpy as np
import pytest
import torch

from open_clip_fff.config.flags import flag_parser
from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.config.numbers import number, threshold_text
from open_clip_fff.host.report.step_log import StepReport
from open_clip_fff.mining.counts import Rates
from open_clip_fff.mining.histograms import BINS, edge
from open_clip_fff.mining.reference import Thresholds
from open_clip_fff.tools.calibrate.run import threshold_flags
from open_clip_fff.tools.gallery.sections import format_thresholds

HIGH = Thresholds(0.2731, torch.tensor(0.99962, dtype=torch.float64), 0.9999996, 0.24)


def test_it_reads_back_as_the_same_float32():
    edges = edge(torch.arange(BINS))  # what a held rate can find
    numbers = [*edges.tolist(), *torch.linspace(-1, 1, 999).tolist(), 0.27, 0.99962, 0.123456789]
    for value in numbers:
        assert np.float32(float(threshold_text(value))) == np.float32(value)
    assert [threshold_text(x) for x in (0.27, 0.99962, 1.0, None, 1.001)] == ["0.27", "0.99962", "1", "off", "off"]
    assert [number(x) for x in (10.0, 0.9999999, 1)] == ["10", "0.9999999", "1"]


def printed_by_the_log() -> str:
    rates = Rates(0, 0, 0, 0, 0, 0, 0.1)
    held = {name: float(x) for name, x in HIGH._asdict().items()}
    return StepReport(0, 0, rates, held, None, 10.0, None, 1.0).line()


@pytest.mark.parametrize(
    "printed",
    [
        printed_by_the_log,
        lambda: " ".join(threshold_flags(MiningConfig(*map(float, HIGH)))),
        lambda: format_thresholds(HIGH),
    ],
)
def test_wherever_it_is_printed(printed):
    names = {"p1": r"p1", "p2": r"p2", "p3": r"p3", "p1_prime": r"p1(?:'|′|-prime)"}
    for name, pattern in names.items():
        (text,) = re.findall(rf"(?<![\w]){pattern} ([\d.]+)", printed().replace(",", " "))
        value = vars(flag_parser().parse_args([f"--{name.replace('_', '-')}", text]))[name]
        assert np.float32(value) == np.float32(float(getattr(HIGH, name))), name
