"""Small random BLIP and BLIP-2 of transformers, saved with a tokenizer of their own."""

from pathlib import Path

import torch

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.matching.discriminators import make_discriminator
from tests.conftest import WORDS

LONGEST = 12
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": 24, "patch_size": 8}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT |= {"encoder_hidden_size": 16, "max_position_embeddings": LONGEST + 4}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
TRAINED = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)  # mean and std of the trained model's images


def make(folder: Path, kind: str, cls: str | None = None) -> Path:
    """A folder with a `blip` or `blip2`, of its retrieval class or of another."""
    import transformers
    from transformers import BertTokenizerFast, Blip2Config, BlipConfig, BlipImageProcessor

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join([*sorted(WORDS, key=lambda word: word != "[PAD]"), *"abcdefghijk"]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=LONGEST)
    text = {**TEXT, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(3)
    if kind == "blip":
        text |= {"bos_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
        config = BlipConfig(vision_config=VISION, text_config=text, image_text_hidden_size=8)
        model = getattr(transformers, cls or "BlipForImageTextRetrieval")(config)
    else:
        text |= {"use_qformer_text_input": True}
        config = Blip2Config(vision_config=VISION, qformer_config=text, num_query_tokens=3, image_text_hidden_size=8)
        model = getattr(transformers, cls or "Blip2ForImageTextRetrieval")(config)
    for weights in model.parameters():
        if weights.ndim > 1:  # transformers' own start is too near 0 for answers that differ
            torch.nn.init.normal_(weights, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessor(size={"height": 24, "width": 24}, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


def discriminator_of(value, **options):
    return make_discriminator(ConnectionSettings(str(value), **options), torch.device("cpu"), *TRAINED)


def crops(n: int, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops 0 to 1, and as the training loader normalises them, [n, 3, side, side]."""
    raw = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in TRAINED)
    return raw, (raw - mean) / std
