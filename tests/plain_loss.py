"""A plug-in with a loss of its own: a plain logistic regression of the pairs."""

import torch.nn.functional as F
from torch import Tensor, einsum, nn

from open_clip_fff import register_loss


@register_loss("plain")
class Plain(nn.Module):
    def __init__(self, context) -> None:
        super().__init__()

    def forward(self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor, assignment: Tensor, **_):
        logits = logit_scale * einsum("bd,nkd->bnk", image_features, text_features)
        return F.softplus(-assignment * logits).mean()
