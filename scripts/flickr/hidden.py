"""False negatives counted exactly: a second caption of a photograph, hidden among the negatives of its batch."""

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from open_clip_fff.config.connection import ConnectionSettings
from open_clip_fff.data.shards import read_samples
from open_clip_fff.hub.loading import load_model
from open_clip_fff.matching.discriminators import make_discriminator

DRAWS = 5  # of batches and captions


def hidden_negatives(data: Path, features: Path, batch: int, names: Sequence[str]) -> pd.DataFrame:
    """A line for each discriminator, in % of the hardest negatives in batches of so many photographs.

    `features` is the run whose features say which negative is the hardest; the runs `names` are the discriminators.
    """
    loaded = load_model(str(features), "cpu")
    rows = list(read_samples([str(path) for path in sorted((data / "sets" / "validation" / "test").glob("*.tar"))]))
    captions = [row["txt"].decode().splitlines() for row in rows]
    with torch.no_grad():
        pixels = torch.stack([loaded.preprocess(Image.open(io.BytesIO(row["jpg"]))) for row in rows])
        image = F.normalize(torch.cat([loaded.model.encode_image(part) for part in pixels.split(100)]), dim=-1)
        words = loaded.tokenizer([text for texts in captions for text in texts])
        text = F.normalize(torch.cat([loaded.model.encode_text(part) for part in words.split(500)]), dim=-1)
    owner, number, hidden = hardest_with_hidden(image, text.view(len(rows), -1, text.shape[-1]), batch, DRAWS)
    photographs = torch.arange(len(rows)).repeat(DRAWS)[: len(owner)]
    texts = [captions[i][k] for i, k in zip(owner.tolist(), number.tolist(), strict=True)]
    lines = []
    for name in names:
        settings = ConnectionSettings(f"fusion:{data / 'logs' / name}")
        visual = loaded.model.visual
        discriminator = make_discriminator(settings, torch.device("cpu"), visual.image_mean, visual.image_std)
        q = discriminator.pairs(pixels, photographs, texts)  # type: ignore[attr-defined]
        match, doubt = q > settings.positive, (q >= settings.negative) & (q <= settings.positive)
        shares = {
            "false": hidden,
            "false and found": hidden & match,
            "false and in doubt": hidden & doubt,
            "called a match": match,
            "in doubt": doubt,
        }
        line = {"discriminator": name, "pairs": len(q)}
        line |= {title: round(100 * part.float().mean().item(), 3) for title, part in shares.items()}
        lines.append({**line, "AUC": round(100 * roc_auc_score(hidden.numpy(), q.numpy()), 3)})
    return pd.DataFrame(lines)


def hardest_with_hidden(image: Tensor, text: Tensor, batch: int, draws: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each photograph's hardest caption among one of each other photograph of its batch and a second one of its own.

    Features are image [N, D] and text [N, K, D], normalised; all photographs are seen `draws` times, in batches.
    Returns, by draw and photograph, the caption's photograph, its number, and whether it is the hidden one of its own:
    int64, int64 and bool [draws * N].
    """
    draw = torch.Generator().manual_seed(0)
    size, k = text.shape[:2]
    found = []
    for _ in range(draws):
        first, second = torch.rand(size, k, generator=draw).topk(2, dim=1).indices.T  # two of each one's captions
        owner, number = torch.arange(size), second.clone()
        for rows in torch.randperm(size, generator=draw).split(batch):
            others = image[rows] @ text[rows, first[rows]].T
            others.fill_diagonal_(-2.0)  # the own pair
            best = others.max(dim=1)
            hidden = (image[rows] * text[rows, second[rows]]).sum(dim=1)
            from_others = best.values > hidden
            owner[rows] = torch.where(from_others, rows[best.indices], rows)
            number[rows] = torch.where(from_others, first[rows[best.indices]], second[rows])
        found.append((owner, number, owner == torch.arange(size)))
    owner, number, hidden = (torch.cat(parts) for parts in zip(*found, strict=True))
    return owner, number, hidden
