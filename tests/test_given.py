"""Positives of one's own: by a key and from a list, against a plain loop, joined with mined ones, in training."""

from functools import partial

import pandas as pd
import pytest
import torch

from open_clip_fff import FFFLoss, MiningConfig, MultiPositiveSoftmaxLoss, SmoothedITCLoss
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.flags import flag_parser
from open_clip_fff.config.fusion import ITM_NEGATIVES
from open_clip_fff.config.resolve import make_plan
from open_clip_fff.data.ids import NO_ID, key_id, row_id
from open_clip_fff.data.positives import read_pairs
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError
from open_clip_fff.host.report.mining_warnings import outweighed
from open_clip_fff.host.report.recall import Keys, recall
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.losses.fusion import FusionLoss
from open_clip_fff.mining.clauses import mine, with_mined
from open_clip_fff.mining.connections import ConnectionMiner
from open_clip_fff.mining.counts import rates
from open_clip_fff.mining.given import GivenPairs, ListedPairs
from open_clip_fff.mining.global_texts import TextBlock
from open_clip_fff.mining.hardest import hardest_negatives
from open_clip_fff.mining.itm_reference import itm_reference
from open_clip_fff.mining.labels import IGNORED, NEGATIVE, POSITIVE, own_assignment
from open_clip_fff.mining.reference import MiningFeatures, given_labels
from tests.conftest import DRAWN, colour_sample, write_tar
from tests.test_tiled import batch, features, small_tiles  # noqa: F401

N, K = 37, 3
LISTED = {(0, 5), (5, 9), (9, 30), (2, 2), (3, 99), (40, 41), (12, 13), (14, 13)}
LOSSES = {
    "fff": FFFLoss,
    "per-anchor": partial(FFFLoss, positive_weight="per-anchor", mined_weight=0.5),
    "softmax": MultiPositiveSoftmaxLoss,
    "s-itc": partial(SmoothedITCLoss, 0.5),
}


def names(n: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys, some missing, and rows, one of them twice."""
    g = torch.Generator().manual_seed(2)
    rows = torch.arange(n)
    rows[-2] = rows[5]
    return torch.randint(-1, n // 3, (n,), generator=g), rows


def listed() -> ListedPairs:
    return ListedPairs.of(torch.tensor(sorted(LISTED)))


@pytest.mark.parametrize("by_key", [POSITIVE, IGNORED])
def test_labels_are_those_of_a_plain_loop(by_key):
    keys, rows = names()
    ids = torch.arange(N)
    ids[7] = ids[11]
    block, given = TextBlock(0, ids, torch.ones(N, K, dtype=torch.bool), keys=keys, rows=rows), listed()
    wanted = given_labels(ids, keys, rows, LISTED, by_key)
    assert torch.equal(GivenPairs(by_key, given).labels(block, block), wanted)
    assert {POSITIVE, NEGATIVE, by_key} == set(wanted.unique().tolist())
    part = GivenPairs(by_key, given).labels(block.subset(slice(3, 20)), block.subset(slice(8, 30)))
    assert torch.equal(part, wanted[3:20, 8:30])
    by_key_alone = GivenPairs(by_key).labels(block, block._replace(rows=None))
    assert torch.equal(by_key_alone, given_labels(ids, keys, rows, set(), by_key))


@pytest.mark.parametrize("by_key", [POSITIVE, IGNORED], ids=["positive", "ignore"])
@pytest.mark.parametrize("mining", [None, {}, {"cap": 2}, {"band": 0.05, "mined_as": "ignore"}], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_by_tiles_is_that_of_the_dense_assignment(small_tiles, loss, mining, by_key):  # noqa: F811
    """In float64, with ragged captions of both images and in both directions; the mined pairs join them."""
    leaves, valid, ids = batch(N, K)
    (keys, rows), (image, text) = names(), features(N, K, seed=9)
    config = None if mining is None else MiningConfig(0.25, 0.4, 0.5, 0.0, **mining)
    told, own = given_labels(ids, keys, rows, LISTED, by_key), own_assignment(ids, ids, valid)
    labels = torch.where(own == NEGATIVE, told[..., None], own)
    if config is not None:
        seen = MiningFeatures(image, text, valid, ids)
        mined = mine(seen, seen, config, told)
        assert mined.pairs.any() and not mined.pairs[told == POSITIVE].any()
        assert config.cap is None or mined.pairs.sum(dim=(1, 2)).max() == config.cap
        labels = with_mined(labels, mined, config.mined_as)
    wanted = LOSSES[loss](impl="dense")(*leaves, valid, ids, labels)
    criterion = Criterion(LOSSES[loss](impl="tiled"), config, given=GivenPairs(by_key, listed()))
    more = {"caption_valid": valid, "image_ids": ids, "positive_keys": keys, "row_ids": rows}
    found = criterion(*leaves, **more, mining_image_features=image, mining_text_features=text)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    for ours, theirs in zip(*(torch.autograd.grad(x, leaves) for x in (found, wanted)), strict=True):
        assert (ours - theirs).norm() <= 1e-12 * theirs.norm().clamp(min=1e-2)
    counted = rates(criterion.counts.take(torch.device("cpu")))
    assert counted.given == pytest.approx(float(((told != NEGATIVE)[..., None] & valid).sum()) / N)


def test_a_mined_pair_of_an_ignored_key_is_a_positive_and_a_rate_counts_what_is_not_known():
    (image, text), valid, ids = features(N, K), torch.ones(N, K, dtype=torch.bool), torch.arange(N)
    keys = torch.arange(N) % 3  # those that the features are alike by
    more = {"image_ids": ids, "positive_keys": keys, "mining_image_features": image, "mining_text_features": text}

    def assignment(mining: MiningConfig, by_key: int) -> torch.Tensor:
        return Criterion(FFFLoss(), mining, given=GivenPairs(by_key)).assignment(image, text, valid, **more).to_tensor()

    same = (keys[:, None] == keys)[..., None] & (ids[:, None] != ids)[..., None]
    ignored = assignment(MiningConfig(0.5, None, None, None), IGNORED)
    assert set(ignored[same.expand_as(ignored)].tolist()) == {IGNORED, POSITIVE}
    by_rate = assignment(MiningConfig(per_image=2.0, p2=None, p3=None), POSITIVE)
    assert (by_rate[same.expand_as(by_rate)] == POSITIVE).all()
    assert ((by_rate == POSITIVE) & ~same).sum() == N * K + 2 * N


@pytest.mark.parametrize("negatives", ITM_NEGATIVES)
def test_a_given_pair_is_no_hard_negative(negatives):
    (image, text), ids, valid = features(12, K), torch.arange(12), torch.rand(12, K) > 0.3
    keys = torch.arange(12) % 3
    block = TextBlock(0, ids, valid, keys=keys)
    apart = GivenPairs(IGNORED).labels(block, block) == NEGATIVE
    assert (keys == keys[hardest_negatives(image, text, ids, valid).caption // K]).any()
    settings = type("Settings", (), {"itm_negatives": negatives, "mlm_weight": 0.0})
    loss = FusionLoss(None, None, settings)
    pairs = loss.pairs(image, text, torch.tensor(5.0), ids, valid, None, apart)
    others = pairs.image != pairs.caption // K
    assert others.any() and (keys[pairs.image] != keys[pairs.caption // K])[others].all()
    if negatives == "hardest":
        similarity = image @ text.flatten(0, 1).T
        wanted = itm_reference(similarity, ids, valid, negatives=apart)
        assert sorted(zip(pairs.image.tolist(), pairs.caption.tolist(), strict=True)) == sorted(x[:2] for x in wanted)


def test_recall_counts_captions_of_a_key_as_right_or_leaves_them_out():
    image = torch.eye(4)[[0, 1, 2]]
    text = torch.nn.functional.normalize(torch.tensor([[0.5, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]), dim=-1)
    ids, keys = torch.arange(3), torch.tensor([7, 7, -1])

    def found(right: bool | None) -> tuple[float, float]:
        shares = recall(image, text, ids, ids, keys=None if right is None else Keys(keys, keys, right))
        return shares["image_to_text_R@1"], shares["text_to_image_R@1"]

    # the first two images' captions have changed places, and the second one's is behind that of the third
    assert found(None) == pytest.approx((1 / 3, 1 / 3))
    assert found(True) == (1.0, 1.0)
    assert found(False) == pytest.approx((2 / 3, 2 / 3))


def test_keys_of_members_fields_and_columns():
    assert key_id(7) == key_id("7") == key_id(b" 7\n") != key_id("07")
    assert {key_id(nothing) for nothing in (None, float("nan"), [], {}, "", b" ")} == {NO_ID}
    sample = {"__url__": "a.tar", "__key__": "3", "png": b"x", "txt": b"t", "sku": b"12"}
    sample["json"] = b'{"meta": {"sku": 12}}'
    settings = {"member": "sku", "field": "meta.sku", "neither": "product"}
    found = {name: CaptionReader(CaptionSettings(positive_key=key)).row(sample) for name, key in settings.items()}
    assert found["member"].key == found["field"].key == key_id(12) and found["neither"].key == NO_ID
    row = CaptionReader(CaptionSettings(positives="pairs.csv")).row(sample)
    assert row.row == row_id("a.tar", "3") != row_id("b.tar", "3") and found["member"].row == NO_ID
    table = CaptionReader(CaptionSettings(text_keys=("title",), positive_key="sku", positives="p.csv"))
    row = table.table_row("a/3.png", {"title": "t", "sku": "12"}, {"title": ["t"]})
    assert (row.key, row.row) == (key_id("12"), row_id("", "a/3.png"))


@pytest.fixture
def two_sets(tmp_path):
    """Two data sets whose shards have one name."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "00.tar", {f"{row:02d}": colour_sample(row) for row in range(4)})
    return f"{tmp_path}/one/00.tar::{tmp_path}/two/00.tar"


def written(path, rows: list[tuple], columns: str = "source_a shard_a key_a source_b shard_b key_b"):
    table = pd.DataFrame(rows, columns=columns.split())
    {
        ".parquet": table.to_parquet,
        ".csv": partial(table.to_csv, index=False),
        ".tsv": partial(table.to_csv, index=False, sep="\t"),
        ".jsonl": partial(table.to_json, orient="records", lines=True),
    }[path.suffix](path)
    return str(path)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "jsonl"])
def test_keys_that_look_like_no_value_and_cells_that_have_none(tmp_path, suffix):
    """pandas takes NA, null, None and nan in a CSV for no value, and writes the whole numbers of a gap as 0.0."""
    keys = ["NA", "null", "None", "nan", "17", "3"]
    write_tar(tmp_path / "nan.tar", {key: colour_sample(row) for row, key in enumerate(keys)})
    rows = [(0.0, "nan", "NA", "nan", "null"), (None, "nan", "None", "nan", "nan"), (None, "nan", None, "nan", "nan")]
    found = read_pairs(
        written(tmp_path / f"p.{suffix}", rows, "source_a shard_a key_a shard_b key_b"),
        url := str(tmp_path / "nan.tar"),
    )
    wanted = [sorted(row_id(url, key) for key in pair) for pair in (("NA", "null"), ("None", "nan"))]
    assert sorted(found.pairs.tolist()) == sorted(wanted)
    assert any(line.endswith("left out 1 pair with an empty cell") for line in found.lines)
    whole = [("nan", 17, "nan", 3), ("nan", None, "nan", 3)]  # pandas makes floats of them
    if suffix in ("parquet", "jsonl"):
        found = read_pairs(written(tmp_path / f"n.{suffix}", whole, "shard_a key_a shard_b key_b"), url)
        assert found.pairs.tolist() == [sorted((row_id(url, "17"), row_id(url, "3")))]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_file_of_pairs(two_sets, tmp_path, suffix):
    """Rows of either set; the same pair twice, one of a row with itself, and those of rows that do not exist."""
    one, two = two_sets.split("::")
    rows = [
        (0, "00", "01", 1, "00.tar", "02"),
        (1, "00", "02", 0, one, "01"),
        (0, "00", "03", 0, "00.tar", "03"),
        (0, "00", "01", 1, "00", "77"),
        (0, "05", "01", 1, "00", "00"),
        (2, "00", "01", 1, "00", "00"),
    ]
    found = read_pairs(written(tmp_path / f"pairs.{suffix}", rows), two_sets)
    assert found.pairs.tolist() == [sorted([row_id(one, "01"), row_id(two, "02")])]
    said = "\n".join(found.lines)
    assert "left out 2 pairs with a shard that is not in --train-data (first 05)" in said
    assert "left out 1 pair with a key that is not in its shard (first 00 77)" in said and "1 pair of 2 rows" in said


@pytest.mark.parametrize(
    ("rows", "columns", "line"),
    [
        ([("00", "01", "00", "02")], "shard_a key_a shard_b key_b", "shard 00 is .* name its data set, from 0"),
        ([("01", "02")], "key_a key_b", "no column shard_a; it has key_a, key_b"),
        ([(0.5, "00", "01", 0, "00", "01")], None, r"source is '0\.5': the number of a data set, from 0"),
        ([(0, "00", "09", 0, "00", "01")], None, "first 00 09.*no pair of two rows of --train-data is left"),
        ([("x", "00", "01", 0, "00", "01")], None, "source is 'x': the number of a data set, from 0"),
        ([], None, "holds no pair"),
    ],
)
def test_files_of_pairs_that_are_refused(two_sets, tmp_path, rows, columns, line):
    path = written(tmp_path / "pairs.csv", rows, *([columns] if columns else []))
    with pytest.raises(UsageError, match=line):
        read_pairs(path, two_sets)


def test_a_file_of_pairs_that_is_none(tmp_path):
    (tmp_path / "pairs.parquet").write_text("no parquet")
    for name, line in (
        ("pairs.parquet", "cannot be read"),
        ("no.csv", "cannot be read"),
        ("a.npz", "is none of .parq"),
    ):
        with pytest.raises(UsageError, match=line):
            read_pairs(str(tmp_path / name), None, ["a.png"])


FFF = ["--method", "fff", "--captions-per-image", "2", "--mining-features", "off"]
TARS = [*FFF, "--json-text-key", "captions"]


def test_a_run(trainer, csv, tmp_path, capsys):
    """From tars and from a table; what the terminal says of it before, during and after."""
    rows = [("00", "0000", "01", "0005"), ("00", "0000", "02", "0044")]
    pairs = written(tmp_path / "pairs.csv", rows, "shard_a key_a shard_b key_b")
    given = ["--positive-key", "title", "--positive-key-as", "ignore", "--positives", pairs]
    assert trainer(*TARS, *given, "--val-data", f"{trainer.shards}/00.tar", "--name", "tars", "--save-most-recent") == 0
    said, log = capsys.readouterr().out, trainer.log("tars")
    assert "images of one title are no negatives either;\n" in said and f"the pairs in {pairs} are pos" in said
    assert "--positive-key title has a value in 100.00% of rows\n  ! all 16 of these differ, and" in said
    assert "left out 1 pair with a key that is not in its shard (first 02 0044)" in said and "1 pair of 2 rows" in said
    assert "Given/image: 0.000" in log and "title in 100.00%" in log  # only two images make a pair
    assert "(others of one title are left out)" in log
    assert "were a pair" not in log  # the pair has met once
    table = pd.read_csv(csv, sep="\t")
    table["product"] = [f"{index // 16:03d}" if index % 4 else None for index in range(len(table))]
    table.to_csv(tmp_path / "train.csv", sep="\t", index=False)
    pairs = written(tmp_path / "pairs.jsonl", [(table["filepath"][0], table["filepath"][4])], "key_a key_b")
    data = [
        "--train-data",
        str(tmp_path / "train.csv"),
        "--csv-img-key",
        "filepath",
        "--csv-caption-key",
        "title;pseudo",
    ]
    given = ["--positive-key", "product", "--positives", pairs]
    assert trainer(*FFF, *given, "--name", "table", data=data) == 0
    log = trainer.log("table")
    said = capsys.readouterr().out
    assert "product in 75.00%" in log and "1 pair of 2 rows" in said
    shown = [float(line.split("Given/image: ")[1].split()[0]) for line in log.splitlines() if "Given/image" in line]
    assert len(shown) == 2 and min(shown) > 3 and log.count("Given positives: ") == 1
    assert "of these differ" not in said and "were a pair" not in log


def test_a_key_that_no_two_images_share_is_told(trainer, capsys):
    assert trainer(*TARS, "--positive-key", "title", "--epochs", "2", "--name", "apart") == 0
    assert (
        "  ! all 16 of these differ, and only equal ones make positives: is it an image's id?"
        in capsys.readouterr().out
    )
    log = trainer.log("apart")
    assert log.count("WARNING | --positive-key title: no two images of a batch were a pair in this whole epoch") == 1
    assert log.index("were a pair") < log.index("Start epoch 1")


@pytest.mark.parametrize(
    ("flags", "given", "advice"),
    [
        (["--method", "fff"], 21.0, "21 captions of other images count beside an image's own 5, each as much"),
        (["--method", "fff"], 127.0, "worst. --positive-weight mined-per-anchor makes"),
        (["--method", "fff-softmax"], 127.0, "worst. --mined-weight 0.008 makes"),
        (["--method", "fff"], 20.0, None),
        (["--method", "fff", "--positive-weight", "mined-per-anchor"], 127.0, None),
        (["--method", "fff-softmax", "--mined-weight", "0.01"], 127.0, None),
        (["--method", "fff", "--positive-key-as", "ignore"], 127.0, None),
    ],
)
def test_positives_that_outweigh_own_captions(flags, given, advice):
    plan = make_plan(flag_parser().parse_args([*flags, "--mining-features", "off", "--positive-key", "sku"]))
    found = outweighed(given, plan)
    assert found is None if advice is None else advice in found


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--positive-key", "sku"],
            "--positive-key sku: no row of 00.tar has anything there; its rows hold json, png, ",
        ),
        (["--positive-key-as", "ignore"], "--positive-key-as does nothing without --positive-key FIELD"),
        (["--positives", "no.parquet"], "--positives no.parquet: cannot be read"),
    ],
)
def test_refusals(trainer, capsys, flags, line):
    assert trainer(*TARS, *flags) == 2
    assert line in capsys.readouterr().err
    assert trainer(*DRAWN, "--positive-key", "title") == 2
    assert "--positive-key: clip takes no other positives; use --loss fff, softmax" in capsys.readouterr().err


def test_pairs_that_are_given_are_not_asked_of_the_discriminator():
    (image, text), keys, asked = features(12, 1), torch.arange(12) % 3, []

    def label_matches(caption, other, _):
        asked.append((caption, other[:, 0]))
        return torch.full_like(caption, -1, dtype=torch.int8), torch.full_like(other, -1, dtype=torch.int8)

    criterion = Criterion(FFFLoss(), None, given=GivenPairs())
    criterion.connections = ConnectionMiner(label_matches)
    given = {"image_ids": torch.arange(12), "positive_keys": keys, "caption_hashes": torch.arange(12)[:, None]}
    criterion.assignment(image, text, **given)
    ((captions, images),) = asked
    assert (keys[captions] != keys).all() and (keys[images] != keys).all()


def test_a_key_that_no_row_of_a_table_has_is_told(tmp_path):
    path = written(tmp_path / "pairs.csv", [("a.png", "b.png"), ("a.png", "typo.png")], "key_a key_b")
    found = read_pairs(path, None, ["a.png", "b.png"])
    assert len(found.pairs) == 1
    assert "left out 1 pair with a key that is not in its shard (first typo.png)" in found.lines[0]
