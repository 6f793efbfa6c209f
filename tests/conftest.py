"""Small real things: a tiny OpenCLIP architecture, real tars, a real CSV, and the trainer as a function."""

import json
import logging
import os
import runpy
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from scripts.faulty.inputs import COLOURS, TINY, colour_image, colour_sample, write_tar

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)


# one of an image's captions at each visit, under OpenCLIP's own loss
DRAWN = ["--method", "clip", "--captions-per-image", "4", "--caption-policy", "sample", "--json-text-key", "captions"]


MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*COLOURS, *("a", "square", "something", "all", "over", "picture", "in", "img", "title"), *MARKS]


def open_clip_loads(folder: Path) -> None:
    """The check of `write_hub_folder` in tests: stock OpenCLIP makes a model of the folder, with its weights."""
    import open_clip

    open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)


@pytest.fixture(autouse=True)
def quiet_after_open_clip():
    """OpenCLIP's own main, which some tests call beside ours, sets every logger to INFO; torch then talks for ever.

    And its handlers stay: all later trainings' lines would go into its log, too.

    An exception out of a signal's handler, as torch raises one where a loader's worker is killed, can leave logging's
    lock held for good: the threads of a later test would wait for it for ever.
    """
    handlers = list(logging.root.handlers)
    yield
    held = logging._lock._is_owned()
    while logging._lock._is_owned():
        logging._lock.release()
    assert not held, "this test left logging's lock held"
    for handler in [h for h in logging.root.handlers if h not in handlers]:
        logging.root.removeHandler(handler)
        handler.close()
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.level = logging.NOTSET  # setLevel looks at all loggers each time, and there are a thousand
    logging.root.setLevel(logging.WARNING)  # and clears what loggers remember of levels


@pytest.fixture(scope="session", autouse=True)
def one_fork_server(tmp_path_factory):
    from tests import programs

    if "PYTEST_XDIST_WORKER" in os.environ and Path("/proc/self/fd").is_dir():
        programs.share_server(tmp_path_factory.getbasetemp().parent)  # the run's own


@pytest.fixture(scope="session", autouse=True)
def one_vocabulary():
    from tests import vocabulary

    vocabulary.read_once()


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The json of the tiny architecture `tiny-clip`."""
    path = tmp_path_factory.mktemp("architecture") / "tiny-clip.json"
    path.write_text(json.dumps(TINY))
    return path


@pytest.fixture(scope="session")
def tiny_name(tiny_config: Path) -> str:
    """`tiny-clip`, registered in this process."""
    import open_clip

    if "tiny-clip" not in open_clip.list_models():
        open_clip.add_model_config(tiny_config)
    return "tiny-clip"


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 4 shards of 16 colour samples, keys repeating across shards."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(4):
        samples = {f"{row:04d}": colour_sample(shard * 16 + row) for row in range(16)}
        write_tar(folder / f"{shard:02d}.tar", samples)
    return folder


@pytest.fixture(scope="session")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tab-separated file of 32 images with a title and a second caption column."""
    folder = tmp_path_factory.mktemp("csv")
    lines = ["filepath\ttitle\tpseudo"]
    for index in range(32):
        colour = list(COLOURS)[index % 4]
        path = folder / f"{index}.png"
        path.write_bytes(colour_image(colour, index))
        lines.append(f"{path}\timg {index}\ta {colour} square")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder / "train.csv"


class Trainer:
    """`open_clip_fff.train.main` with what every small run shares."""

    def __init__(self, config: Path, shards: Path, csv: Path, logs: Path) -> None:
        self.config, self.shards, self.csv, self.logs = config, shards, csv, logs

    @property
    def common(self) -> list[str]:
        return [
            *("--model", "tiny-clip", "--device", "cpu", "--precision", "fp32", "--workers", "0"),
            *("--batch-size", "16", "--epochs", "1", "--warmup", "2", "--log-every-n-steps", "1"),
            *("--logs", str(self.logs)),
        ]

    @property
    def tars(self) -> list[str]:
        return ["--train-data", str(self.shards / "{00..03}.tar"), "--train-num-samples", "64"]

    @property
    def table(self) -> list[str]:
        return ["--train-data", str(self.csv), "--csv-img-key", "filepath", "--csv-caption-key", "title"]

    def __call__(self, *argv: str, data: list[str] | None = None) -> int:
        from open_clip_fff.train import main

        config = ["--model-config", str(self.config)]
        return main([*self.common, *config, *(self.tars if data is None else data), *argv])

    def run(self, name: str) -> Path:
        return self.logs / name

    def log(self, name: str) -> str:
        return (self.run(name) / "out.log").read_text()

    def checkpoint(self, name: str, epoch: int = 1) -> dict:
        path = self.run(name) / "checkpoints" / f"epoch_{epoch}.pt"
        return torch.load(path, weights_only=True)


@pytest.fixture
def trainer(tiny_config: Path, tiny_name: str, shards: Path, csv: Path, tmp_path: Path) -> Trainer:
    """The trainer, with a log folder of the test's own."""
    return Trainer(tiny_config, shards, csv, tmp_path / "logs")


@pytest.fixture(scope="session")
def teacher(tiny_config: Path, tiny_name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny architecture, for mining."""
    import open_clip

    torch.manual_seed(7)
    model = open_clip.create_model(tiny_name)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, path)
    return path


class Done(NamedTuple):
    """What a program printed."""

    out: str
    err: str


@pytest.fixture
def program(capsys, monkeypatch):
    """A program of eval/, or of another folder, as a command line starts it, in this process."""

    def run(name: str, *arguments: object, expect: int = 0, folder: str = "eval") -> Done:
        path = str(Path(__file__).parent.parent / folder / f"{name}.py")
        capsys.readouterr()
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr("sys.argv", [path, *map(str, arguments)])
            runpy.run_path(path, run_name="__main__")
        done = Done(*capsys.readouterr())
        assert end.value.code == expect, done
        return done

    return run


@pytest.fixture(scope="session")
def bert_clip(tmp_path_factory):
    """The json of `tiny-bert-clip`, whose text tower is a small random BERT with a tokenizer of its own."""
    from transformers import BertConfig, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS + [str(n) for n in range(10)]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    size["pad_token_id"] = WORDS.index("[PAD]")
    BertConfig(vocab_size=64, **size).save_pretrained(folder)
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_proj_type": "mlp", "context_length": 16}
    text |= {"hf_pooler_type": "mean_pooler", "hf_model_pretrained": False}
    path = folder / "tiny-bert-clip.json"
    path.write_text(json.dumps({**TINY, "text_cfg": text}))
    return path


@pytest.fixture(scope="session")
def matching_folders(tmp_path_factory):
    """By kind, the folder of a small random matching model."""
    from tests.matching_models import make

    root = tmp_path_factory.mktemp("matching")
    return {kind: make(root / kind, kind) for kind in ("blip", "blip2")}


@pytest.fixture
def export_here():
    """The export of a run or checkpoint, checked in this process: a second one takes seconds to start."""
    from open_clip_fff.hub.weight_source import choose_weights
    from open_clip_fff.tools.export import export

    def check(folder: Path, loaded) -> None:
        import open_clip

        from open_clip_fff.hub.stock_outputs import model_outputs

        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}", require_pretrained=True)
        theirs = model_outputs(model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}"))
        for name, answer in model_outputs(loaded.model, loaded.preprocess, loaded.tokenizer).items():
            assert torch.equal(answer, theirs[name]), name

    def export_to(given, out, average=None, ema=False, model=None, **more):
        runs = given if isinstance(given, list) else [given]
        return export(choose_weights(runs, average, ema, model), out, check=check, **more)

    return export_to


@pytest.fixture(scope="session")
def sentence_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real BERT, small and random, that spells words by their letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [*special, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    options = {"unk_token": "[UNK]", "pad_token": "[PAD]", "model_max_length": 32}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)).save_pretrained(folder)
    return folder
