"""The connection discriminator: what transformers itself would say, asked no more than is needed, and kept on disk."""

import pytest
import torch
import torch.nn.functional as F

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.data.ids import ID_VERSION, NO_ID, caption_hash
from open_clip_fff.errors import UsageError
from open_clip_fff.matching.discriminators import make_discriminator
from open_clip_fff.matching.registry import DISCRIMINATORS
from open_clip_fff.matching.score_cache import ScoreCache
from open_clip_fff.matching.scorer import PairScorer, ScoreCounts
from tests import programs
from tests.conftest import TINY
from tests.matching_models import make

CPU = torch.device("cpu")
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)  # of the trained model
CAPTIONS = ["a red square", "something blue all over", "", "picture in green " * 9, "a yellow title"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("matching")
    return {kind: make(root / kind, kind) for kind in ("blip", "blip2")}


def discriminator_of(value, **options):
    return make_discriminator(ConnectionSettings(str(value), **options), CPU, MEAN, STD)


def crops(n: int, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops 0 to 1, and as the training loader normalises them, [n, 3, side, side]."""
    raw = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))
    return raw, (raw - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def theirs(kind: str, folder, raw: torch.Tensor, captions: list[str]) -> torch.Tensor:
    """P(match) by transformers' own processor and forward, pair by pair."""
    import transformers

    name = {"blip": "BlipForImageTextRetrieval", "blip2": "Blip2ForImageTextRetrieval"}[kind]
    model = getattr(transformers, name).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    found = []
    for image, caption in zip(raw, captions, strict=True):
        pixels = processor(image, do_rescale=False, return_tensors="pt")["pixel_values"]
        text = tokenizer(caption, truncation=True, return_token_type_ids=False, return_tensors="pt")
        with torch.no_grad():
            if kind == "blip":
                logits = model(pixel_values=pixels, use_itm_head=True, **text).itm_score
            else:
                logits = model(pixel_values=pixels, use_image_text_matching_head=True, **text).logits_per_image
        found.append(logits.softmax(dim=-1)[0, 1])
    return torch.stack(found)


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [24, 32])
@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_q_is_what_transformers_own_forward_gives(folders, kind, side):
    """On the same crop; by kind, and by what config.json says."""
    raw, images = crops(len(CAPTIONS), side)
    expected = theirs(kind, folders[kind], raw, CAPTIONS)
    swapped = theirs(kind, folders[kind], raw.flip(0), CAPTIONS)
    assert expected.std() > 0.05 and (expected - swapped).abs().max() > 0.05  # a random model, but no constant
    for value in (f"{kind}:{folders[kind]}", folders[kind]):
        q = discriminator_of(value)(images, CAPTIONS)
        assert q.dtype == torch.float32 and not q.requires_grad
        torch.testing.assert_close(q, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_neither_batches_nor_shared_images_change_it(folders, kind):
    _, images = crops(3)
    rows = torch.tensor([2, 0, 2, 1, 2, 0, 1])
    captions = (CAPTIONS * 2)[: len(rows)]
    expected = discriminator_of(folders[kind])(images[rows], captions)
    for batch in (1, 2, 3, 64):
        discriminator = discriminator_of(folders[kind], batch=batch)
        encoded = []
        encode = discriminator.matching.encode
        discriminator.matching.encode = lambda x, into=encoded, encode=encode: into.append(len(x)) or encode(x)
        torch.testing.assert_close(discriminator.pairs(images, rows, captions), expected, atol=1e-5, rtol=0)
        assert max(encoded) <= batch and (batch < 64 or encoded == [3])
    assert discriminator_of(folders[kind])(images[:0], []).shape == (0,)


@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_its_cosines_are_transformers_contrastive_ones(folders, kind):
    """What hard negatives are drawn by."""
    from open_clip_fff.matching.loading import load_matching

    matching = load_matching(str(folders[kind]), "--model")
    pixels = torch.randn(4, 3, 24, 24)
    ids, mask = matching.tokens(CAPTIONS)
    flag = "use_itm_head" if kind == "blip" else "use_image_text_matching_head"
    with torch.no_grad():
        out = matching.model(pixel_values=pixels, input_ids=ids, attention_mask=mask, **{flag: False})
        expected = out.itm_score if kind == "blip" else out.logits_per_image
        torch.testing.assert_close(matching.align(matching.encode(pixels), ids, mask), expected, atol=1e-5, rtol=0)


def test_tokens_that_the_text_tower_lacks_are_unknown_words(folders, tmp_path):
    """BLIP-2's processor adds a token <image>."""
    import shutil

    from transformers import AutoTokenizer

    shutil.copytree(folders["blip2"], tmp_path / "more")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "more")
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "more")
    _, images = crops(2)
    q = discriminator_of(tmp_path / "more")(images, ["a <image> square", "a [UNK] square"])
    assert q.isfinite().all()


def test_a_frozen_open_clip_model_scores_by_its_cosine(tiny_name, teacher):
    import open_clip

    thresholds = {"positive": 0.3, "negative": 0.1}
    with pytest.raises(ValueError, match="no probability"):
        ConnectionSettings("open_clip:ViT-B-32/openai")
    discriminator = discriminator_of(f"open_clip:{tiny_name}/{teacher}", batch=2, **thresholds)
    raw, images = crops(3)
    model = open_clip.create_model(tiny_name, str(teacher)).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.visual.image_mean, model.visual.image_std))
    rows = torch.tensor([0, 0, 2, 1, 1])
    with torch.no_grad():
        f = F.normalize(model.encode_image((raw - mean) / std), dim=-1)[rows]
        g = F.normalize(model.encode_text(open_clip.get_tokenizer(tiny_name)(CAPTIONS)), dim=-1)
    expected = (f * g).sum(dim=-1).clamp(min=0)
    torch.testing.assert_close(discriminator.pairs(images, rows, CAPTIONS), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(discriminator(images[rows], CAPTIONS), expected, atol=1e-5, rtol=0)


def test_thresholds_are_strict_and_doubt_is_ignored():
    q = torch.tensor([0.0, 0.49, 0.5, 0.65, 0.8, 0.81, 1.0, torch.nan])
    settings = ConnectionSettings("blip:x")
    assert (labels := settings.match_label(q)).tolist() == [-1, -1, 0, 0, 0, 1, 1, 0] and labels.dtype == torch.int8
    assert ConnectionSettings("x", 1.0, 0.0, gate="off").gate is None
    for wrong in ({"positive": 0.4}, {"negative": -0.1}, {"positive": 1.1}, {"gate": 2.0}, {"batch": 0}):
        with pytest.raises(ValueError):
            ConnectionSettings("x", **wrong)
    with pytest.raises(ValueError):
        ConnectionSettings(" ")


# --- error lines -----------------------------------------------------------------------------------------------------


def refused(value, **options) -> str:
    with pytest.raises(UsageError) as error:
        discriminator_of(value, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_score_is_refused_in_one_line(folders, tmp_path, teacher, tiny_name):
    captioner = make(tmp_path / "captioner", "blip", "BlipForConditionalGeneration")
    line = refused(f"blip:{captioner}")
    assert f"--discriminator blip:{captioner}: no image-text matching head" in line and "train-discriminator" in line
    assert "its config.json says blip-2, not blip" in refused(f"blip:{folders['blip2']}")
    assert "its config.json says blip, not blip-2" in refused(f"blip2:{folders['blip']}")
    assert "cannot be loaded" in refused("blip:Salesforce/no-such-model") and "cannot be loaded" in refused("nowhere")
    assert "name the model, blip:NAME" in refused("blip") and "name the model, blip2:NAME" in refused("blip2:")
    assert "no discriminator is called 'bilp'; there are: blip, blip2, " in refused("bilp:x")  # and other tests'
    cosines = {"positive": 0.3, "negative": 0.1}
    assert "name its weights, too" in refused("open_clip:ViT-B-32", **cosines)
    assert "--discriminator open_clip:tiny-clip/no.pt: cannot" in refused(f"open_clip:{tiny_name}/no.pt", **cosines)
    (tmp_path / "empty").mkdir()
    assert "cannot be loaded" in refused(tmp_path / "empty")


def test_a_folder_whose_parts_do_not_fit_is_refused(folders, tmp_path):
    import shutil

    from transformers import BertConfig, BlipImageProcessor

    shutil.copytree(folders["blip"], tmp_path / "size")
    BlipImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path / "size")
    assert "images of 48 x 48, and its vision tower takes 24 x 24" in refused(tmp_path / "size")
    BlipImageProcessor(size={"shortest_edge": 24}).save_pretrained(tmp_path / "size")
    assert "no height and width" in refused(tmp_path / "size")
    (tmp_path / "size" / "preprocessor_config.json").unlink()
    assert "cannot be loaded" in refused(tmp_path / "size")
    BertConfig().save_pretrained(tmp_path / "bert")
    assert "its config.json says bert, not blip or blip-2" in refused(tmp_path / "bert")


# --- a plugin's own --------------------------------------------------------------------------------------------------


class Red:
    """Whether the caption's first word is the name it was given and the image's first channel is above 0."""

    def __init__(self, context):
        self.context, self.calls = context, []

    def __call__(self, images, captions):
        self.calls.append((len(images), list(captions)))
        named = torch.tensor([caption.startswith(self.context.name) for caption in captions])
        return named.float() * (images[:, 0].mean(dim=(1, 2)) > 0)


@pytest.fixture
def red():
    DISCRIMINATORS.add("test-red", Red)
    yield "test-red"
    del DISCRIMINATORS._entries["test-red"]


def test_a_plugins_own_discriminator(red, tmp_path):
    images = torch.stack([torch.ones(3, 4, 4), -torch.ones(3, 4, 4)])
    assert discriminator_of(red)(images, ["red", "red"]).tolist() == [1, 0]
    assert discriminator_of(f"{red}:blue")(images, ["red", "blue"]).tolist() == [0, 0]
    with pytest.raises(UsageError, match="has no `identity`"):
        PairScorer.with_cache(discriminator_of(red), str(tmp_path))


# --- asking no more than is needed -----------------------------------------------------------------------------------


def test_own_pairs_are_never_sent_and_equal_ones_once(red):
    """Trap 10: the same image may be in the batch twice, and its captions are its own wherever they stand."""
    discriminator = discriminator_of(f"{red}:blue")
    scorer = PairScorer(discriminator)
    ids, owners = torch.tensor([5, 5, 6, 6, NO_ID, NO_ID]), torch.tensor([5, 7, 7, 8, NO_ID, NO_ID])
    captions = ["red a", "red b", "blue", "blue", "red c", "red c"]
    asked = []

    def images(which):
        asked.append(which.tolist())
        return torch.ones(len(which), 3, 4, 4)

    assert scorer(ids, captions, owners, images).tolist() == [1, 0, 1, 1, 0, 0]
    # one crop for image 6, one for each unknown image; the pair (6, "blue") once
    assert asked == [[1, 2, 4, 5]] and discriminator.calls == [(4, ["red b", "blue", "red c", "red c"])]
    assert scorer.last == ScoreCounts(own=1, cached=0, repeated=1, scored=4) and scorer.last.requested == 5
    assert scorer(ids[:1], captions[:1], owners[:1], images).tolist() == [1] and len(asked) == 1
    assert scorer(ids[:0], [], owners[:0], images).shape == (0,)
    assert scorer.total == ScoreCounts(own=2, cached=0, repeated=1, scored=4)
    with pytest.raises(ValueError, match=r"shape \(2,\) for 1 pairs"):
        PairScorer(lambda images, captions: torch.zeros(2))(
            ids[2:3], captions[2:3], owners[2:3], torch.ones(1, 3, 4, 4)
        )


def test_what_is_known_is_not_asked_again(folders, tmp_path):
    _, images = crops(4)
    ids, owners = torch.tensor([1, 2, 3, 4]), torch.tensor([2, 1, 4, 3])
    captions = ["a red square", "something blue", "title", "green"]
    expected = discriminator_of(folders["blip"])(images, captions)
    scorer = PairScorer.with_cache(discriminator_of(folders["blip"]), str(tmp_path / "kept"))
    first = scorer(ids[:2], captions[:2], owners[:2], images[:2])
    both = scorer(ids, captions, owners, images)
    assert scorer.last == ScoreCounts(cached=2, scored=2)
    torch.testing.assert_close(both, expected, atol=1e-5, rtol=0)
    assert torch.equal(both[:2], first)
    # another start, another rank: nothing is asked, and the crops are not even made
    scorer.cache.close()
    for rank in (0, 3):
        again = PairScorer.with_cache(discriminator_of(folders["blip"]), str(tmp_path / "kept"), rank)
        assert torch.equal(again(ids, captions, owners, lambda which: pytest.fail("asked")), both)
        assert again.last == ScoreCounts(cached=4)


def test_another_discriminators_scores_are_not_read(folders, tmp_path):
    ours, theirs = (discriminator_of(folders[kind]) for kind in ("blip", "blip2"))
    with torch.no_grad():
        next(theirs.matching.model.parameters()).view(-1)[0] += 1
    cache = ScoreCache(tmp_path, ours.identity)
    cache.put_many([1], [2], torch.tensor([0.25]))
    other = ScoreCache(tmp_path, theirs.identity)
    assert not other.get_many([1], [2])[1].any() and cache.get_many([1], [2])[0].tolist() == [0.25]
    # a file that was given another's name
    cache.close()
    cache.path.rename(tmp_path / ScoreCache(tmp_path / "else", "third").path.name)
    with pytest.raises(UsageError, match="holds another discriminator's match scores"):
        ScoreCache(tmp_path, "third")


@pytest.mark.parametrize(
    "change",
    [
        ("config.json", '"hidden_act": "gelu"', '"hidden_act": "relu"'),
        ("config.json", '"num_attention_heads": 2', '"num_attention_heads": 4'),
        ("config.json", '"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-06'),
        ("tokenizer_config.json", '"do_lower_case": true', '"do_lower_case": false'),
        ("tokenizer_config.json", '"model_max_length": 12', '"model_max_length": 8'),
        ("tokenizer.json", '"red": 1', '"crimson": 1'),
    ],
    ids=lambda change: change[2],
)
@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_equal_weights_are_not_all_that_a_discriminator_is(folders, tmp_path, kind, change):
    """Whatever changes its answers changes by what they are kept; where its folder is does not."""
    import shutil

    shutil.copytree(folders[kind], tmp_path / "moved")
    expected = discriminator_of(folders[kind]).identity
    assert discriminator_of(tmp_path / "moved").identity == expected
    name, old, new = change
    text = (tmp_path / "moved" / name).read_text()
    assert old in text, text
    (tmp_path / "moved" / name).write_text(text.replace(old, new))
    assert discriminator_of(tmp_path / "moved").identity != expected


def test_equal_weights_are_not_all_that_a_frozen_open_clip_model_is(teacher, tmp_path):
    import json

    import open_clip

    def identity(name, **vision):
        config = {**TINY, "vision_cfg": {**TINY["vision_cfg"], **vision}}
        (tmp_path / f"{name}.json").write_text(json.dumps(config | ({"quick_gelu": True} if name == "quick" else {})))
        open_clip.add_model_config(tmp_path / f"{name}.json")
        return discriminator_of(f"open_clip:{name}/{teacher}", positive=0.3, negative=0.1).identity

    same = identity("as-it-was")
    assert identity("another-name") == same
    others = {identity("quick"), identity("heads", head_width=8), identity("pooled", pool_type="avg")}
    assert len(others | {same}) == 4


def test_scores_by_ids_of_another_version_are_refused(tmp_path):
    """Their pairs would not be found, or be others'."""
    import sqlite3

    cache = ScoreCache(tmp_path, "x", rank=1)
    cache.put_many([1], [2], torch.tensor([0.25]))
    cache._own.execute("PRAGMA user_version = 0")  # as files were before ids had a version
    cache.close()
    for identity, rank in (("x", 1), ("x", 0), ("another", 0)):
        with pytest.raises(UsageError) as error:
            ScoreCache(tmp_path, identity, rank)
        line = str(error.value)
        assert f"{cache.path} holds image ids of version 1, and this release's are version {ID_VERSION}" in line
        assert f"delete {tmp_path}, or name another folder" in line and "\n" not in line
    assert [path.name for path in tmp_path.glob("*.sqlite")] == [cache.path.name]
    cache.path.unlink()
    sqlite3.connect(tmp_path / "begun.sqlite").close()  # another rank's, which has not got far
    ScoreCache(tmp_path, "x")
    ScoreCache(tmp_path, "x", rank=1)


def test_the_cache_keeps_what_was_put(tmp_path):
    big = 2**63 - 1
    cache = ScoreCache(tmp_path / "a" / "b", "x")
    third = torch.tensor([1 / 3])
    cache.put_many(torch.tensor([big, NO_ID, 5]), [0, 1, 2], torch.cat([third, third, torch.tensor([torch.nan])]))
    q, known = cache.get_many([big, NO_ID, 5, 6], [0, 1, 2, 3])
    assert known.tolist() == [True, False, False, False] and q[0] == third and q.dtype == torch.float32
    cache.put_many([big], [0], torch.tensor([0.5]))
    assert cache.get_many([big], [0])[0].tolist() == [0.5] and len(cache) == 1
    assert cache.get_many([], [])[0].shape == (0,)
    for path in (tmp_path / "file", tmp_path / "not-sqlite"):
        path.write_text("x" * 4096)
    with pytest.raises(UsageError, match="--discriminator-cache"):
        ScoreCache(tmp_path / "file", "x")
    damaged = ScoreCache(tmp_path / "damaged", "x")
    damaged.close()
    damaged.path.write_bytes(b"no database" * 999)
    with pytest.raises(UsageError, match="cannot be used"):
        ScoreCache(tmp_path / "damaged", "x")


def test_a_match_score_outside_0_and_1_is_ignored_with_a_warning(tmp_path, caplog):
    cache, other = ScoreCache(tmp_path, "x"), ScoreCache(tmp_path, "x", rank=1)
    cache.put_many([1, 1, 1], [1, 2, 3], torch.tensor([1.5, -0.1, torch.inf]))
    assert not len(cache)
    for caption, q in enumerate((1.5, -0.1, float("inf"), "high", 1.0)):
        other._own.execute("INSERT INTO verdicts VALUES (1, ?, ?)", (caption, q))
    for _ in range(2):
        q, known = cache.get_many([1] * 5, range(5))
        assert known.tolist() == [False] * 4 + [True] and q.tolist() == [0.0] * 4 + [1.0]
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(other.path) in line and "a match score of 1.5, and they are in [0, 1]" in line
    cache.put_many([1], [0], torch.tensor([0.5]))  # scored anew
    assert cache.get_many([1], [0])[0].tolist() == [0.5]
    cache.close()
    other.close()


def test_what_was_put_survives_sigkill(tmp_path):
    code = (
        "import os, signal, sys, torch; from open_clip_fff.matching.score_cache import ScoreCache\n"
        "cache = ScoreCache(sys.argv[1], 'x', rank=1)\n"
        "for step in range(50): cache.put_many([step], [caption := step * 7], torch.tensor([step / 50]))\n"
        "cache._own.execute('BEGIN IMMEDIATE'); cache._own.execute('INSERT INTO verdicts VALUES (99, 99, 1)')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert programs.run("-c", code, tmp_path).returncode == -9
    steps = list(range(50))
    for rank in (1, 0):  # as the same rank, and as another that reads its file
        cache = ScoreCache(tmp_path, "x", rank)
        q, known = cache.get_many([*steps, 99], [*(step * 7 for step in steps), 99])
        assert known.tolist() == [True] * 50 + [False]
        torch.testing.assert_close(q[:50], torch.arange(50) / 50)


def test_a_full_disk_ends_the_keeping_and_not_the_training(tmp_path, caplog):
    cache = ScoreCache(tmp_path, "x")
    cache.put_many([1], [1], torch.tensor([0.5]))
    pages = cache._own.execute("PRAGMA page_count").fetchone()[0]
    cache._own.execute(f"PRAGMA max_page_count={pages}")
    many = list(range(5_000))
    cache.put_many(many, many, torch.rand(5_000))
    cache.put_many([2], [2], torch.tensor([0.5]))
    assert caplog.text.count("scores are no longer cached") == 1
    assert cache.get_many([1, 2], [1, 2])[1].tolist() == [True, False]


def test_captions_are_known_by_their_text():
    assert caption_hash("a dog") != caption_hash("a cat") and 0 <= caption_hash("a dog") < 2**63
