"""The study of the fusion model: its data, what it reads of logs, its intervals, its tables, and what a step costs."""

import importlib
import io
import json
import re
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from open_clip_fff.data.ids import sample_id
from open_clip_fff.data.shards import read_samples
from open_clip_fff.host.report.step_log import StepReport
from open_clip_fff.losses.fusion_counts import FusionRates
from open_clip_fff.mining.counts import ConnectionRates, Rates
from tests.conftest import write_tar
from tests.eval_sets import jpeg

ROOT = Path(__file__).parent.parent
CSVS = ROOT / "docs" / "fusion-study"


@pytest.fixture
def study(monkeypatch):
    """A module of scripts/ by its name."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module


def test_photographs_once_and_twice_and_towers(study, tmp_path):
    data = study("flickr.data")
    captions = [f"a dog number {number} runs" for number in range(5)]
    row = {"jpg": jpeg(1), "json": json.dumps({"captions": captions}).encode(), "txt": b"a dog"}
    shards = [
        write_tar(tmp_path / f"{shard}.tar", {f"{shard}-{number}": row for number in range(2)})
        for shard in ("train-00", "train-01")
    ]
    out = tmp_path / "data"
    data.photographs(shards, out)
    data.architecture(shards, out)
    data.start(out, 3)
    once = list(read_samples([str(out / "once" / f"train-{shard:02d}.tar") for shard in range(2)]))
    assert len(once) == 4 and min(Image.open(io.BytesIO(once[0]["jpg"])).size) == data.SHORT
    assert [path.name for path in (out / "twice").iterdir()] == ["train-00.tar"]
    a, b = list(read_samples([str(out / "twice" / "train-00.tar")]))[:2]
    assert a["cls"] == b["cls"] and sample_id(a["jpg"]) != sample_id(b["jpg"])
    assert json.loads(a["json"])["captions"] + json.loads(b["json"])["captions"] == captions
    tokenizer = open_clip.get_tokenizer(data.NAME)
    assert tokenizer.tokenizer.tokenize("a dog runs") == ["a", "dog", "runs"]
    model = open_clip.create_model(data.NAME, pretrained_hf=False)
    model.load_state_dict(torch.load(out / "start" / "3.pt", weights_only=True))


def test_logs_are_read_as_they_are_written(study):
    logs = study("flickr.logs")
    rates = Rates(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1, None)
    fusion = FusionRates(0.7, 0.4, 0.8, 0.3, 0.9, 0.12, 0.2, 0.25, 0.5)
    found = ConnectionRates(by_image=0.2, by_text=0.4, ambiguous=0.1, right=0.6, missed=0.5, true=0.35)

    def line(epoch, connections):
        return StepReport(epoch, 0, rates, {}, None, 10.0, None, 0.0, connections, fusion).line()

    log = "\n".join([line(0, ConnectionRates(true=0.1)), line(1, ConnectionRates(true=0.9)), line(1, found)])
    of_epochs = logs.negatives(log)
    assert of_epochs == {0: {"true": 10.0}, 1: {"true": 35.0, "match": 30.0, "right": 60.0, "missed": 50.0}}
    assert logs.at_the_end(log) == {
        **{"ITM right": 70.0, "own": 40.0, "hard": 80.0, "converted": 12.0, "replaced": 20.0},
        **{"MLM right": 25.0, "false negatives": 30.0},
    }


def test_intervals_are_of_the_figures(study):
    scores = study("flickr.scores")
    draw, owner = np.random.default_rng(0), np.repeat(np.arange(40), 5)
    seeds, arms = (0, 1), ("plain", "MAFA", "ITC alone")
    samples = {}
    for arm in arms:
        for seed in seeds:
            found = {"image_of_text": owner}
            for order in scores.orders_of(arm):
                for way, size in zip(scores.WAYS, (40, 200), strict=True):
                    for k in (1, 5, 10):
                        found[f"{order}{way}@{k}"] = draw.random(size) < 0.05 * k + 0.4 * (order == "itm_")
            samples[arm, seed] = found
    lines = pd.DataFrame(scores.intervals(samples, arms, seeds))
    assert len(lines) == 2 * 3 * 7
    for line in lines.to_dict("records"):
        way = next(way for way, title in scores.WAYS.items() if title == line["way"])
        order = "" if line["arm"] == "ITC alone" else {v: k for k, v in scores.TITLES.items() if k}[line["order"]]

        def mean(arm, order, name=f"{way}@{line['k']}"):
            return 100 * np.mean([samples[arm, seed][f"{order}{name}"].mean() for seed in seeds])

        own = mean(line["arm"], order)
        assert line["value"] == pytest.approx(own, abs=1e-3) and line["low"] <= line["value"] <= line["high"]
        if line["order"] != "ITC":
            assert line["against its ITC value"] == pytest.approx(own - mean(line["arm"], "itc_"), abs=2e-3)
        if line["arm"] != "plain":
            assert line["against plain value"] == pytest.approx(own - mean("plain", order or "itc_"), abs=2e-3)
    itm = lines[(lines["order"] == "ITM") & (lines["way"] == "text → image")]
    assert (itm["against its ITC low"] > 0).all()  # 40 points more in 200 captions


def test_hardest_negatives_are_those_of_a_loop(study):
    hardest_with_hidden = study("flickr.hidden").hardest_with_hidden
    draw = torch.Generator().manual_seed(1)
    image = F.normalize(torch.randn(12, 4, generator=draw), dim=-1)
    text = F.normalize(image[:, None] + 1.5 * torch.randn(12, 5, 4, generator=draw), dim=-1)
    owner, number, hidden = (x.view(30, 12) for x in hardest_with_hidden(image, text, 12, 30))
    assert torch.equal(hidden, owner == torch.arange(12)) and 0 < hidden.float().mean() < 1
    for i in range(12):
        cosines = image[i] @ text.flatten(0, 1).T
        own = [float(cosines[i * 5 + k]) for k in range(5)]
        found = cosines[owner[:, i] * 5 + number[:, i]]
        # never harder than the hardest of all, and at least as hard as the least of its own captions
        assert found.max() <= cosines.max() + 1e-6 and found.min() >= min(own) - 1e-6
    alone = hardest_with_hidden(image, text, 1, 2)
    assert alone[2].all()  # nobody else is there


def test_the_page_s_figures_are_those_of_the_runs(study, tmp_path):
    """The page shows rows and columns of the tables, which one command makes of the CSVs."""
    for path in CSVS.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    made = study("flickr.report").report(tmp_path)
    assert made == (CSVS / "tables.md").read_text() == (tmp_path / "tables.md").read_text()
    rows = [set(re.findall(r"[^|]+", line.replace(" ", ""))) for line in made.splitlines() if line.startswith("|")]
    page = (CSVS.parent / "fusion-study.md").read_text()
    shown = [line.replace(" ", "") for line in page.splitlines() if line.startswith("|") and "---" not in line]
    assert len(shown) > 10
    for line in shown:
        assert any(set(re.findall(r"[^|]+", line)) <= row for row in rows), line


def test_what_the_fusion_model_costs_is_measured(study, bert_clip):
    bench = study("bench_fusion")
    if "tiny-bert-clip" not in open_clip.list_models():
        open_clip.add_model_config(bert_clip)
    captions = ["a red square", "a blue square", "something in red", "blue all over the picture"]
    steps = {name: bench.FusionStep("tiny-bert-clip", name, flags, captions) for name, flags in bench.ways(1).items()}
    rows = bench.measure(steps, 1)
    itc, itm, mlm = (row["peak_mib"] for row in rows)
    assert rows[0]["peak_over_itc"] == rows[0]["seconds_over_itc"] == 1 and itc < itm < mlm
    terms = [set(step.terms()) for step in steps.values()]
    assert terms[1] - terms[0] == {"itm_loss"} and terms[2] - terms[1] == {"mlm_loss"}
