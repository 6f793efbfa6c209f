"""Questions about images: VQA's accuracy by hand, its files, and fine-tuned models that load back."""
# ruff: noqa: F811

import json
import shutil
from itertools import combinations

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from open_clip_fff.errors import UsageError
from open_clip_fff.evaluation.rerank import rerank_conditions
from open_clip_fff.hub.loading import load_model
from open_clip_fff.tools.downstream.files import ImageFolders, coco_key
from open_clip_fff.tools.downstream.vqa import Annotation, read_annotations
from open_clip_fff.tools.downstream.vqa_answers import frequent_answers, normalise, soft_score, vqa_accuracy
from tests.matching_models import discriminator_of
from tests.quiz import SMALL, files, fused, make_fused, ok, quiz, read, refused  # noqa: F401


def plain_accuracy(answer, given):
    """VQA's formula as it is written: the mean over all sets of nine of the ten people."""
    sets = list(combinations(given, len(given) - 1))
    return sum(min(people.count(answer) / 3, 1) for people in sets) / len(sets)


@pytest.mark.parametrize("said", range(11))
def test_the_accuracy_is_that_of_ten_choose_nine(said):
    given = ["2"] * said + ["3"] * (10 - said)
    assert vqa_accuracy("2", given) == pytest.approx(plain_accuracy("2", given))
    assert vqa_accuracy("2", given) == pytest.approx([0, 0.3, 0.6, 0.9, *[1.0] * 7][said])
    assert soft_score("2", given) == min(said / 3, 1) and vqa_accuracy("4", given) == 0


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Yes.", "yes"),
        ("The two dogs", "2 dogs"),
        ("100,978", "100978"),
        ("2.5 meters.", "2.5 meters"),
        ("black, white and red", "black white and red"),
        ("t-shirt/jeans", "t shirt jeans"),
        ("t-shirt - red/blue", "tshirt red blue"),
        ("1,000-yard", "1000yard"),
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("i dont know", "i don't know"),
        ("cant  tell\n", "can't tell"),
        ("they want an elephant", "they want elephant"),
        ("$20 & 5%: a*b~c", "$20 & 5%: a*b~c"),
        ('{[(a)]}+b=c\\d_e<f>@`g,h?!i;"', "b c d e f g h i"),
        ("none", "0"),
        ("the", ""),
    ],
)
def test_answers_are_normalised_as_vqa_describes_it(answer, normal):
    assert normalise(answer) == normal and normalise(normal) == normal


def test_the_answer_list_has_the_most_frequent_ones():
    given = [["yes"] * 9 + ["no"], ["no"] * 4 + ["2"] * 6, ["", "b", "a", "2"]]
    assert frequent_answers(given, 3, 1) == ["yes", "2", "no"]
    assert frequent_answers(given, 9, 1) == ["yes", "2", "no", "a", "b"]
    assert frequent_answers(given, 9, 6) == ["yes", "2"]


def test_an_empty_answer_is_a_persons_and_a_type_may_be_a_number(tmp_path):
    rows = [{"question_id": 1, "answer_type": 3, "answers": [{"answer": x} for x in ("", "a dog", "dog", "")]}]
    rows.append({"question_id": 2, "answers": [{"answer": ""}] * 4})
    (tmp_path / "a.json").write_text(json.dumps({"annotations": rows}))
    first, second = read_annotations(tmp_path / "a.json").values()
    assert first == Annotation(("", "dog", "dog", ""), "3") and second == Annotation(("",) * 4, None)
    assert frequent_answers([first.given, second.given], 9, 1) == ["dog"]
    assert vqa_accuracy("dog", first.given) == pytest.approx(plain_accuracy("dog", first.given))


def test_images_are_found_by_coco_s_names(tmp_path):
    for name in ("val2014/COCO_val2014_000000000042.jpg", "7.png", "000000000009.JPG", "abstract_v002_12.png", "8.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = ImageFolders([tmp_path], coco_key).find(["42", "7", "9", "abstract_v002_12"], tmp_path / "q.json")
    assert [path.name for path in found.values()][:2] == ["COCO_val2014_000000000042.jpg", "7.png"]
    (tmp_path / "42.png").touch()
    with pytest.raises(UsageError, match=r"are the same image of q\.json"):
        ImageFolders([tmp_path], coco_key).find(["42"], "q.json")
    (tmp_path / "val2014" / "back").symlink_to(tmp_path)
    assert ImageFolders([tmp_path], coco_key).find(["7"], "q.json")  # the one file, by several ways
    with pytest.raises(UsageError, match=r"2 of 3 images of q\.json are not there: 8, 10"):
        ImageFolders([tmp_path], coco_key).find(["7", "8", "10", "8"], "q.json")


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-bert-clip"])
@pytest.mark.parametrize("images", [1, 2])
def test_fused_states_do_not_depend_on_the_batch(tiny_name, bert_clip, tmp_path, name, images):
    """Trimmed, grouped by length, equal texts once: the same logits one by one, in float64, with all gradients."""
    from open_clip_fff.models.fusion import Fusion, FusionSizes
    from open_clip_fff.models.tower_tokens import TowerTokens
    from open_clip_fff.tools.downstream.network import TaskNetwork

    if name not in open_clip.list_models():
        open_clip.add_model_config(bert_clip)
    torch.manual_seed(0)
    towers = open_clip.create_model(name, pretrained_hf=False)
    sizes = FusionSizes(1, 32, 32, TowerTokens(towers).text_width)
    network = TaskNetwork(towers, Fusion(sizes), 32, images, 5).double().eval()
    pixels = torch.randn(4, images, 3, 32, 32, dtype=torch.float64)
    texts = ["a red square", "blue", "a red square all over the picture", "blue"]
    ids = open_clip.get_tokenizer(name)(texts)
    logits = network(pixels, ids)
    alone = torch.cat([network(pixels[row : row + 1], ids[row : row + 1]) for row in range(4)])
    assert torch.allclose(logits, alone, atol=1e-10) and not torch.allclose(logits[1], logits[3], atol=1e-3)
    logits.sum().backward()
    for part in (towers.visual.conv1, network.fusion.transformer, network.head):
        assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in part.parameters() if x.ndim > 1)
    assert any(x.grad is not None for key, x in towers.named_parameters() if "visual" not in key)


@pytest.mark.slow
def test_a_fine_tuned_model_loads_back_with_the_same_score(fused, quiz, tmp_path, capsys):
    out, argv = tmp_path / "vqa", ["vqa", "--model", fused, "--steps", 6, "--validate-every", 2, *SMALL]
    ok(*argv, *files("vqa", quiz, "train", "val", "test"), "--out", out, "--predictions", tmp_path / "p.json")
    printed = capsys.readouterr().out
    assert "12 classes; examples: 150 train, 40 val, 30 test" in printed and "step 6: " in printed
    result = read(out / "result.json")
    history = result["validation"]
    assert [row["step"] for row in history] == [2, 4, 6]
    best = max(row["accuracy"] for row in history)
    assert next(row for row in history if row["accuracy"] == best)["step"] == result["chosen_step"]
    assert result["val"]["accuracy"] == best and result["val"]["n"] == 40
    # the score is that of the written predictions, by the plain formula
    given = read_annotations(quiz / "test-annotations.json")
    predicted = {row["question_id"]: row["answer"] for row in read(tmp_path / "p.json")}
    assert list(predicted) == list(given)
    right = {key: plain_accuracy(predicted[key], each.given) for key, each in given.items()}
    assert result["test"]["accuracy"] == pytest.approx(sum(right.values()) / 30)
    numbers = [right[key] for key, each in given.items() if each.kind == "number"]
    assert result["test"]["by_answer_type"]["number"] == {"accuracy": pytest.approx(sum(numbers) / 24), "n": 24}
    assert result["test"]["ceiling"] == 1.0
    # again from the folder, which is also an export
    score = ["vqa", "--score", out, "--workers", 0, *files("vqa", quiz, "test")]
    ok(*score, "--result", tmp_path / "r.json", "--predictions", tmp_path / "again.json")
    assert read(tmp_path / "r.json")["test"] == result["test"]
    assert read(tmp_path / "again.json") == read(tmp_path / "p.json")
    assert open_clip.create_model(f"local-dir:{out}", require_pretrained=True) is not None
    before, after = (load_file(folder / "open_clip_model.safetensors") for folder in (fused, out))
    assert not torch.equal(before["visual.conv1.weight"], after["visual.conv1.weight"])
    # without annotations there are predictions only, as for VQAv2's test questions
    ok(*score[:-2], "--result", tmp_path / "n.json", "--predictions", tmp_path / "server.json")
    assert read(tmp_path / "n.json")["test"] == {"n": 30} and read(tmp_path / "server.json") == read(
        tmp_path / "p.json"
    )
    # it goes on from there, with frozen towers; and the score is of the same task
    argv[2] = out
    ok(*argv, *files("vqa", quiz, "train", "val"), "--out", tmp_path / "more", "--freeze-towers")
    frozen = load_file(tmp_path / "more" / "open_clip_model.safetensors")
    assert all(torch.equal(x, frozen[name]) for name, x in after.items())
    fusion = [load_file(folder / "fusion.safetensors")["itm_head.weight"] for folder in (out, tmp_path / "more")]
    assert torch.equal(*fusion)  # no task reads it
    line = refused(capsys, "nlvr2", "--score", out, *files("nlvr2", quiz, "test"), "--result", tmp_path / "x.json")
    assert "was fine-tuned for vqa; use open-clip-fff vqa" in line
    # its ITM head has stayed behind
    says = f"{out}: was fine-tuned for VQA or NLVR2, .*; name the model that it was fine-tuned from"
    with pytest.raises(UsageError, match=f"--discriminator fusion:{says}"):
        discriminator_of(f"fusion:{out}")
    with pytest.raises(UsageError, match=f"--rerank: {says}"):
        rerank_conditions(load_model(str(out), "cpu"), None)


def test_a_hugging_face_tower_keeps_its_tokenizer(bert_clip, quiz, tmp_path):
    """From an export, whose configuration names the tokenizer's folder elsewhere, to a fine-tuned one."""
    if "tiny-bert-clip" not in open_clip.list_models():
        open_clip.add_model_config(bert_clip)
    start = make_fused("tiny-bert-clip", tmp_path / "start")
    for given, out in ((start, tmp_path / "first"), (tmp_path / "first", tmp_path / "second")):
        given = ["vqa", "--model", given, "--steps", 1, *SMALL, *files("vqa", quiz, "train", "val")]
        ok(*given, "--out", out)
    ok("vqa", "--score", out, "--workers", 0, *files("vqa", quiz, "test"), "--result", tmp_path / "r.json")
    words = open_clip.get_tokenizer(f"local-dir:{out}").tokenizer.get_vocab()
    assert words == open_clip.get_tokenizer("tiny-bert-clip").tokenizer.get_vocab()


def test_the_baseline_needs_no_fusion_model(fused, quiz, tmp_path, capsys):
    plain = tmp_path / "plain"
    shutil.copytree(fused, plain, ignore=shutil.ignore_patterns("fusion.*"))
    argv = ["vqa", "--model", plain, "--steps", 2, *SMALL, *files("vqa", quiz, "train", "val", "test")]
    assert "holds no fusion model" in refused(capsys, *argv, "--out", tmp_path / "no")
    ok(*argv, "--out", tmp_path / "pooled", "--pooled")
    assert "over the towers' pooled features" in capsys.readouterr().out
    assert not (tmp_path / "pooled" / "fusion.json").exists()
    ok("vqa", "--score", tmp_path / "pooled", *files("vqa", quiz, "test"), "--result", tmp_path / "r.json")
    assert read(tmp_path / "r.json")["test"] == read(tmp_path / "pooled" / "result.json")["test"]


def test_questions_without_a_listed_answer_teach_nothing(fused, quiz, tmp_path, capsys):
    argv = ["vqa", "--model", fused, "--steps", 1, *SMALL, *files("vqa", quiz, "train", "val"), "--answers", 2]
    ok(*argv, "--out", tmp_path / "yes-no")
    printed = capsys.readouterr().out
    assert "120 of 150 questions have no answer in the list" in printed or "2 classes" in printed
    assert read(tmp_path / "yes-no" / "result.json")["val"]["ceiling"] < 0.5


def test_what_cannot_work_is_one_line(fused, quiz, tmp_path, capsys):
    given = files("vqa", quiz, "train", "val")
    argv = ["vqa", "--model", fused, "--out", tmp_path / "x", "--steps", 1, *SMALL]

    def changed(name, change):
        content = read(quiz / name)
        change(content)
        (tmp_path / name).write_text(json.dumps(content))
        return [str(tmp_path / name) if word == f"{quiz}/{name}" else word for word in given]

    def line(*more):
        return refused(capsys, *argv, *more)

    assert "--val-questions: name the file to choose the step on" in line(*files("vqa", quiz, "train"))
    assert "--train-questions no.json: there is no such file" in line(*given, "--train-questions", "no.json")
    assert "--images no: there is no such folder" in line(*given, "--images", "no")
    assert "--result: goes with --score" in line(*given, "--result", tmp_path / "r.json")
    assert "--out /proc/none: cannot be written" in line(*given, "--out", "/proc/none")
    test = files("vqa", quiz, "test")
    assert "is in the model's own folder" in line(*given, *test, "--predictions", tmp_path / "x" / "p.json")
    assert "--predictions /proc/p.json: cannot be written" in line(*given, *test, "--predictions", "/proc/p.json")
    assert "is a folder; name a file" in line(*given, *test, "--predictions", tmp_path)
    unanswered = changed("val-annotations.json", lambda x: x["annotations"].pop(3))
    assert "answers 39 of the 40 questions" in (found := line(*unanswered)) and "question 3 has no annot" in found
    again = changed("val-annotations.json", lambda x: x["annotations"].append(x["annotations"][3]))
    assert "val-annotations.json, annotation 40: question 3 has another one before" in line(*again)
    again = changed("val-questions.json", lambda x: x["questions"][5].update(question_id=3))
    assert "val-questions.json: 3 is the question_id of several" in line(*again)
    few = changed("train-annotations.json", lambda x: x["annotations"][7].update(answers=[{"answer": "yes"}]))
    assert "train-annotations.json: question 7 has 1 answer; the accuracy" in line(*few)
    rare = changed("train-annotations.json", lambda x: x["annotations"][0].update(answers=[{"answer": "never"}] * 10))
    changed("train-questions.json", lambda x: x.update(questions=x["questions"][:1]))
    rare = [str(tmp_path / "train-questions.json") if word.endswith("train-questions.json") else word for word in rare]
    assert "no question has an answer in the list" in line(*rare, "--min-count", 20)
    nameless = changed("val-questions.json", lambda x: x["questions"][2].pop("question"))
    assert "val-questions.json, question 2: has no question that is text" in line(*nameless)
    other = changed("val-questions.json", lambda x: x.pop("questions"))
    assert 'val-questions.json: has no rows in "questions"' in line(*other)
    (tmp_path / "val-questions.json").write_text('[{"question": "what?"}]')
    assert "it is one list, as in ALBEF's files, and the public set's own is an object" in line(*other)
    (tmp_path / "val-questions.json").write_text('{"questions": [')
    assert "val-questions.json: cannot be read as json" in line(*other)
    absent = changed("val-questions.json", lambda x: x["questions"][0].update(image_id=999))
    assert "1 of 9 images of" in (found := line(*absent)) and "are not there: 999" in found
    assert "there is no such folder or checkpoint" in line(*given, "--model", tmp_path / "nothing")
    assert "--min-count 1000: leaves 0 answers" in line(*given, "--min-count", 1000)
    assert "--device nothing" in line(*given, "--device", "nothing")
    score = ["vqa", "--score", fused, *files("vqa", quiz, "test"), "--result", tmp_path / "r.json"]
    assert "no folder that open-clip-fff vqa wrote" in refused(capsys, *score)
    assert "is in the model's own folder" in refused(capsys, *score, "--result", fused / "result.json")
    assert "--result /proc/r.json: cannot be written" in refused(capsys, *score, "--result", "/proc/r.json")
    assert "is the file of --result" in refused(capsys, *score, "--predictions", tmp_path / "r.json")
    assert "without it there is no score" in refused(capsys, *score[:-4], "--result", tmp_path / "r.json")
    assert "--train-questions: goes with --model" in refused(capsys, *score, *given[2:4])
    for flag in ("--steps", "--lr", "--head-lr", "--wd", "--warmup", "--validate-every", "--seed", "--answers"):
        assert f"{flag}: goes with --model; --score reads test files" in refused(capsys, *score, flag, 7)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named(fused, quiz, tmp_path, capsys, workers):
    shutil.copytree(quiz / "images", tmp_path / "images")
    for path in (tmp_path / "images").glob("COCO_train*"):
        path.write_bytes(b"no image")
    given = [*files("vqa", quiz, "train", "val"), "--images", tmp_path / "images", "--out", tmp_path / "x"]
    line = refused(capsys, "vqa", "--model", fused, *SMALL, *given, "--workers", workers)
    assert "COCO_train2014_" in line and "cannot be read as an image" in line
    assert not (tmp_path / "x").exists()


def test_what_was_trained_is_kept_where_a_test_image_cannot_be_read(fused, quiz, tmp_path, capsys):
    shutil.copytree(quiz / "images", tmp_path / "images")
    for path in (tmp_path / "images").glob("COCO_test*"):
        path.write_bytes(b"no image")
    given = [*files("vqa", quiz, "train", "val", "test"), "--images", tmp_path / "images", "--out", tmp_path / "x"]
    assert "cannot be read as an image" in refused(capsys, "vqa", "--model", fused, *SMALL, "--steps", 1, *given)
    ok("vqa", "--score", tmp_path / "x", *files("vqa", quiz, "test"), "--result", tmp_path / "r.json")


def test_a_training_that_diverges_ends(fused, quiz, tmp_path, capsys):
    given = [*SMALL, *files("vqa", quiz, "train", "val"), "--pooled", "--head-lr", "1e-3"]

    def train(out, *more):
        return ["vqa", "--model", fused, "--out", tmp_path / out, "--steps", 3, "--warmup", 1, *given, *more]

    assert "--lr: nan is not a finite number" in refused(capsys, *train("x", "--lr", "nan"))
    for flag, value in (("--head-lr", "-0.5"), ("--wd", "-0.1"), ("--warmup", "-1")):
        assert f"{flag} {value}: must be 0 or more" in refused(capsys, *train("x", flag, value))
    large = ["--lr", "1e30", "--head-lr", "1e30", "--validate-every"]
    line = refused(capsys, *train("x", *large, "2"))
    assert "--lr 1e+30: training diverged before step 2, and nothing is written" in line
    assert not (tmp_path / "x").exists()
    ok(*train("y", *large, "1"))
    assert "training diverged after it; lower it" in capsys.readouterr().err
    found = read(tmp_path / "y" / "result.json")
    assert found["chosen_step"] == found["validation"][-1]["step"] == 1  # no step with weights that are not finite
