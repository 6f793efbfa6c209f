"""A frozen OpenCLIP model, and its features of a training batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from open_clip_fff.config.mining import FrozenSource
from open_clip_fff.config.text import TextSettings
from open_clip_fff.data.tokens import Tokenizer
from open_clip_fff.errors import UsageError, print_warnings
from open_clip_fff.fingerprint import tokenizer_facts
from open_clip_fff.hub.loading import load_named
from open_clip_fff.models.crops import Crops, image_size
from open_clip_fff.models.text_tokens import check_tokens
from open_clip_fff.models.unpadded_text import UnpaddedText
from open_clip_fff.numerics import half_on_cuda

FIX = "name another model, or train without mining: --mining-features off"
BATCH, TEXTS = 64, 512  # images, and texts (without padding), that are embedded at a time


def same_tokens(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether two tokenizers give the same tokens: the same vocabulary and settings."""
    return tokenizer_facts(a) == tokenizer_facts(b)


class FrozenModel(NamedTuple):
    """A loaded model in eval mode, without gradients, and its tokenizer."""

    model: Any  # an OpenCLIP model
    tokenizer: Tokenizer

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def preprocess(self) -> Callable[[Image], Tensor]:
        """From an image to the model's input [3, H, W], without augmentation."""
        from open_clip.transform import PreprocessCfg, image_transform_v2

        return image_transform_v2(PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=False)

    @torch.no_grad()
    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        """Features [n, D] of preprocessed images, L2-normalised float32, on the model's device."""
        parts = [torch.stack(list(images[i : i + BATCH])).to(self.device) for i in range(0, len(images), BATCH)]
        return torch.cat([self.model.encode_image(part, normalize=True).float() for part in parts])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Features [n, D] of texts, L2-normalised float32, on the model's device; equal texts are encoded once."""
        unpadded_text, features = UnpaddedText(self.model, TextSettings()), []
        for i in range(0, len(texts), TEXTS):
            part = self.tokenizer(list(texts[i : i + TEXTS])).to(self.device)
            features.append(unpadded_text(self.model, self.model.encode_text, part).float())
        return F.normalize(torch.cat(features), dim=-1)


class FrozenTowers:
    """Features of a batch's images and captions, without gradient, in float32 (float16 on CUDA) outside autocast.

    The model is moved to `device`. The images are the training crops, normalised by `image_mean` and `image_std`, and
    are converted by `Crops`; `text` says what the text tower leaves out.
    """

    def __init__(
        self,
        frozen: FrozenModel,
        device: torch.device,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        text: TextSettings | None = None,
    ) -> None:
        self.model, self.tokenizer = frozen.model.to(device), frozen.tokenizer
        self.unpadded_text = UnpaddedText(self.model, text or TextSettings())
        visual = self.model.visual
        # the first convolution's: models in low precision keep some weights in float32
        self.dtype = next((p.dtype for p in visual.parameters() if p.ndim == 4), torch.float32)
        self.crops = Crops(image_size(visual), visual.image_mean, visual.image_std, device, image_mean, image_std)

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Features [B, D], L2-normalised float32, of images [B, 3, H, W] as the training loader normalised them."""
        with half_on_cuda(images.device):
            return F.normalize(self.model.encode_image(self.crops(images).to(self.dtype)).float(), dim=-1)

    @torch.no_grad()
    def texts(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Features [B, K, D], L2-normalised float32, of tokens int64 [B, K, L]; zeros where `valid` [B, K] is False."""
        with half_on_cuda(tokens.device):
            features = self.unpadded_text(self.model, self.model.encode_text, tokens.flatten(0, 1), valid.flatten())
            return F.normalize(features.float(), dim=-1).unflatten(0, valid.shape)


def load_frozen(
    source: FrozenSource, cache_dir: str | None = None, called: str | None = None, fix: str = FIX
) -> FrozenModel:
    """Loads the model on the CPU.

    Error lines name the model by `called`, its flags (None: mining's flags), and end with the advice `fix`.

    Raises:
        UsageError: if it cannot be loaded, would have random weights, or cannot read all tokens of its tokenizer.
    """
    called = called or f"--mining-model {source.model}" + (
        f" --mining-pretrained {source.pretrained}" if source.pretrained else ""
    )
    try:
        loaded = load_named(source.model, source.pretrained, called, cache_dir, bias=False)
        notes = check_tokens(loaded.model, loaded.tokenizer, called)
    except UsageError as error:
        raise UsageError(f"{error}; {fix}") from error
    print_warnings(notes)
    return FrozenModel(loaded.model, loaded.tokenizer)
