"""Sentences about two images: NLVR2's files and figures by hand, and fine-tuned models that load back."""
# ruff: noqa: F811

import json

import pytest

from open_clip_fff.tools.downstream.nlvr2 import consistency, image_names
from tests.quiz import SMALL, files, fused, ok, quiz, read, refused  # noqa: F401


def test_names_are_those_of_the_public_set():
    assert image_names("dev-850-0-1") == ("dev-850-0-img0", "dev-850-0-img1")
    assert image_names("test1-769-1-0")[1] == "test1-769-1-img1"
    with pytest.raises(ValueError, match="is not split-set-pair-sentence"):
        image_names("dev-850")


def test_a_sentence_is_consistent_if_it_is_right_for_all_its_pairs():
    identifiers = ["dev-1-0-0", "dev-1-1-0", "dev-1-0-1", "dev-1-1-1", "dev-2-0-0"]
    assert consistency(identifiers, [True, True, True, False, False]) == pytest.approx(1 / 3)
    assert consistency(identifiers, [True] * 5) == 1


@pytest.mark.parametrize("baseline", [False, True])
def test_a_fine_tuned_model_loads_back_with_the_same_score(fused, quiz, tmp_path, capsys, baseline):
    out, argv = tmp_path / "nlvr2", ["nlvr2", "--model", fused, "--steps", 4, "--validate-every", 2, *SMALL]
    ok(*argv, *files("nlvr2", quiz, "train", "val", "test"), "--out", out, *["--pooled"] * baseline)
    assert "2 classes; examples: 40 train, 12 val, 16 test" in capsys.readouterr().out
    result = read(out / "result.json")
    assert [row["step"] for row in result["validation"]] == [2, 4] and result["test"]["n"] == 16
    assert (out / "fusion.json").exists() != baseline
    test = files("nlvr2", quiz, "test")
    ok("nlvr2", "--score", out, *test, "--result", tmp_path / "r.json", "--predictions", tmp_path / "p.json")
    assert read(tmp_path / "r.json")["test"] == result["test"]
    labels = [json.loads(line)["label"] for line in (quiz / "test.json").read_text().splitlines()]
    predicted = [row["label"] for row in read(tmp_path / "p.json")]
    assert sum(a == b for a, b in zip(labels, predicted, strict=True)) / 16 == result["test"]["accuracy"]
    assert result["test"]["consistency"] == result["test"]["accuracy"]  # each sentence has one pair here


def test_what_cannot_work_is_one_line(fused, quiz, tmp_path, capsys):
    argv = ["nlvr2", "--model", fused, "--out", tmp_path / "x", "--steps", 1, *SMALL]
    given = files("nlvr2", quiz, "train", "val")

    def changed(text):
        (tmp_path / "val.json").write_text(text)
        return refused(capsys, *argv, *given, "--val-data", tmp_path / "val.json")

    first, *_ = lines = (quiz / "val.json").read_text().splitlines()
    assert "val.json, line 2: is no json" in changed(f"\ufeff{first}\n{{no")
    assert "val.json: has no object a line; it is one list, as in ALBEF's files" in changed(f"[{first}]")
    assert "val.json: is empty" in changed("\n\n")
    assert "val.json, row 1: has no identifier that is text" in changed(first.replace("identifier", "id"))
    assert "row 1: label Maybe is neither True nor False" in changed(first.replace('"True"', '"maybe"'))
    assert "row 1: label 1 is neither True nor False" in changed(first.replace('"True"', "1"))
    assert "row 1: has no label" in changed(first.replace('"True"', "null"))
    assert "identifier val-0 is not split-set-pair" in changed(first.replace("val-0-0-0", "val-0"))
    assert "2 of 4 images of" in (line := changed(f"{first}\n{lines[1].replace('val-1-0', 'val-99-0')}"))
    assert "are not there: val-99-0-img0, val-99-0-img1" in line
    assert "--val-data: name the file to choose the step on" in refused(capsys, *argv, *files("nlvr2", quiz, "train"))
    assert not (tmp_path / "x").exists()
