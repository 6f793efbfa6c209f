"""scripts/mined_gallery.py: what the miners find, to look at; its numbers are those of mining, its page is one file."""

import math
import re
from html.parser import HTMLParser

import pytest
import torch
import torch.nn.functional as F

from open_clip_fff.atomic_io import write_atomically
from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.config.mining import FrozenSource, MiningConfig
from open_clip_fff.hub.training_flags import training_plan
from open_clip_fff.matching.scorer import PairScorer
from open_clip_fff.mining.clauses import mine
from open_clip_fff.mining.hardest import hardest_negatives
from open_clip_fff.mining.reference import MiningFeatures, Thresholds, similarities
from open_clip_fff.models.frozen import load_frozen
from open_clip_fff.tools.gallery.mined import STEPS, WINDOW, find_thresholds, mine_sample
from open_clip_fff.tools.gallery.run import GallerySettings, read_sample
from open_clip_fff.tools.gallery.scored import nearest_to_thresholds, score_batch, threshold_distance
from open_clip_fff.tools.sampling.draw import SampleDraw
from open_clip_fff.tools.sampling.extractors import FrozenExtractor
from open_clip_fff.tools.shards.tars import count_samples
from tests import colour_discriminator
from tests.conftest import colour_sample, write_tar
from tests.samples import plain, sample_features
from tests.test_assignment import random_features
from tests.test_features import embed

BARS = MiningConfig(0.45, 0.5, 0.5, 0.1)
EVERYTHING = 1_000  # rows
DISCRIMINATOR = ["--plugin", "tests.colour_discriminator", "--discriminator", "colours"]


def moved(config: MiningConfig, by: float) -> MiningConfig:
    """All thresholds higher."""
    bars = {name: getattr(config, name) for name in ("p1", "p2", "p3", "p1_prime")}
    return MiningConfig(**{name: x if x is None else x + by for name, x in bars.items()}, text_text=config.text_text)


def text_only(features: MiningFeatures) -> MiningFeatures:
    return features._replace(image=None)


CONFIGS = [
    BARS,
    MiningConfig(0.45, None, 0.5, None),
    MiningConfig(0.45, 0.5, 0.5, 0.1, text_text="max"),
    MiningConfig(None, None, 0.45, None, text_text="mean"),
    MiningConfig(None, 0.5, None, 0.1),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_its_pairs_and_numbers_are_minings(config):
    f = random_features(40, 3, d=8)
    f.valid[5, 1:] = False
    found = mine_sample(f, config, Thresholds.of(config), EVERYTHING)
    pairs, cosines = mine(f, f, config).pairs, similarities(f, f, config.text_text)
    assert found.pairs == pairs.sum() > 0 and found.images == pairs.any(dim=(1, 2)).sum()
    expanded = [None if x is None else x.expand(pairs.shape) for x in cosines]
    for part, mined in ((found.mined, True), (found.nearly, False)):
        assert part
        for row in part:
            for pair in row.pairs:
                place = pair.image, pair.other, pair.caption
                assert bool(pairs[place]) == mined == (pair.margin > 0) and pair.image == row.image != pair.other
                assert pair.scores == pytest.approx([float(x[place]) for x in expanded], abs=1e-6)
                # all thresholds up to there, and no farther
                assert not mine(f, f, moved(config, pair.margin + 1e-4)).pairs[place]
                assert mine(f, f, moved(config, pair.margin - 1e-4)).pairs[place]
                held = [margin is not None and margin > 0 for margin in pair.clauses(found.thresholds)]
                clauses = [bool(x.expand(pairs.shape)[place]) for x in mine(f, f, config).clauses]
                assert held == clauses and any(held) == mined
    shown = [{(p.image, p.other, p.caption) for row in part for p in row.pairs} for part in (found.mined, found.nearly)]
    assert not shown[0] & shown[1]


def test_what_is_in_doubt_comes_first_and_nothing_is_lost():
    f = random_features(40, 3, d=8)
    found = mine_sample(f, BARS, Thresholds.of(BARS), EVERYTHING)
    pairs = mine(f, f, BARS).pairs
    for part, all_of_them in ((found.mined, found.pairs), (found.nearly, found.near)):
        nearest = [min(abs(pair.margin) for pair in row.pairs) for row in part]
        assert nearest == sorted(nearest)
        assert sum(len(row.pairs) + row.left_out for row in part) == all_of_them
        for row in part:
            group = [abs(pair.margin) for pair in row.pairs if pair.other == row.pairs[0].other]
            assert group == sorted(group) and group[0] == min(abs(pair.margin) for pair in row.pairs)
            assert len({pair.other for pair in row.pairs}) <= 4
    assert all(-WINDOW <= pair.margin <= 0 for row in found.nearly for pair in row.pairs)
    few = mine_sample(f, BARS, Thresholds.of(BARS), 3)
    assert few.mined == found.mined[:3] and few.nearly == found.nearly[:3] and few.pairs == found.pairs
    for step, more, fewer in zip(STEPS, found.more, found.fewer, strict=True):
        assert found.pairs + more == mine(f, f, moved(BARS, -step)).pairs.sum()
        assert found.pairs - fewer == mine(f, f, moved(BARS, step)).pairs.sum()
    above = found.histogram[len(found.histogram) // 2 :].sum()
    assert above == pairs.sum() - mine(f, f, moved(BARS, WINDOW)).pairs.sum()


def test_tiles_cap_band_and_classes(monkeypatch):
    f = random_features(30, 2, d=8)
    capped = MiningConfig(0.45, 0.5, 0.5, 0.1, cap=2, band=0.02)
    labels = torch.arange(30) % 3
    found = mine_sample(f, capped, Thresholds.of(capped), EVERYTHING, labels)
    mined = mine(f, f, capped)
    assert found.pairs == mined.pairs.sum() and found.doubtful == mined.doubtful.sum() > 0
    assert found.cut == mine(f, f, BARS).pairs.sum() - found.pairs > 0
    assert found.right == (mined.pairs & (labels[:, None] == labels)[..., None]).sum()
    shown = {(p.image, p.other, p.caption) for row in found.mined for p in row.pairs}
    assert shown == {tuple(place) for place in mined.pairs.nonzero().tolist()}
    monkeypatch.setattr("open_clip_fff.tools.gallery.mined.AREA", 4 * 30 * 2)
    tiled = mine_sample(f, capped, Thresholds.of(capped), EVERYTHING, labels)
    for name in ("pairs", "images", "by_clause", "cut", "near", "right", "more", "fewer"):
        assert getattr(tiled, name) == getattr(found, name), name
    assert [row.image for row in tiled.mined] == [row.image for row in found.mined]


def test_texts_alone_have_one_score():
    f, config = text_only(random_features(30, 2, d=8)), MiningConfig(None, None, 0.5, None)
    found = mine_sample(f, config, Thresholds.of(config), EVERYTHING)
    assert found.pairs == mine(f, f, config).pairs.sum() > 0
    assert {pair.scores[:2] for row in found.mined for pair in row.pairs} == {(None, None)}


def test_a_rate_is_that_of_trainings_batches():
    f, batch = random_features(200, 2, d=16), 50
    thresholds = find_thresholds(f, MiningConfig(per_image=1.0), batch)
    found = mine_sample(f, MiningConfig(per_image=1.0), thresholds, 1)
    assert found.pairs / 200 * (batch - 1) / 199 == pytest.approx(1.0, rel=0.1)
    assert find_thresholds(f, BARS, batch) == Thresholds.of(BARS)
    # a cap leaves less of a batch: its rate is that of training, batch by batch
    capped, mined = MiningConfig(per_image=0.5, cap=1), 0
    numbers = find_thresholds(f, capped, 40)
    for start in range(0, 200, 40):
        mined += mine_sample(f.subset(slice(start, start + 40)), capped, numbers, 1).pairs
    assert mined / 200 == pytest.approx(0.5, rel=0.1)


# --- the hardest pairs -----------------------------------------------------------------------------------------------


class Known:
    """Says of a pair what its caption and its image tell: q is (image + number in the caption) / 100."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, images, captions):
        self.asked += len(captions)
        numbers = torch.tensor([float(caption) for caption in captions])
        return (images[:, 0, 0, 0] * 255 + numbers) / 100


def hard_batch(n: int = 12, k: int = 2) -> tuple[MiningFeatures, list[list[str]], list[torch.Tensor]]:
    f = random_features(n, k, d=8)
    f.valid[3, 1] = False
    captions = [[str(i * k + j) for j in range(int(f.valid[i].sum()))] for i in range(n)]
    return f, captions, [torch.full((3, 4, 4), i, dtype=torch.uint8) for i in range(n)]


def test_the_hardest_pairs_are_trainings_and_are_scored(monkeypatch):
    monkeypatch.setattr("open_clip_fff.tools.gallery.scored.PAIRS", 5)
    f, captions, crops = hard_batch()
    settings, known = ConnectionSettings("x", positive=0.205, negative=0.105), Known()
    scored = score_batch(f, f, captions, crops, PairScorer(known), settings, start=100)
    hardest = hardest_negatives(f.image, f.text, f.ids, f.valid)
    assert [(p.image - 100, (p.other - 100) * 2 + p.caption) for p in scored.by_image] == list(
        enumerate(hardest.caption.tolist())
    )
    expected = [(i * 2 + j, int(hardest.image[i, j])) for i in range(12) for j in range(2) if f.valid[i, j]]
    assert [((p.other - 100) * 2 + p.caption, p.image - 100) for p in scored.by_caption] == expected
    for pair in (*scored.by_image, *scored.by_caption):
        image, other = pair.image - 100, pair.other - 100
        assert pair.q == pytest.approx((image + float(captions[other][pair.caption])) / 100)
        assert pair.label == (pair.q > 0.205) - (pair.q < 0.105)
        assert pair.cosine == pytest.approx(float(f.image[image] @ f.text[other, pair.caption]), abs=1e-6)
    assert {pair.label for pair in scored.by_caption} == {1, 0, -1} and not scored.unscored
    first = nearest_to_thresholds(scored.by_caption, settings, 5)
    assert [threshold_distance(pair, settings) for pair in first] == sorted(
        threshold_distance(p, settings) for p in scored.by_caption
    )[:5]
    assert threshold_distance(first[0]._replace(q=math.nan), settings) == 0.0


def test_pairs_below_the_gate_are_not_scored():
    f, captions, crops = hard_batch()
    settings, known = ConnectionSettings("x", gate=0.5), Known()
    gate = random_features(12, 2, d=8, seed=5)
    scored = score_batch(f, gate, captions, crops, PairScorer(known), settings)
    total = 12 + int(f.valid.sum())
    assert 0 < scored.unscored < total and len(scored.by_image) + len(scored.by_caption) == total - scored.unscored
    assert known.asked <= total - scored.unscored
    for pair in scored.by_image:
        assert float(gate.image[pair.image] @ gate.text[pair.other, pair.caption]) > 0.5


# --- the program -----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Addresses in it, texts by class, and whether its tags are closed."""

    VOID = ("meta", "img", "rect", "line")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self._class: list[str] = []
        self.feed(text)
        assert not self.open

    @property
    def everything(self) -> list[str]:
        return [text for texts in self.texts.values() for text in texts]

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.addresses += [given[name] for name in ("src", "href", "action") if name in given]
        if tag not in self.VOID:
            self.open.append(tag)
            self._class.append((given.get("class") or "").split(" ")[0])

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag
            self._class.pop()

    def handle_data(self, data):
        if data.strip() and self._class:
            self.texts.setdefault(self._class[-1], []).append(data.strip())


@pytest.fixture
def training(trainer, teacher) -> list[str]:
    """The flags of a training that mines with the tiny model."""
    model = ["--mining-model", "tiny-clip", "--mining-pretrained", str(teacher), "--model-config", str(trainer.config)]
    return [*trainer.tars, *model, "--json-text-key", "captions", "--batch-size", "16", "--lr", "1e-3"]


@pytest.fixture
def show(program, tmp_path):
    """The program's page, parsed."""

    def run(*arguments: str) -> Page:
        out = tmp_path / "deep" / "gallery.html"
        program("mined_gallery", "--out", out, *arguments, folder="scripts")
        return Page(out.read_text())

    return run


BARS_TYPED = ["--p1", "0.2", "--p2", "0.97", "--p3", "0.95", "--p1-prime", "0.0"]


def test_a_page_of_the_users_own_data(show, shards, training, teacher, tiny_name):
    page = show("--samples", "64", "--show", "5", "--", *training, *BARS_TYPED)
    assert page.addresses and all(re.match(r"data:image/jpeg;base64,|#", address) for address in page.addresses)
    plan, _ = training_plan([*training[4:], *BARS_TYPED], defaults={"method": "fff"})
    frozen = load_frozen(FrozenSource(tiny_name, str(teacher)))
    f = sample_features([str(shards / f"0{n}.tar") for n in range(4)], plan.captions, frozen, 64)
    found = mine_sample(f, plan.mining, Thresholds.of(plan.mining), 5)
    mined = mine(f, f, plan.mining).pairs
    assert found.pairs == mined.sum() > 0
    assert any(text == f"{found.pairs:,} captions" for text in page.everything)
    pairs = [pair for part in (found.mined, found.nearly) for row in part for pair in row.pairs]
    assert len(page.texts["caption"]) == len(pairs)
    scores = [float(x.split()[-1]) for x in page.texts["chip"] if x.startswith("image–text")]
    assert scores == pytest.approx([pair.scores[0] for pair in pairs], abs=1e-4)
    scored = [re.fullmatch(r"(less than )?([\d.]+) (above|below), by .*", text) for text in page.texts["reason"]]
    assert [match[3] == "above" for match in scored] == [pair.margin > 0 for pair in pairs]
    for match, pair in zip(scored, pairs, strict=True):
        assert float(match[2]) == pytest.approx(abs(pair.margin), abs=1e-4)
    assert "64 images of 4 shards" in " ".join(page.texts["about"])


def test_a_discriminator_that_knows_colours(show, training):
    page = show("--samples", "40", "--show", "400", "--", *training, *DISCRIMINATOR)
    assert sum(colour_discriminator.ASKED) > 0 and max(colour_discriminator.ASKED) <= 16 + 16 * 5
    labels = [kind for kind in page.texts["reason"] if kind in ("positive", "ignored", "negative")]
    assert set(labels) == {"positive", "negative"}
    q = [float(text.split()[1]) for text in page.texts["chip"] if text.startswith("q ")]
    assert {label for label, number in zip(labels, q, strict=True) if number > 0.8} == {"positive"}
    # 0.95 is 0.15 from its threshold, 0.05 is 0.45 from its
    assert [abs(number - 0.95) < 1e-6 for number in q[:40]] == sorted((number > 0.8 for number in q[:40]), reverse=True)


def test_a_discriminator_where_nothing_mines(show, training, teacher):
    alone = [*training[:2], *training[-6:], "--method", "mafa", "--captions-per-image", "2", "--caption-policy", "all"]
    page = show(
        "--samples", "20", "--batch-size", "10", "--hardest-by", f"tiny-clip,{teacher}", "--", *alone, *DISCRIMINATOR
    )
    assert [x for x in page.addresses if x[0] == "#"] == ["#by-image", "#by-caption"]
    assert "20 pairs" in page.everything and max(colour_discriminator.ASKED) <= 10 + 20


def test_it_takes_the_captions_that_a_batch_would_have(trainer, training, teacher, tiny_name):
    frozen = load_frozen(FrozenSource(tiny_name, str(teacher)))
    urls = [str(trainer.shards / "00.tar")]

    def gathered(*flags: str):
        plan, _ = training_plan([*training[4:], *flags], defaults={"method": "fff"})
        settings = GallerySettings(5, 6, FrozenExtractor(frozen), None, torch.device("cpu"))
        return read_sample(plan, SampleDraw(urls, 16, 0, count_samples, plain), settings, plain)

    everything = gathered()
    assert [len(row.captions) for row in everything.rows] == [2, 3, 4, 5] * 4
    assert all(len(row.captions) == 1 for row in gathered("--caption-policy", "sample").rows)
    assert [row.captions for row in gathered("--caption-policy", "first").rows] == [[f"img {i}"] for i in range(16)]
    limited = gathered("--caption-words", "3:").rows
    assert limited[0].captions == ["a red square"] and limited[0].raw == 0
    expected = sample_features(urls, training_plan([*training[4:]], defaults={"method": "fff"})[0].captions, frozen, 16)
    for ours, theirs in zip(everything.mining, expected, strict=True):
        assert ours is theirs is None or torch.allclose(ours.float(), theirs.float(), atol=1e-6)


def test_stored_features_and_those_of_texts(show, trainer, training, sentence_model, tmp_path):
    assert embed("--out", str(tmp_path / "features"), "--", *training) == 0
    frozen = show("--samples", "32", "--", *training, *BARS_TYPED)
    stored = [*trainer.tars, "--json-text-key", "captions", "--mining-features", "precomputed", *BARS_TYPED]
    stored += ["--method", "fff", "--feature-sidecar", str(tmp_path / "features")]
    again = show("--samples", "32", "--", *stored)
    counts = [int(next(x for x in p.everything if x.endswith(" captions")).split()[0]) for p in (frozen, again)]
    assert counts[1] == pytest.approx(counts[0], rel=0.1)
    text = [*trainer.tars, "--json-text-key", "captions", "--mining-features", "text"]
    page = show("--samples", "32", "--", *text, "--mining-model", str(sentence_model), "--mined-per-image", "3")
    assert page.texts["caption"] and not any(x.startswith("image") for x in page.texts["chip"])
    assert any("found on this sample" in x for x in page.everything)
    assert embed("--out", str(tmp_path / "sentences"), "--", *text, "--mining-model", str(sentence_model)) == 0
    stored = [*text[:-1], "precomputed", "--feature-sidecar", str(tmp_path / "sentences")]
    again = show("--samples", "32", "--", *stored, "--mined-per-image", "3")
    assert again.texts["caption"] and not any(x.startswith("image") for x in again.texts["chip"])


def test_raw_captions_classes_and_what_is_left_out(show, training, tmp_path):
    samples = {f"{row}": {**colour_sample(row), "cls": str(row % 4).encode()} for row in range(12)}
    samples["3"]["png"] = b"no image"
    samples["5"]["json"] = b'{"captions": ["<b>a & b</b>", "x", "y"]}'
    data = ["--train-data", str(write_tar(tmp_path / "a.tar", samples)), "--train-num-samples", "12"]
    page = show("--", *data, *training[4:], "--class-key", "cls", "--no-mine-raw", "--p2", "-1", "--p1", "off")
    everything = page.everything
    assert any(text.startswith("1 sample left out") for text in everything)
    assert "<b>a & b</b>" in page.texts["caption"] and not any("img" in text for text in page.texts["caption"])
    assert {text for text in page.texts["chip"] if text.startswith("class")} <= {"class the same", "class another"}
    # all generated captions are mined; of 11 images, 3 of a class but one that has 2, and they have 1 to 4 of them
    classes = [row % 4 for row in range(12) if row != 3]
    counts = [3 if row == 5 else 1 + row % 4 for row in range(12) if row != 3]
    others = list(enumerate(zip(classes, counts, strict=True)))
    alike = [(a == b, n) for i, (a, _) in others for j, (b, n) in others if i != j]
    share = sum(n for same, n in alike if same) / sum(n for _, n in alike)
    assert f"{share:.1%} are of the image's class" in everything


def test_mistakes_are_a_line_and_leave_what_was_there(program, trainer, training, sentence_model, tmp_path):
    out = tmp_path / "gallery.html"
    out.write_text("as it was")
    text = [*trainer.tars, "--mining-features", "text", "--mining-model", str(sentence_model), "--json-text-key"]
    text.append("captions")
    for own, behind, named in (
        ([], training[4:], "--train-data: name the shards"),
        ([], [*training, "--batchsize", "4"], "did you mean --batch-size"),
        (["--sample", "4"], training, "--sample"),
        (["--samples", "1"], training, "--samples 1: must be 2 or more"),
        (["--show", "0"], training, "--show 0"),
        (["--batch-size", "1"], training, "--batch-size 1"),
        (["--device", "nowhere"], training, "--device nowhere"),
        (["--out", str(tmp_path)], training, "is a folder"),
        (["--out", str(out / "x.html")], training, "cannot be written"),
        ([], [*training[:1], "nowhere.tar", *training[2:]], "nowhere.tar does not exist"),
        ([], [*training, "--json-text-key", "nope"], "--json-text-key nope: no row of 00.tar has text there"),
        ([], [*training, "--mining-pretrained", "nowhere.pt"], "nowhere.pt: cannot be loaded"),
        ([], [*training[:4], "--method", "clip"], "nothing mines"),
        (
            [],
            [*training[:4], "--method", "fff", "--mining-features", "ema", "--mining-warmup", "9"],
            "a checkpoint of it",
        ),
        ([], [*training, "--p1", "2"], "a cosine threshold is a number from -1 to 1"),
        ([], [*text, *DISCRIMINATOR], "--hardest-by RUN_OR_MODEL"),
        (["--hardest-by", "x"], training, "--hardest-by: hardest pairs are scored by --discriminator"),
        ([], [*training, "--discriminator", "nowhere:x"], "no discriminator is called 'nowhere'"),
        ([], [*training, "--mining-features", "precomputed"], "none of the first 16 rows of 00.tar has any"),
    ):
        given = own if "--out" in own else ["--out", out, *own]
        error = program("mined_gallery", *given, "--", *behind, expect=2, folder="scripts").err.strip()
        assert named in error and len(error.splitlines()) == 1, error
    broken = write_tar(tmp_path / "few.tar", {"0": colour_sample(3), "1": {**colour_sample(4), "png": b"no image"}})
    few = ["--train-data", str(broken), "--train-num-samples", "2", *training[4:]]
    error = program("mined_gallery", "--out", out, "--", *few, expect=2, folder="scripts").err
    assert "1 image with captions read, and pairs take 2" in error
    assert out.read_text() == "as it was" and not list(tmp_path.glob(".gallery*"))


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    out = tmp_path / "new" / "page.html"
    write_atomically(out, "ä")
    assert out.read_text(encoding="utf-8") == "ä" and out.stat().st_mode & 0o777 == 0o644
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_atomically(out, "b")
    assert out.read_text(encoding="utf-8") == "ä" and list(out.parent.iterdir()) == [out]


def test_features_of_padding_do_not_count():
    f = random_features(20, 3, d=8)
    f.valid[:, 2] = False
    noisy = f._replace(text=torch.cat([f.text[:, :2], F.normalize(torch.randn(20, 1, 8), dim=-1)], dim=1))
    ours, theirs = (mine_sample(x, BARS, Thresholds.of(BARS), EVERYTHING) for x in (f, noisy))
    assert ours.mined == theirs.mined and ours.nearly == theirs.nearly
