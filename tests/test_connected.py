"""Connection mining: which pairs are asked about, and what the answers do to the assignment."""

import pytest
import torch
import torch.nn.functional as F

from open_clip_fff.config.mining import MiningConfig
from open_clip_fff.host.report.mining_warnings import OneSidedDiscriminator
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.losses.sigmoid import FFFLoss
from open_clip_fff.losses.smoothed_itc import SmoothedITCLoss
from open_clip_fff.mining.connections import ConnectedPairs, ConnectionMiner
from open_clip_fff.mining.counts import ConnectionCounts, connection_rates
from open_clip_fff.mining.global_texts import GlobalTexts, TextBlock
from open_clip_fff.mining.hardest import Hardest, candidate_cosines, drawn_negatives, hardest_negatives, match_labels
from open_clip_fff.mining.labels import IGNORED, NEGATIVE, POSITIVE
from open_clip_fff.mining.mined_pairs import MinedPairs
from open_clip_fff.mining.reference import MiningFeatures, Thresholds
from open_clip_fff.mining.tiles import OwnCaptions, tiles
from tests.test_tiled import features

IDS = torch.tensor([5, 6, 7, 5])  # the first and the last are the same image


def test_the_hardest_by_loops(monkeypatch):
    monkeypatch.setattr("open_clip_fff.mining.hardest.PAIRS_AT_ONCE", 40)
    image, text = features(9, 3)
    ids, valid = torch.arange(9) % 8, torch.rand(9, 3, generator=torch.Generator().manual_seed(1)) > 0.3
    found, cosines = hardest_negatives(image, text, ids, valid), torch.einsum("nd,mkd->nmk", image, text)
    for i in range(9):
        others = [
            (cosines[i, j, k].item(), 3 * j + k) for j in range(9) for k in range(3) if valid[j, k] and ids[j] != ids[i]
        ]
        assert found.caption[i] == max(others)[1]
    for j in range(9):
        for k in range(3):
            others = [(cosines[i, j, k].item(), i) for i in range(9) if ids[i] != ids[j]]
            assert found.image[j, k] == (max(others)[1] if valid[j, k] else -1)


def test_negatives_do_not_follow_the_precision_of_the_step():
    """OpenCLIP calls the loss under autocast, in which cosines that are nearly equal tie."""
    common = 2 * torch.randn(1, 64)
    image, text = (F.normalize(torch.randn(64, *k, 64) + common, dim=-1) for k in ((), (2,)))
    batch = image, text, torch.arange(64), torch.ones(64, 2, dtype=torch.bool)
    exact = hardest_negatives(*batch)
    torch.manual_seed(0)
    drawn = drawn_negatives(*batch[:2], torch.tensor(100.0), *batch[2:])
    with torch.autocast("cpu", torch.bfloat16):
        found = hardest_negatives(*batch)
        torch.manual_seed(0)
        again = drawn_negatives(*batch[:2], torch.tensor(100.0), *batch[2:])
    for a, b in ((exact, found), (drawn, again)):
        assert torch.equal(a.caption, b.caption) and torch.equal(a.image, b.image)


def test_a_batch_of_one_image_has_no_candidates():
    image, text = features(2, 1)
    found = hardest_negatives(image, text, torch.tensor([3, 3]), torch.ones(2, 1, dtype=torch.bool))
    assert (found.caption < 0).all() and (found.image < 0).all()


def test_pairs_that_a_gate_keeps_back_are_counted_by_themselves():
    """The false-negative rate is over those that were examined."""
    hardest = Hardest(torch.tensor([2, 0, 4, -1]), torch.tensor([[1, 2], [0, -1], [1, 0], [-1, -1]]))
    by_image = torch.tensor([1, -1, 1, -1], dtype=torch.int8)
    by_text = torch.tensor([[1, 0], [-1, -1], [-1, -1], [-1, -1]], dtype=torch.int8)
    classes = torch.tensor([3, 3, 3, 4])
    worth = torch.tensor([True, False, True, True]), torch.tensor([[1, 1], [1, 1], [0, 0], [0, 1]]).bool()
    counts = ConnectionCounts()
    counts.add(hardest, by_image, by_text, classes, worth)
    found = connection_rates(counts.take(torch.device("cpu")))
    assert found.by_image == 2 / 2 and found.by_text == 1 / 3 and found.rate == (1 + 1 / 3) / 2
    assert found.ambiguous == 1 / 5 and found.unscored == 3 / 8 and found.true == 1
    assert found.right == 1 and found.missed == 2 / 5
    counts.add(hardest, by_image, by_text, classes)
    found = connection_rates(counts.take(torch.device("cpu")))
    assert found.by_image == 2 / 3 and found.by_text == 1 / 5 and found.unscored == 0
    nobody = tuple(torch.zeros_like(x) for x in worth)
    counts.add(hardest, by_image, by_text, None, nobody)
    found = connection_rates(counts.take(torch.device("cpu")))
    assert found.rate is found.ambiguous is found.true is None and found.unscored == 1
    counts.add(hardest, by_image, by_text, None, (worth[0], nobody[1]))  # one direction alone was asked about
    assert connection_rates(counts.take(torch.device("cpu"))).rate == 1.0


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([NEGATIVE], "of the first 1,200 pairs that it scored none is a match or ambiguous, so that training is as"),
        ([POSITIVE, IGNORED], "1,200 pairs that it scored 1,200 are matches or ambiguous, so that hardly any hard"),
        ([POSITIVE] * 299 + [NEGATIVE], "1,200 pairs that it scored 1,196 are matches or ambiguous"),
        ([POSITIVE] * 49 + [NEGATIVE], None),
        ([NEGATIVE] * 299 + [IGNORED], None),
    ],
)
def test_a_discriminator_that_calls_all_pairs_the_same_is_told_once(labels, says):
    others, labels = torch.arange(300).roll(1), torch.tensor(labels).repeat(300 // len(labels))
    counts, check, said = ConnectionCounts(), OneSidedDiscriminator("fusion:con-d"), []
    for _ in range(4):
        counts.add(Hardest(others, others[:, None]), labels, labels[:, None], None)
        said.append(check.warning(counts.take(torch.device("cpu"))))
    assert [i for i, warning in enumerate(said) if warning] == ([1] if says else [])
    assert says is None or ("--discriminator fusion:con-d: of the first 1,200 pairs" in said[1] and says in said[1])


def connected(base_of=OwnCaptions, by_image=(1, 0, -1, 1), by_text=(0, 1, 1, -1)):
    """Four images with one caption each; image 0 asked about caption 1, 1 about 2, 2 about 0, 3 about 2; and so on."""
    valid = torch.ones(4, 1, dtype=torch.bool)
    hardest = hardest_negatives(*features(4, 1), IDS, valid)
    hardest = hardest._replace(caption=torch.tensor([1, 2, 0, 2]), image=torch.tensor([[2], [0], [1], [1]]))
    texts, by_image, by_text = torch.tensor([[70], [71], [72], [70]]), torch.tensor(by_image), torch.tensor(by_text)
    said = match_labels(hardest, IDS, texts, by_image.to(torch.int8), by_text[:, None].to(torch.int8))
    image, text = features(4, 1)
    columns = TextBlock(0, IDS, valid, MiningFeatures(image, text, valid, IDS), captions=texts, match_labels=said)
    return base_of(GlobalTexts(columns))


def test_answers_count_in_the_direction_that_asked():
    own = OwnCaptions.to_tensor(connected())
    labels = ConnectedPairs(connected()).both_directions()
    by_image, by_text = own.clone(), own.clone()
    by_image[0, 1], by_image[1, 2], by_image[3, 2] = 1, 0, 1
    # image 2 asked about caption 0, which is of the image with id 5, as caption 3 is: a negative stays one
    by_text[2, 0], by_text[0, 1], by_text[3, 1], by_text[1, 2] = 0, 1, 1, 1  # images 0 and 3 are one
    assert torch.equal(labels.by_image, by_image) and torch.equal(labels.by_text, by_text)
    merged = labels.merged()
    assert merged[1, 2] == 1 and merged[2, 0] == 0  # positive over ignored, ignored over negative
    assert torch.equal(merged == 1, (by_image == 1) | (by_text == 1))


def test_own_pairs_stay_positive_whatever_is_said():
    labels = ConnectedPairs(connected(by_image=(-1,) * 4, by_text=(0,) * 4)).both_directions()
    own = IDS[:, None] == IDS
    assert (labels.by_image[own] == 1).all() and (labels.by_text[own] == 1).all()


@pytest.mark.parametrize("ids", [[5, 6, 5, 7], [5, 6, 5, -1]])
def test_an_answer_reaches_no_other_caption_of_an_image_that_is_there_twice(ids):
    """As `--caption-policy sample` may have it; the last image may have no id."""
    ids, texts = torch.tensor(ids), torch.tensor([[71], [72], [73], [71]])
    turn = torch.tensor([0.0, 0.1, 1.2, 0.3])  # images 1 and 3 are nearest to caption 0, and that to image 1
    features = torch.stack([turn.cos(), turn.sin()], dim=1)
    asked = []

    def label_matches(caption, image, to_score):
        asked.append((caption.tolist(), image.flatten().tolist()))
        return torch.ones_like(caption, dtype=torch.int8), torch.full_like(image, -1, dtype=torch.int8)

    criterion = Criterion(FFFLoss(), None)
    criterion.connections = ConnectionMiner(label_matches)
    given = {"image_features": features, "text_features": features[:, None], "image_ids": ids}
    labels = criterion.assignment(**given, caption_hashes=texts).both_directions().by_image[..., 0]
    assert asked == [([1, 0, 3, 1], [1, 0, 3, 1])]
    assert labels.tolist() == [[1, 1, 1, -1], [1, 1, -1, -1], [1, -1, 1, 1], [-1, 1, -1, 1]]
    with pytest.raises(ValueError, match="caption_hashes"):
        criterion.assignment(**given)


def test_it_goes_with_mined_pairs_and_any_loss_by_tiles():
    config, shown = MiningConfig(0.0, None, None, None), []
    base = MinedPairs(connected(), Thresholds.of(config), config)
    base.on_tile = lambda *tile: shown.append(tile)
    assignment = ConnectedPairs(base)
    labels = assignment.both_directions()
    assert (labels.by_image[base.to_tensor() == 1] == 1).all() and shown[0][-1].mined.pairs.any()
    (block,) = assignment.blocks()
    parts = [
        torch.cat([block.by_direction(rows, columns).by_text for columns in tiles(4, 3)], dim=1) for rows in tiles(4, 2)
    ]
    assert torch.equal(torch.cat(parts), labels.by_text)
    image, text = features(4, 1)
    scale = torch.tensor(5.0)
    assert FFFLoss()(image, text, scale, assignment=assignment) == FFFLoss()(
        image, text, scale, assignment=labels.merged()
    )
    smoothed = SmoothedITCLoss(0.5)
    given = {"assignment": labels.by_image, "text_assignment": labels.by_text}
    assert smoothed(image, text, scale, assignment=assignment) == smoothed(image, text, scale, **given)


def test_a_match_is_a_positive_where_eq_1_leaves_the_pair_out():
    """The most similar captions of others are the hardest negatives: a band's, or all with `--mined-as ignore`."""
    ignoring = MiningConfig(-1.0, None, None, None, mined_as="ignore")
    base = MinedPairs(connected(), Thresholds.of(ignoring), ignoring)
    assert (base.to_tensor()[0, 1:3] == 0).all()
    labels = ConnectedPairs(base).both_directions()
    assert labels.by_image[0, 1] == 1 and labels.by_image[0, 2] == 0  # image 0 asked about caption 1 alone
    assert labels.by_image[2, 0] == 0  # no match: it stays left out
    assert labels.by_text[0, 1] == 1 and labels.by_text[2, 1] == 0


def test_cosines_of_the_gate_are_those_of_the_hardest_pairs():
    hardest = hardest_negatives(*features(6, 2), torch.arange(6), torch.ones(6, 2, dtype=torch.bool))
    image, text = features(6, 2, seed=9)
    of_images, of_texts = candidate_cosines(hardest, image, text)
    for i in range(6):
        assert of_images[i] == pytest.approx(float(image[i] @ text.flatten(0, 1)[hardest.caption[i]]))
        for k in range(2):
            assert of_texts[i, k] == pytest.approx(float(text[i, k] @ image[hardest.image[i, k]]))
