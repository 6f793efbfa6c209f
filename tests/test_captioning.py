"""Captioners: how they are asked, each kind of model, and caption.py from end to end."""

import json
import math
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from open_clip_fff.commands.caption import parse
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.preview import preview_shard
from open_clip_fff.data.shards import read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError
from open_clip_fff.tools.caption.captioner import shared_start
from open_clip_fff.tools.caption.decoding import Decoding
from open_clip_fff.tools.caption.loading import configuration, dtype_of, load_captioner, revision
from open_clip_fff.tools.caption.shard import METADATA
from tests.captioning_models import make_captioner
from tests.conftest import colour_sample, write_tar
from tests.full_disk import full_disk
from tests.matching_models import make
from tests.programs import ROOT, contents, run, torchrun

CAPTION = str(ROOT / "scripts" / "caption.py")
SHORT = Decoding(captions=3, max_new_tokens=8)
COLOURS = ("red", "blue", "green")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of a captioner of some kind, made once."""
    made: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("captioners")

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_captioner(folder / kind, kind)
        return made[kind]

    return of


def captioner_of(folder, prompt=""):
    return load_captioner(str(folder), configuration(str(folder)), prompt, "float32")


# --- decoding --------------------------------------------------------------------------------------------------------


def test_what_generate_is_asked():
    nucleus = Decoding(top_p=0.8, temperature=0.7, tries=2)
    assert nucleus.arguments() | {"do_sample": True, "top_p": 0.8, "top_k": 0} == nucleus.arguments()
    assert (
        nucleus.rounds == 3 and "beams" not in nucleus.used_settings() and nucleus.used_settings()["temperature"] == 0.7
    )
    beam = Decoding("beam", 3, beams=4)
    assert beam.arguments()["num_beams"] == 4 and beam.arguments()["num_return_sequences"] == 3 and beam.rounds == 1
    assert "top_p" not in beam.arguments() and "tries" not in beam.used_settings()
    assert Decoding("greedy", 1).arguments()["num_beams"] == 1
    for wrong, line in (
        ({"captions": 0}, "--captions 0"),
        ({"how": "greedy"}, "greedy decoding has one"),
        ({"how": "beam", "captions": 6}, "--beams 5: must be"),
        ({"how": "beam", "captions": 1, "beams": 1}, "--beams 1"),
        ({"top_p": 0.0}, "--top-p 0"),
        ({"temperature": 0.0}, "--temperature 0"),
        ({"temperature": math.inf}, "--temperature inf"),
        ({"tries": -1}, "--tries -1"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "--min-new-tokens 9"),
        ({"min_new_tokens": 0, "max_new_tokens": 0}, "--max-new-tokens 0"),
    ):
        with pytest.raises(UsageError, match=re.escape(line)):
            Decoding(**wrong)
    with pytest.raises(UsageError, match="--prompt: is no UTF-8 text"):
        parse(["--train-data", "0.tar", "--out", "x", "--prompt", "un caf\udce9"])  # from a terminal in Latin-1


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["blip", "blip2", "git", "decoder", "chat"])
def test_each_kind_captions_and_images_matter(models, kind):
    captioner = captioner_of(models(kind), "a square" if kind == "chat" else "")
    captioner.check(SHORT, "--model")
    pictures = [captioner.prepare(Image.new("RGB", (40, 30), colour)) for colour in COLOURS]
    torch.manual_seed(0)
    said = captioner.generate(pictures, SHORT)
    assert [len(texts) for texts, _ in said] == [3, 3, 3] and len({texts[0] for texts, _ in said}) > 1
    torch.manual_seed(0)
    assert captioner.generate(pictures, SHORT) == said
    likeliest = Decoding("greedy", captions=1, max_new_tokens=8)
    together = captioner.generate(pictures, likeliest)
    assert together == [captioner.generate([picture], likeliest)[0] for picture in pictures]
    assert all(len(texts[0].split()) <= 8 for texts, _ in together)
    beams = captioner.generate(pictures, Decoding("beam", captions=2, beams=3, max_new_tokens=8))
    assert [len(texts) for texts, _ in beams] == [2, 2, 2]
    assert captioner.generate([], SHORT) == []


@pytest.mark.parametrize("kind", ["blip", "blip2", "git"])
def test_a_prompt_is_said_to_the_model_and_not_to_the_reader(models, kind, monkeypatch):
    plain, asked = captioner_of(models(kind)), captioner_of(models(kind), "picture in")
    picture = Image.new("RGB", (40, 30), "red")
    decoding = Decoding("greedy", captions=1, max_new_tokens=6)
    said = asked.generate([asked.prepare(picture)], decoding)[0].texts[0]
    rows, generate = [], asked.model.generate
    monkeypatch.setattr(asked.model, "generate", lambda **given: rows.append(generate(**given)) or rows[-1])
    assert asked.generate([asked.prepare(picture)], decoding)[0].texts[0] == said
    whole = asked.tokenizer.decode(rows[0][0], skip_special_tokens=True)
    assert whole.split() == ["picture", "in", *said.split()]
    assert said != plain.generate([plain.prepare(picture)], decoding)[0].texts[0]


def test_only_the_prompt_is_cut_off():
    assert shared_start(torch.tensor([2, 5, 6, 7]), torch.tensor([2, 5, 6, 3])) == 3
    assert shared_start(torch.tensor([0, 5, 6]), torch.tensor([2, 5, 6])) == 0
    assert shared_start(torch.tensor([2]), torch.tensor([2, 5, 6])) == 1


def test_models_that_cannot_serve_are_refused_in_one_line(models, tmp_path):
    def refused(folder, prompt="", decoding=SHORT):
        with pytest.raises(UsageError) as found:
            captioner_of(folder, prompt).check(decoding, f"--model {folder}")
        assert "\n" not in str(found.value)
        return str(found.value)

    matching = make(tmp_path / "matching", "blip")
    assert "weights of a captioner are missing (text_decoder" in refused(matching)
    assert "weights of a captioner are missing" in refused(make(tmp_path / "matching2", "blip2"))
    assert "--prompt 'x': the model takes none" in refused(models("decoder"), "x")
    assert "--prompt: the model is one to chat with" in refused(models("chat"))
    long = Decoding(max_new_tokens=30)
    assert "--max-new-tokens 30: --model" in refused(models("blip"), decoding=long)
    assert "has texts of 16 tokens, and 1 of them" in refused(models("blip"), decoding=long)
    bare = tmp_path / "bare"
    shutil.copytree(models("blip"), bare)
    (bare / "preprocessor_config.json").unlink()
    (bare / "processor_config.json").unlink(missing_ok=True)
    assert "cannot be loaded" in refused(bare) and "preprocessor" in refused(bare)
    for kind in ("blip", "chat"):
        mute = Path(shutil.copytree(models(kind), tmp_path / f"mute-{kind}"))
        for path in (*mute.glob("tokenizer*"), *mute.glob("vocab*")):
            path.unlink()
        assert "cannot be loaded" in refused(mute) and "tokenizer" in refused(mute)
    old = tmp_path / "old"
    shutil.copytree(models("blip2"), old)
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({**config, "image_token_index": None}))
    assert "has no image_token_index" in refused(old)
    # an image token that the model's words lack, met by the first picture and not by the millionth
    (old / "config.json").write_text(json.dumps({**config, "image_token_index": 999}))
    assert "cannot caption a grey image" in refused(old)


def test_a_revision_is_that_of_weights_and_words(models, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(models("blip"), copy)
    config = configuration(str(copy))
    before = revision(str(copy), config)
    assert before == revision(str(models("blip")), config)
    (copy / "README.md").write_text("changed")
    assert revision(str(copy), config) == before
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert revision(str(copy), config) != before
    assert dtype_of("auto", config, "cpu") == "float32" and dtype_of("auto", config, "cuda:1") == "float16"
    config.dtype = torch.bfloat16
    assert dtype_of("auto", config, "cuda") == "bfloat16" and dtype_of("float32", config, "cuda") == "float32"


# --- the program -----------------------------------------------------------------------------------------------------


@pytest.fixture
def flags(models, shards):
    """Those of a quick run over two of the colour shards."""
    return [
        *("--train-data", str(shards / "{00..01}.tar"), "--model", str(models("blip"))),
        *("--max-new-tokens", "10", "--batch-size", "8", "--workers", "2", "--captions", "3"),
    ]


@pytest.fixture
def all_flags(flags, shards):
    """Those of a run over all four."""
    return [*flags, "--train-data", str(shards / "{00..03}.tar")]


def test_a_sidecar_is_what_training_reads(program, flags, shards, tmp_path):
    out = tmp_path / "out"
    done = program("caption", "--out", out, *flags, folder="scripts")
    settings = json.loads((out / "settings.json").read_text())
    table = pq.read_table(out / "01.parquet")
    assert json.loads(table.schema.metadata[METADATA]) == settings and len(settings["revision"]) == 64
    noted = {"model", "how", "captions", "top_p", "prompt", "seed", "batch size", "dtype", "transformers"}
    assert noted < set(settings)
    assert list(map(str, table.schema.types)) == ["string", "list<element: string>"]
    rows = dict(zip(*table.to_pydict().values(), strict=True))
    assert len(rows) == 16
    for texts in rows.values():
        assert 1 <= len(texts) <= 3 and len(texts) == len({text.lower() for text in texts})
    # by the flags that it names
    line = done.out.splitlines()[-1]
    assert line.endswith(f"--caption-sidecar {out} --sidecar-text-key captions --captions-per-image 4")
    captions = CaptionSettings(per_image=4, policy="all", sidecar=str(out), sidecar_keys=("captions",))
    preview = preview_shard(str(shards / "01.tar"), captions)
    assert preview.rows_with == {"txt": 16, "sidecar:captions": 16}
    reader = CaptionReader(captions)
    for sample in read_samples([str(shards / "01.tar")], 99):
        assert reader.read(sample).found["sidecar:captions"] == rows[sample["__key__"]]
    # and what it shows is what is there
    first = pq.read_table(out / "00.parquet").to_pylist()[0]
    assert f"raw  {'img 0'!r}" in done.out and all(repr(text) in done.out for text in first["captions"])
    counted = json.loads((out / "records" / "01.json").read_text())["counts"]
    assert counted["images"] == 16 and counted["captions"] == sum(map(len, rows.values()))


@pytest.mark.slow
def test_another_round_finds_more_captions_and_a_seed_others(program, flags, shards, tmp_path):
    def captions(name, *more):
        one = ["--train-data", str(shards / "00.tar")]
        program("caption", "--out", tmp_path / name, *flags, *one, "--temperature", "0.4", *more, folder="scripts")
        return [row["captions"] for row in pq.read_table(tmp_path / name / "00.parquet").to_pylist()]

    once, thrice = captions("once", "--tries", "0"), captions("thrice", "--tries", "2")
    assert sum(map(len, once)) < sum(map(len, thrice)) and max(map(len, thrice)) == 3
    assert captions("again", "--tries", "0") == once != captions("other", "--tries", "0", "--seed", "1")


@pytest.mark.slow
def test_tars_keep_all_and_get_a_field(program, flags, shards, tmp_path):
    out = tmp_path / "tars"
    done = program("caption", "--out", out, "--into", "tars", *flags, folder="scripts")
    before = list(read_samples([str(shards / "01.tar")], 99))
    after = list(read_samples([str(out / "01.tar")], 99))
    for old, new in zip(before, after, strict=True):
        assert all(old[name] == new[name] for name in ("__key__", "png", "txt"))
        fields = json.loads(new["json"])
        assert 1 <= len(fields.pop("generated_captions")) <= 3 and fields == json.loads(old["json"])
    assert f"--train-data '{out}/{{00..01}}.tar' --json-text-key generated_captions" in done.out
    program("caption", "--out", tmp_path / "side", *flags, folder="scripts")
    side = {row["key"]: row["captions"] for row in pq.read_table(tmp_path / "side" / "01.parquet").to_pylist()}
    assert {x["__key__"]: json.loads(x["json"])["generated_captions"] for x in after} == side
    # a field that is there is refused, and with --overwrite is replaced
    taken = ["--into", "tars", *flags, "--field", "captions"]
    done = program("caption", "--out", tmp_path / "no", *taken, folder="scripts", expect=2)
    assert "00.tar: the json of 0000 has one already" in done.err and not (tmp_path / "no").exists()
    program("caption", "--out", tmp_path / "over", *taken, "--overwrite", folder="scripts")
    over = list(read_samples([str(tmp_path / "over" / "01.tar")], 99))
    assert {x["__key__"]: json.loads(x["json"])["captions"] for x in over} == side


def test_damage_costs_its_own_sample_or_shard(program, flags, tmp_path):
    samples = {f"{row:02d}": colour_sample(row) for row in range(6)}
    samples["00"]["png"] = samples["00"]["png"][:60]
    samples["01"].pop("png")
    samples["02"]["json"] = b"{no json"
    samples["03"].pop("json"), samples["03"].pop("txt")
    samples["04"]["json"] = json.dumps({"generated_captions": ["mine"]}).encode()
    last = samples.pop("04")
    write_tar(tmp_path / "0.tar", samples)
    whole = write_tar(tmp_path / "1.tar", {f"{row}": colour_sample(row) for row in range(9)}).read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: len(whole) // 2])
    write_tar(tmp_path / "2.tar", {"a": colour_sample(0), "04": last})
    tars = ["--train-data", tmp_path / "{0..3}.tar", *flags[2:], "--into", "tars"]
    done = program("caption", "--out", tmp_path / "out", *tars, folder="scripts", expect=1)
    assert "holds 1 of 4 shards: 2 images" in done.out and "not done, since they cannot be read: 1, 2, 3" in done.out
    assert "1.tar cannot be read as a tar" in done.err and "the json of 04 has one already" in done.err
    left = json.loads((tmp_path / "out" / "records" / "0.json").read_text())["left_out"]
    assert {entry["key"]: entry["why"] for entry in left} == {
        "00": "image cannot be read",
        "01": "no image",
        "02": "json cannot be read",
    }
    # nothing is lost of those without captions
    after = {x["__key__"]: x for x in read_samples([str(tmp_path / "out" / "0.tar")], 99)}
    assert list(after) == list(samples)
    for key in ("00", "01", "02"):
        assert {name: after[key].get(name) for name in samples[key]} == samples[key]
    assert list(json.loads(after["03"]["json"])) == ["generated_captions"] and "txt" not in after["03"]
    assert not list((tmp_path / "out").glob("[123]*"))


def test_a_key_that_is_there_twice_is_captioned_once(program, flags, tmp_path):
    import tarfile

    one = {"x": colour_sample(0), "y": colour_sample(1)}
    write_tar(tmp_path / "a.tar", one), write_tar(tmp_path / "b.tar", {"x": colour_sample(2)})
    with tarfile.open(tmp_path / "0.tar", "w") as out:
        for part in "ab":
            with tarfile.open(tmp_path / f"{part}.tar") as tar:
                for member in tar:
                    out.addfile(member, tar.extractfile(member))
    done = program("caption", "--out", tmp_path / "o", "--train-data", tmp_path / "0.tar", *flags[2:], folder="scripts")
    assert "2 images" in done.out and "1 × its key was there before" in done.out
    assert pq.read_table(tmp_path / "o" / "0.parquet")["key"].to_pylist() == ["x", "y"]


def test_a_name_that_leaves_the_folder_is_not_copied(program, flags, tmp_path):
    write_tar(tmp_path / "0.tar", {"../x": colour_sample(0), "y": colour_sample(1)})
    argv = ["--train-data", tmp_path / "0.tar", *flags[2:], "--into", "tars"]
    program("caption", "--out", tmp_path / "o", *argv, folder="scripts")
    assert [sample["__key__"] for sample in read_samples([str(tmp_path / "o" / "0.tar")])] == ["y"]
    record = json.loads((tmp_path / "o" / "records" / "0.json").read_text())
    assert record["left_out"] == [{"key": "../x", "why": "its name leaves the folder"}]
    assert record["counts"]["images"] == 1


def test_what_cannot_work_is_refused_in_one_line(program, flags, models, shards, tmp_path):
    def refused(*more):
        done = program("caption", "--out", tmp_path / "refused", *flags, *more, folder="scripts", expect=2)
        assert len(done.err.splitlines()) == 1 and done.err.startswith("caption.py: error: "), done.err
        return done.err

    hub = "there is no folder of that name, and from the hub it cannot be loaded"
    assert f"--model Salesforce/nothing: {hub}" in refused("--model", "Salesforce/nothing")
    assert "says bert, with which transformers captions no images" in refused("--model", _bert(tmp_path / "bert"))
    assert "weights of a captioner are missing" in refused("--model", make(tmp_path / "matching", "blip"))
    assert "no such file" in refused("--train-data", shards / "nothing-{0..3}.tar")
    assert "--device nothing" in refused("--device", "nothing")
    assert "write I/N" in refused("--share", "2/2")
    assert "--beams: goes with --decoding beam, not nucleus" in refused("--beams", "3")
    assert "--top-p: goes with --decoding nucleus, not beam" in refused("--decoding", "beam", "--top-p", "0.5")
    assert "--captions 3: greedy decoding has one" in refused("--decoding", "greedy")
    assert "--batch-size 0: must be 1" in refused("--batch-size", "0")
    assert "--workers -1: must be 0" in refused("--workers", "-1")
    assert "--field a;b: letters" in refused("--into", "tars", "--field", "a;b")
    assert f"--out {shards}: the shards that are read are there" in refused("--into", "tars", "--out", str(shards))
    assert "--field, --overwrite: go with --into tars" in refused("--overwrite")
    assert "invalid choice" in refused("--dtype", "float8")
    assert "unrecognized arguments: --nonsense" in refused("--nonsense")
    assert "--max-new-tokens 99" in refused("--max-new-tokens", "99")
    program("caption", "--out", tmp_path / "made", *flags, "--share", "0/2", folder="scripts")
    done = program("caption", "--out", tmp_path / "made", *flags, "--prompt", "a", folder="scripts", expect=2)
    assert "was made with prompt '' and not 'a'; name another folder" in done.err


def _bert(folder):
    from transformers import BertConfig

    BertConfig().save_pretrained(folder)
    return folder


def test_memory_that_is_too_small_is_a_line(program, flags, monkeypatch, tmp_path):
    from transformers import BlipForConditionalGeneration

    generate, calls = BlipForConditionalGeneration.generate, []

    def full(self, **given):
        calls.append(1)
        if len(calls) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmuch")
        return generate(self, **given)

    monkeypatch.setattr(BlipForConditionalGeneration, "generate", full)
    done = program("caption", "--out", tmp_path / "o", *flags, folder="scripts", expect=2)
    assert "--batch-size 8: 3 captions of so many images do not fit" in done.err.splitlines()[-1]


def test_a_plot_that_finds_no_room_is_told_of(program, flags, shards, tmp_path):
    out = tmp_path / "out"
    with full_disk(50_000):  # enough for the captions
        done = program("caption", "--out", out, *flags, folder="scripts")
    assert f"no plot: {out / 'examples.png'} cannot be written ([Errno 27]" in done.out
    assert not (out / "examples.png").exists() and "to train with them" in done.out


@pytest.mark.slow
def test_a_killed_run_that_is_started_again_gives_the_same_bytes(all_flags, tmp_path):
    """Killed with a shard's captions made but not named, between record and file, and between two shards."""
    command = [CAPTION, *all_flags, "--out"]
    assert run(*command, str(tmp_path / "whole")).returncode == 0
    whole = contents(tmp_path / "whole")
    assert len(whole) == 10 and whole["examples.png"][:4] == b"\x89PNG"
    for point in (2, 3, 6):
        out = tmp_path / str(point)
        run(*command, str(out), die_at=point)
        left = contents(out)
        assert left != whole and all(left[name] == whole[name] for name in left if "/." not in f"/{name}")
        done = run(*command, str(out))
        assert done.returncode == 0 and f"{4 - (point - 2) // 2} of 4 shards to do" in done.stdout, done
        left = contents(out)
        assert {name: left[name] for name in left if not name.split("/")[-1].startswith(".")} == whole


@pytest.mark.slow
def test_two_processes_give_the_same_as_one(all_flags, tmp_path):
    assert run(CAPTION, *all_flags, "--out", str(tmp_path / "one")).returncode == 0
    done = torchrun(2, CAPTION, *all_flags, "--out", str(tmp_path / "two"))
    assert done.returncode == 0 and done.stdout.count("holds 4 of 4 shards: 64 images") == 1, done
    assert done.stdout.count("to train with them") == 1
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
