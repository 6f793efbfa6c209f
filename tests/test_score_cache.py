"""What a discriminator is asked, and what is kept of its answers: pairs once, ids, interruptions, full disks."""

import pytest
import torch

from open_clip_fff.data.ids import ID_VERSION, NO_ID, text_hash
from open_clip_fff.errors import UsageError
from open_clip_fff.matching.registry import DISCRIMINATORS
from open_clip_fff.matching.score_cache import ScoreCache
from open_clip_fff.matching.scorer import PairScorer
from tests import programs
from tests.conftest import TINY
from tests.matching_models import crops, discriminator_of


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
    assert scorer(ids[:1], captions[:1], owners[:1], images).tolist() == [1] and len(asked) == 1
    assert scorer(ids[:0], [], owners[:0], images).shape == (0,)
    assert len(discriminator.calls) == 1
    with pytest.raises(UsageError, match=r"match scores \[2\] of 1 pairs"):
        PairScorer(lambda images, captions: torch.zeros(2))(
            ids[2:3], captions[2:3], owners[2:3], torch.ones(1, 3, 4, 4)
        )


def test_what_is_known_is_not_asked_again(matching_folders, tmp_path):
    _, images = crops(4)
    ids, owners = torch.tensor([1, 2, 3, 4]), torch.tensor([2, 1, 4, 3])
    captions = ["a red square", "something blue", "title", "green"]
    expected = discriminator_of(matching_folders["blip"])(images, captions)
    scorer = PairScorer.with_cache(discriminator_of(matching_folders["blip"]), str(tmp_path / "kept"))
    first = scorer(ids[:2], captions[:2], owners[:2], images[:2])
    asked = []
    both = scorer(ids, captions, owners, lambda which: asked.append(which.tolist()) or images[which])
    assert asked == [[2, 3]]
    torch.testing.assert_close(both, expected, atol=1e-5, rtol=0)
    assert torch.equal(both[:2], first)
    # another start, another rank: nothing is asked, and the crops are not even made
    scorer.cache.close()
    for rank in (0, 3):
        again = PairScorer.with_cache(discriminator_of(matching_folders["blip"]), str(tmp_path / "kept"), rank)
        assert torch.equal(again(ids, captions, owners, lambda which: pytest.fail("asked")), both)


def test_another_discriminators_scores_are_not_read(matching_folders, tmp_path):
    ours, theirs = (discriminator_of(matching_folders[kind]) for kind in ("blip", "blip2"))
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
def test_equal_weights_are_not_all_that_a_discriminator_is(matching_folders, tmp_path, kind, change):
    """Whatever changes its answers changes by what they are kept; where its folder is does not."""
    import shutil

    shutil.copytree(matching_folders[kind], tmp_path / "moved")
    expected = discriminator_of(matching_folders[kind]).identity
    assert discriminator_of(tmp_path / "moved").identity == expected
    name, old, new = change
    text = (tmp_path / "moved" / name).read_text()
    assert old in text, text
    (tmp_path / "moved" / name).write_text(text.replace(old, new))
    assert discriminator_of(tmp_path / "moved").identity != expected


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert text_hash("a dog") != text_hash("a cat") and 0 <= text_hash("a dog") < 2**63
