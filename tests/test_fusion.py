"""The fusion model: its pairs by MAFA's rules, its tokens, its loss, and runs that train it."""

import json
import re
from dataclasses import replace

import open_clip
import pytest
import torch
import torch.nn.functional as F

from open_clip_fff.config.connection import UNDECIDED, ConnectionSettings
from open_clip_fff.config.fusion import FusionSettings
from open_clip_fff.losses.fusion import FusionLoss, Vocabulary, mask_tokens
from open_clip_fff.losses.fusion_counts import fusion_rates
from open_clip_fff.matching.registry import DISCRIMINATORS, DiscriminatorContext
from open_clip_fff.mining.hardest import Hardest, drawn_negatives, hardest_negatives
from open_clip_fff.mining.itm import CONVERTED, HARD, OWN, REPLACED, itm_targets
from open_clip_fff.mining.itm_reference import itm_reference
from open_clip_fff.models.crops import Crops
from open_clip_fff.models.fusion import Fusion, FusionSizes, FusionSlot, load_fusion
from open_clip_fff.models.multi_caption import take_many_captions
from open_clip_fff.models.tower_tokens import TowerTokens
from tests.conftest import TINY
from tests.test_mafa import DISCRIMINATOR
from tests.test_midway import in_step, told

MAFA = ["--method", "mafa", "--fusion-layers", "1", "--group-search-space", "32"]
KINDS = {OWN: "own", HARD: "hard", CONVERTED: "converted", REPLACED: "replaced"}
SETTINGS = ConnectionSettings("blip:x")


def labels_of(hardest, q):
    """Match labels of the hardest negatives, by a matrix of match scores [B, B * K]."""
    rows, columns = torch.arange(len(q)), torch.arange(q.shape[1])
    by_image = SETTINGS.match_label(q[rows, hardest.caption.clamp(min=0)], UNDECIDED)
    by_text = SETTINGS.match_label(q[hardest.image.flatten().clamp(min=0), columns], UNDECIDED)
    return by_image, by_text.view_as(hardest.image)


@pytest.mark.parametrize("case", range(40))
def test_pairs_are_those_of_the_reference(case):
    """All five outcomes, duplicates of an image, padding, K captions, and no discriminator."""
    draw = torch.Generator().manual_seed(case)
    size, k = int(torch.randint(1, 9, (), generator=draw)), 1 + case % 3
    image = F.normalize(torch.randn(size, 5, generator=draw, dtype=torch.float64), dim=-1)
    text = F.normalize(torch.randn(size, k, 5, generator=draw, dtype=torch.float64), dim=-1)
    ids = torch.randint(0, size + 1, (size,), generator=draw)
    valid = torch.rand(size, k, generator=draw) < 0.8
    valid[:, 0] |= case % 4 > 0
    scores = torch.tensor([0.1, 0.5, 0.65, 0.8, 0.95, float("nan")], dtype=torch.float64)
    q = scores[torch.randint(0, 6, (size, size * k), generator=draw)]
    hardest = hardest_negatives(image, text, ids, valid)
    second = hardest_negatives(image, text, ids, valid, after=hardest)
    labels = (None, None) if case % 5 == 0 else labels_of(hardest, q)
    pairs = itm_targets(valid, hardest, second, *labels)
    ours = zip(pairs.image.tolist(), pairs.caption.tolist(), pairs.match.tolist(), pairs.kind.tolist(), strict=True)
    score = None if case % 5 == 0 else lambda row, column: float(q[row, column])
    expected = itm_reference(image @ text.flatten(0, 1).T, ids, valid, score)
    assert sorted((*pair[:3], KINDS[pair[3]]) for pair in ours) == sorted(expected)


def test_each_outcome_by_hand():
    """Image 0's hardest caption is that of image 1, and the second hardest that of image 2."""
    valid = torch.ones(3, 1, dtype=torch.bool)
    hardest = Hardest(torch.tensor([1, 0, 0]), torch.tensor([[1], [2], [1]]))
    second = Hardest(torch.tensor([2, 2, 1]), torch.tensor([[2], [0], [0]]))
    none = torch.full((3, 1), -1, dtype=torch.int8)
    fixed = [
        (0, 0, OWN),
        (1, 1, OWN),
        (2, 2, OWN),
        (1, 0, HARD),
        (2, 1, HARD),
        (1, 2, HARD),
        (1, 0, HARD),
        (2, 0, HARD),
    ]
    for q, found in (
        (0.9, [(0, 1, CONVERTED)]),
        (0.1, [(0, 1, HARD)]),
        (0.6, [(0, 2, REPLACED)]),
        (0.8, []),
        (0.5, []),
    ):
        label = SETTINGS.match_label(torch.tensor([q, 0.0, 0.0]), UNDECIDED)
        pairs = itm_targets(valid, hardest, second, label, none)
        assert sorted(zip(*(x.tolist() for x in pairs), strict=True)) == sorted([*fixed, *found])
        assert pairs.match.sum() == 3 + (q == 0.9)


def test_drawn_negatives_follow_the_softmax():
    image = F.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.4], [0.0, 1.0]]), dim=-1)
    ids, valid, text = torch.arange(3), torch.ones(3, 1, dtype=torch.bool), image[:, None]
    drawn = [drawn_negatives(image, text, torch.tensor(3.0), ids, valid) for _ in range(2000)]
    expected = torch.softmax(3.0 * (image @ image.T)[0, 1:], dim=0)[0]
    share = sum(int(found.caption[0]) == 1 for found in drawn) / 2000
    assert share == pytest.approx(float(expected), abs=0.04)
    even = [drawn_negatives(image, text, torch.tensor(0.0), ids, valid) for _ in range(1000)]
    assert sum(int(found.image[2]) for found in even) / 1000 == pytest.approx(0.5, abs=0.05)
    alone = drawn_negatives(image[:1], text[:1], torch.tensor(3.0), ids[:1], valid[:1])
    assert alone.caption.tolist() == [-1] and alone.image.tolist() == [[-1]]


@pytest.fixture(scope="module")
def bert_name(bert_clip):
    if "tiny-bert-clip" not in open_clip.list_models():
        open_clip.add_model_config(bert_clip)
    return "tiny-bert-clip"


def prepared(name: str, **options):
    torch.manual_seed(0)
    model = open_clip.create_model(name, output_dict=True, pretrained_hf=False)
    take_many_captions(model)
    model.tower_tokens = TowerTokens(model)
    return model.eval()  # no dropout


def batch(name: str, texts: list[list[str]]):
    from open_clip_fff.data.batch import CaptionBatch

    tokenizer = open_clip.get_tokenizer(name)
    tokens = torch.stack([tokenizer(row) for row in texts])
    valid = torch.tensor([[bool(text) for text in row] for row in texts])
    return CaptionBatch(tokens, valid, torch.zeros_like(valid), torch.arange(len(texts)), {})


TEXTS = [["a red square", "red"], ["a blue square all over the picture", ""], ["a red square", "green in blue"]]


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-bert-clip"])
def test_tokens_are_those_of_the_towers(name, tiny_name, bert_name):
    """Trimmed, in groups of lengths, equal captions once: still each caption's own tokens, and the model's images'."""
    model, captions = prepared(name), batch(name, TEXTS)
    images = torch.randn(3, 3, *model.visual.image_size)
    out = model(images, captions)
    theirs = model.visual.forward_intermediates(
        images, indices=[-1], normalize_intermediates=True, output_fmt="NLC", output_extra_tokens=True
    )
    expected = torch.cat([theirs["image_intermediates_prefix"][-1], theirs["image_intermediates"][-1]], dim=1)
    assert torch.equal(out["image_tokens"], expected)
    flat = captions.tokens.flatten(0, 1)
    text = model.tower_tokens.describe(out["text_tokens"], flat)
    with model.tower_tokens.capture() as captured:
        features = model.encode_text(flat, normalize=True)
    full = captured.texts[0]
    for row in range(len(flat)):
        if captions.valid.flatten()[row]:
            length = int(text.mask[row].sum())
            assert torch.allclose(text.features[row, :length], full[row, :length], atol=1e-6)
            assert torch.allclose(out["text_features"].flatten(0, 1)[row], features[row], atol=1e-6)
    if name == "tiny-clip":  # the feature of the caption is its pooled token, projected
        pooled = text.features[torch.arange(6), text.pooled] @ model.text_projection
        expected = out["text_features"].flatten(0, 1)[captions.valid.flatten()]
        assert torch.allclose(F.normalize(pooled, dim=-1)[captions.valid.flatten()], expected, atol=1e-6)


def fusion_for(model, settings, vocabulary=None, dtype=torch.float32):
    tokens = model.tower_tokens
    sizes = FusionSizes(
        1, tokens.text_width, tokens.image_width, tokens.text_width, vocabulary.size if vocabulary else 0
    )
    torch.manual_seed(1)
    network = Fusion(sizes).to(dtype)
    model.fusion = FusionSlot(network)
    return FusionLoss(network, tokens.describe, settings, vocabulary)


def vocabulary_of(model, name):
    embedding = model.text.transformer.get_input_embeddings()
    mask = open_clip.get_tokenizer(name).tokenizer.mask_token_id
    return Vocabulary(
        embedding.num_embeddings,
        mask,
        model.tower_tokens.design.token,
        lambda: embedding.weight,
        model.tower_tokens.encode_masked,
    )


def test_matching_is_a_plain_cross_entropy_with_gradients_in_both_towers(tiny_name):
    """Against pairs fused one by one from the model's untrimmed tokens, in float64."""
    model = prepared(tiny_name).double()
    loss = fusion_for(model, FusionSettings(1, mlm_weight=0.0), dtype=torch.float64)
    captions, images = batch(tiny_name, TEXTS), torch.randn(3, 3, *model.visual.image_size, dtype=torch.float64)
    out = model(images, captions)
    terms = loss(**out)
    assert list(terms) == ["itm_loss"]
    terms["itm_loss"].backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert {"visual.conv1.weight", "token_embedding.weight", "fusion.network.itm_head.weight"} <= set(gradients)
    model.zero_grad()
    similarity = (out["image_features"] @ out["text_features"].flatten(0, 1).T).detach()
    pairs = itm_reference(similarity, captions.ids, captions.valid)
    with model.tower_tokens.capture() as captured:
        model.encode_image(images), model.encode_text(captions.tokens.flatten(0, 1))
    total = 0.0
    for image, caption, match, _ in pairs:
        ids = captions.tokens.flatten(0, 1)[caption]
        length = int(ids.argmax()) + 1
        states = loss.network(
            captured.images[0][image : image + 1],
            captured.texts[0][caption : caption + 1, :length],
            torch.ones(1, length, dtype=torch.bool),
        )
        total = total + F.cross_entropy(loss.network.itm_head(states[:, -1]), torch.tensor([match]))
    (total / len(pairs)).backward()
    assert (total / len(pairs)).item() == pytest.approx(terms["itm_loss"].item(), abs=1e-12)
    for name, gradient in gradients.items():
        theirs = dict(model.named_parameters())[name].grad
        assert torch.allclose(gradient, theirs, atol=1e-12), name


def test_masks_are_bert_s():
    vocabulary = Vocabulary(100, 99, 0, lambda: torch.empty(0), lambda *_: None)
    ids = torch.randint(1, 99, (400, 50))
    ids[:, 40:] = 0
    masked, chosen = mask_tokens(ids, vocabulary, 0.5)
    assert not chosen[:, 0].any() and not chosen[:, 40:].any() and torch.equal(masked[~chosen], ids[~chosen])
    assert float(chosen[:, 1:40].float().mean()) == pytest.approx(0.5, abs=0.02)
    assert float((masked[chosen] == 99).float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float((masked[chosen] == ids[chosen]).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_masked_language_modelling_goes_over_converted_pairs(bert_name):
    """Its loss equals one pair after the other, of own pairs and of the one that was found."""
    model = prepared(bert_name)
    vocabulary = vocabulary_of(model, bert_name)
    settings = FusionSettings(1, itm_weight=0.0, mlm_weight=2.0)
    loss = fusion_for(model, settings, vocabulary)
    captions, images = batch(bert_name, TEXTS), torch.randn(3, 3, *model.visual.image_size)
    out = model(images, captions)
    hardest = hardest_negatives(out["image_features"], out["text_features"], captions.ids, captions.valid)
    by_image = torch.tensor([1, -1, -1], dtype=torch.int8)
    labelled = hardest, by_image, torch.full((3, 2), -1, dtype=torch.int8)
    torch.manual_seed(5)
    terms = loss(**out, labelled=labelled)
    assert list(terms) == ["mlm_loss"]
    pairs = [(column // 2, column) for column in range(6) if captions.valid.flatten()[column]]
    pairs.append((0, int(hardest.caption[0])))
    ids = captions.tokens.flatten(0, 1)[[caption for _, caption in pairs]]
    torch.manual_seed(5)
    masked, chosen = mask_tokens(ids, vocabulary, 0.5)
    total, right = 0.0, 0
    for row, (image, _) in enumerate(pairs):
        mask = (ids[row : row + 1] != vocabulary.padding).long()
        text = model.text.transformer(input_ids=masked[row : row + 1], attention_mask=mask).last_hidden_state
        states = loss.network(out["image_tokens"][image : image + 1], text, mask.bool())
        logits = loss.network.predict(states[0][chosen[row]], vocabulary.embedding())
        total = total + F.cross_entropy(logits, ids[row][chosen[row]], reduction="sum")
        right += int((logits.argmax(dim=1) == ids[row][chosen[row]]).sum())
    assert terms["mlm_loss"].item() == pytest.approx(2.0 * total.item() / int(chosen.sum()), rel=1e-5)
    rates = fusion_rates(loss.counts.take(torch.device("cpu")))
    assert rates.itm is None and rates.mlm is not None and rates.mlm_converted is not None
    found = rates.mlm * int(chosen[:-1].sum()) + rates.mlm_converted * int(chosen[-1].sum())
    assert found == pytest.approx(right)


def start(name, bert_clip, tmp_path) -> list[str]:
    """The flags of an architecture with random weights, which OpenCLIP takes for a Hugging Face tower from a file."""
    torch.manual_seed(0)
    torch.save(open_clip.create_model(name, pretrained_hf=False).state_dict(), tmp_path / "start.pt")
    return ["--model-config", str(bert_clip), "--model", name, "--pretrained", str(tmp_path / "start.pt")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-clip", "tiny-bert-clip"])
def test_mafa_as_a_whole(trainer, bert_clip, bert_name, tmp_path, capsys, name):
    """Both terms are logged, every parameter learns, and stock OpenCLIP loads the checkpoint."""
    argv = [*DISCRIMINATOR, *MAFA, "--epochs", "2", "--name", "mafa"]
    assert trainer(*argv, *start(name, bert_clip, tmp_path)) == 0
    printed, log = capsys.readouterr().out, trainer.log("mafa")
    assert "1 layer of the text tower's width over the tokens of both towers (MAFA" in printed
    masks = name == "tiny-bert-clip"
    assert ("no masked language modelling: the text tower has no mask token" in printed) != masks
    assert ("Mlm_loss" in log) == masks and "Itm_loss" in log
    found = re.findall(r"ITM right: [\d.]+% \(own [\d.]+%, hard [\d.]+%", log)
    assert len(found) == 8 and ("MLM right" in log) == masks
    weights = trainer.checkpoint("mafa", 2)["state_dict"]
    assert not any("fusion" in key for key in weights)
    open_clip.create_model(name, pretrained_hf=False).load_state_dict(weights)


def weights_of(trainer, name, epoch=2):
    extra = torch.load(trainer.run(name) / "checkpoints" / f"epoch_{epoch}.extra", weights_only=True)
    return {**trainer.checkpoint(name, epoch)["state_dict"], **extra["fusion"]["weights"]}


@pytest.mark.slow
def test_a_resumed_run_is_the_run(trainer, bert_clip, bert_name, tmp_path):
    """After an epoch and in its middle, with masks drawn in each step: the same weights of towers and fusion model."""
    argv = [*DISCRIMINATOR, *MAFA, *start(bert_name, bert_clip, tmp_path), "--epochs", "2"]
    assert trainer(*argv, "--name", "whole") == 0
    with in_step(6, told()):  # the second of the second epoch
        assert trainer(*argv, "--name", "stopped") == 143
    assert trainer(*argv, "--name", "stopped", "--resume", "latest") == 0
    first = trainer.run("whole") / "checkpoints" / "epoch_1.pt"
    assert trainer(*argv, "--name", "later", "--resume", str(first)) == 0
    expected = weights_of(trainer, "whole")
    for name in ("stopped", "later"):
        found = weights_of(trainer, name)
        assert found.keys() == expected.keys()
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == [], name
    assert trainer(*argv, "--name", "other", "--resume", str(first), "--fusion-layers", "2") == 2


@pytest.mark.slow
def test_an_exported_fusion_model_is_a_discriminator(trainer, bert_clip, bert_name, tmp_path, export_here, capsys):
    """The same scores from the run, the exported folder and the network itself; and MAFA trains with it."""
    argv = [*DISCRIMINATOR, *MAFA, *start(bert_name, bert_clip, tmp_path)]
    assert trainer(*argv, "--name", "first") == 0
    out = tmp_path / "model"
    export_here(trainer.run("first"), out)
    assert {"fusion.json", "fusion.safetensors", "open_clip_model.safetensors"} <= {path.name for path in out.iterdir()}
    context = DiscriminatorContext("", torch.device("cpu"), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    images, texts = torch.rand(3, 3, 32, 32), ["a red square", "blue all over", "a red square"]
    scores = [
        DISCRIMINATORS["fusion"](replace(context, name=str(name)))(images, texts)
        for name in (trainer.run("first"), out)
    ]
    assert torch.equal(*scores) and scores[0].min() > 0 and scores[0].max() < 1
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out}")
    take_many_captions(model.eval())
    model.output_dict, model.tower_tokens = True, TowerTokens(model)
    crops = Crops((32, 32), model.visual.image_mean, model.visual.image_std, context.device, *[(0.5, 0.5, 0.5)] * 2)
    given = model(crops(images), batch(bert_name, [[text] for text in texts]))
    text = model.tower_tokens.describe(given["text_tokens"], batch(bert_name, [[text] for text in texts]).tokens[:, 0])
    network = load_fusion(out)
    logits = network.match(network(given["image_tokens"], text.features, text.mask), text.pooled)
    assert torch.allclose(logits.softmax(dim=1)[:, 1], scores[0], atol=1e-6)
    more = ["--method", "albef", "--fusion-layers", "1", "--lr", "0", "--wd", "0", "--fusion-pretrained", str(out)]
    assert trainer(*more, "--model", f"local-dir:{out}", "--name", "tuned") == 0
    first, tuned = (
        torch.load(trainer.run(name) / "checkpoints" / "epoch_1.extra", weights_only=True)["fusion"]["weights"]
        for name in ("first", "tuned")
    )
    assert all(torch.equal(first[key], tuned[key]) for key in first)
    again = ["--discriminator", f"fusion:{out}", "--match-positive", "0.6", "--match-negative", "0.4"]
    assert trainer(*argv, "--plugin", "tests.recorder", *again, "--name", "second") == 0
    assert "a fusion model that was trained by open_clip_fff" in capsys.readouterr().out
    assert trainer.log("second").count("False negatives: ") == 4


def test_towers_in_half_precision():
    """As --precision pure_bf16 has them: the fusion model itself stays in float32."""
    fusion, mask = Fusion(FusionSizes(1, 64, 48, 64, vocabulary=50)), torch.ones(2, 5, dtype=torch.bool)
    image, text = torch.randn(2, 4, 48).bfloat16().requires_grad_(), torch.randn(2, 5, 64).bfloat16()
    states = fusion(image, text, mask)
    assert states.dtype == torch.float32 and torch.equal(states, fusion(image.float(), text.float(), mask))
    fusion.predict(states[:, 0], torch.randn(50, 64).bfloat16()).sum().backward()
    assert image.grad.dtype == torch.bfloat16 and image.grad.any()
    assert fusion(image.half(), text.half(), mask).dtype == torch.float32


def test_what_does_not_go_with_a_fusion_model(trainer, tmp_path, capsys):
    def refused(*argv: str) -> str:
        assert trainer(*argv, "--name", "refused") == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "computed by OpenCLIP alone; use --loss fff" in refused("--method", "clip", "--fusion-layers", "1")
    assert "does nothing without --fusion-layers N" in refused("--method", "fff-softmax", "--itm-weight", "2")
    plain = ["--method", "albef", "--fusion-layers", "1"]
    assert "--accum-freq: does not go with a fusion model yet" in refused(*plain, "--accum-freq", "2")
    assert "has no mask token; use a Hugging Face one" in refused(*plain, "--mlm-weight", "1")
    assert "leave the fusion model nothing to learn" in refused(*plain, "--itm-weight", "0", "--mlm-weight", "0")
    assert "a multiple of 64" in refused(*plain, "--fusion-width", "100", "--fusion-width", "200")
    assert "which scores the hardest alone, does not score" in refused(*plain, "--discriminator", "blip:x")
    assert "--fusion-pretrained none-there: no such folder" in refused(*plain, "--fusion-pretrained", "none-there")
    text = {**TINY, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}}
    (tmp_path / "tiny-resnet.json").write_text(json.dumps(text))
    resnet = ["--model-config", str(tmp_path / "tiny-resnet.json"), "--model", "tiny-resnet"]
    assert "its image tower, ModifiedResNet, gives no tokens after a norm" in refused(*plain, *resnet)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["albef", "grit-vlp", "fff-softmax"])
def test_other_methods_with_a_fusion_model(trainer, method):
    argv = ["--method", method, "--fusion-layers", "1", "--fusion-width", "16", "--name", method]
    argv += ["--itm-negatives", "random"] if method == "fff-softmax" else []
    argv += ["--mining-features", "off", "--captions-per-image", "3"] if method == "fff-softmax" else []
    argv += ["--json-text-key", "captions"] if method == "fff-softmax" else []
    assert trainer(*argv, *(["--group-search-space", "32"] if method == "grit-vlp" else [])) == 0
    assert trainer.log(method).count("ITM right") == 4


@pytest.mark.slow
def test_the_moving_average_is_of_the_towers_alone(trainer):
    """And a run with both resumes exactly."""
    argv = ["--method", "albef", "--fusion-layers", "1", "--ema-decay", "0.9", "--epochs", "2"]
    assert trainer(*argv, "--name", "whole") == 0
    first = trainer.run("whole") / "checkpoints" / "epoch_1.pt"
    assert trainer(*argv, "--name", "resumed", "--resume", str(first)) == 0
    whole, resumed = (
        torch.load(trainer.run(name) / "checkpoints" / "epoch_2.extra", weights_only=True)
        for name in ("whole", "resumed")
    )
    assert not any("fusion" in key for key in whole["ema"]["weights"])
    for part in ("ema", "fusion"):
        assert all(torch.equal(whole[part]["weights"][key], x) for key, x in resumed[part]["weights"].items())
