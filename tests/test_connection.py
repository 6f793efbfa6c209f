"""The connection discriminator: what transformers itself would say, asked no more than is needed, and kept on disk."""

import json

import pytest
import torch
import torch.nn.functional as F

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.errors import UsageError
from tests.matching_models import crops, discriminator_of, make

CAPTIONS = ["a red square", "something blue all over", "", "picture in green " * 9, "a yellow title"]


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
def test_q_is_what_transformers_own_forward_gives(matching_folders, kind, side):
    """On the same crop; by kind, and by what config.json says."""
    raw, images = crops(len(CAPTIONS), side)
    expected = theirs(kind, matching_folders[kind], raw, CAPTIONS)
    swapped = theirs(kind, matching_folders[kind], raw.flip(0), CAPTIONS)
    assert expected.std() > 0.05 and (expected - swapped).abs().max() > 0.05  # a random model, but no constant
    for value in (f"{kind}:{matching_folders[kind]}", matching_folders[kind]):
        q = discriminator_of(value)(images, CAPTIONS)
        assert q.dtype == torch.float32 and not q.requires_grad
        torch.testing.assert_close(q, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_neither_batches_nor_shared_images_change_it(matching_folders, kind):
    _, images = crops(3)
    rows = torch.tensor([2, 0, 2, 1, 2, 0, 1])
    captions = (CAPTIONS * 2)[: len(rows)]
    expected = discriminator_of(matching_folders[kind])(images[rows], captions)
    for batch in (1, 2, 3, 64):
        discriminator = discriminator_of(matching_folders[kind], batch=batch)
        encoded = []
        encode = discriminator.matching.encode
        discriminator.matching.encode = lambda x, into=encoded, encode=encode: into.append(len(x)) or encode(x)
        torch.testing.assert_close(discriminator.pairs(images, rows, captions), expected, atol=1e-5, rtol=0)
        assert max(encoded) <= batch and (batch < 64 or encoded == [3])
    assert discriminator_of(matching_folders[kind])(images[:0], []).shape == (0,)


@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_its_cosines_are_transformers_contrastive_ones(matching_folders, kind):
    """What hard negatives are drawn by."""
    from open_clip_fff.matching.loading import load_matching

    matching = load_matching(str(matching_folders[kind]), "--model")
    pixels = torch.randn(4, 3, 24, 24)
    ids, mask = matching.tokens(CAPTIONS)
    flag = "use_itm_head" if kind == "blip" else "use_image_text_matching_head"
    with torch.no_grad():
        out = matching.model(pixel_values=pixels, input_ids=ids, attention_mask=mask, **{flag: False})
        expected = out.itm_score if kind == "blip" else out.logits_per_image
        torch.testing.assert_close(matching.align(matching.encode(pixels), ids, mask), expected, atol=1e-5, rtol=0)


def test_tokens_that_the_text_tower_lacks_are_unknown_words(matching_folders, tmp_path):
    """BLIP-2's processor adds a token <image>."""
    import shutil

    from transformers import AutoTokenizer

    shutil.copytree(matching_folders["blip2"], tmp_path / "more")
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


def test_what_cannot_score_is_refused_in_one_line(matching_folders, tmp_path, teacher, tiny_name):
    captioner = make(tmp_path / "captioner", "blip", "BlipForConditionalGeneration")
    line = refused(f"blip:{captioner}")
    assert f"--discriminator blip:{captioner}: no image-text matching head" in line and "train-discriminator" in line
    assert "its config.json says blip-2, not blip" in refused(f"blip:{matching_folders['blip2']}")
    assert "its config.json says blip, not blip-2" in refused(f"blip2:{matching_folders['blip']}")
    assert "cannot be loaded" in refused(
        "blip:Salesforce/no-such-model"
    ) and "there is no folder of that name" in refused("nowhere")
    assert "name the model, blip:NAME" in refused("blip") and "name the model, blip2:NAME" in refused("blip2:")
    assert "no discriminator is called 'bilp'; there are: blip, blip2, " in refused("bilp:x")  # and other tests'
    cosines = {"positive": 0.3, "negative": 0.1}
    assert "name its weights, too" in refused("open_clip:ViT-B-32", **cosines)
    assert "--discriminator open_clip:tiny-clip/no.pt: cannot" in refused(f"open_clip:{tiny_name}/no.pt", **cosines)
    (tmp_path / "empty").mkdir()
    assert f"open_clip_fff is named fusion:{tmp_path / 'empty'}" in refused(tmp_path / "empty")
    assert "name the model, fusion:FOLDER" in refused("fusion:")


def test_a_folder_whose_parts_do_not_fit_is_refused(matching_folders, tmp_path):
    import shutil

    from transformers import BertConfig, BlipImageProcessor

    shutil.copytree(matching_folders["blip"], tmp_path / "size")
    BlipImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path / "size")
    assert "images of 48 x 48, and its vision tower takes 24 x 24" in refused(tmp_path / "size")
    BlipImageProcessor(size={"shortest_edge": 24}).save_pretrained(tmp_path / "size")
    assert "no height and width" in refused(tmp_path / "size")
    (tmp_path / "size" / "preprocessor_config.json").unlink()
    assert "cannot be loaded" in refused(tmp_path / "size")
    BertConfig().save_pretrained(tmp_path / "bert")
    assert "its config.json says bert, not blip or blip-2" in refused(tmp_path / "bert")


def test_a_processor_that_does_not_normalise(tmp_path):
    folder = make(tmp_path / "plain", "blip")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_normalize": False}))
    raw, images = crops(len(CAPTIONS), 24)
    found = discriminator_of(folder)(images, CAPTIONS)
    torch.testing.assert_close(found, theirs("blip", folder, raw, CAPTIONS), atol=1e-5, rtol=0)
