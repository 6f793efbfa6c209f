"""The losses in float64, dense and as in the papers, for some images and captions of a batch of any size."""

from typing import NamedTuple

import torch
from torch import Tensor

from open_clip_fff import MultiPositiveSoftmaxLoss
from open_clip_fff.losses.reference import logits, positive_weights, sigmoid_sum
from open_clip_fff.mining.labels import all_valid, own_assignment, own_pairs
from open_clip_fff.mining.tiles import tiles

SUBSET = 64  # images, and images whose captions, of which gradients are compared
PAIRS = 2**30  # most pairs of a batch whose value is summed in float64
DENSE = 2**27  # most pairs of a batch of the softmax, which has no part that does not need all pairs
TILE = 2**24  # pairs at a time


class Exact(NamedTuple):
    """In float64."""

    value: Tensor | None  # None where the batch is too large
    image: Tensor  # [s, D], the gradient to the first images
    text: Tensor  # [s, K, D], to the first ones' captions


def exact(objective: str, inputs: tuple[Tensor, ...]) -> Exact | None:
    """The loss of image [N, D], text [N, K, D], scale and bias; None for too large a softmax.

    The objective is `softmax`, or what positives weigh in the sigmoid, as in `positive_weights`.
    """
    image, text, scale, bias = (x.detach().double() for x in inputs)
    n, k = text.shape[:2]
    ids, first = torch.arange(n, device=image.device), slice(SUBSET)
    if objective == "softmax":
        if n * n * k > DENSE:
            return None
        value = MultiPositiveSoftmaxLoss(impl="dense")(image.requires_grad_(), text.requires_grad_(), scale, bias)
        by_image, by_text = torch.autograd.grad(value, (image, text))
        return Exact(value.detach(), by_image[first], by_text[first])

    def part(images: Tensor, rows: slice, texts: Tensor, columns: slice) -> Tensor:
        labels = own_assignment(ids[rows], ids[columns], all_valid(texts))
        weights = positive_weights(labels, own_pairs(ids[rows], ids[columns])[..., None], objective)
        return sigmoid_sum(logits(images, texts, scale, bias), labels, weights) / n

    everything, some_images, some_texts = slice(n), image[first].requires_grad_(), text[first].requires_grad_()
    (by_image,) = torch.autograd.grad(part(some_images, first, text, everything), some_images)
    (by_text,) = torch.autograd.grad(part(image, everything, some_texts, first), some_texts)
    value = None
    if n * n * k <= PAIRS:
        value = sum(part(image[rows], rows, text, everything) for rows in tiles(n, max(TILE // (n * k), 1)))
    return Exact(value, by_image, by_text)


def errors(value: Tensor, gradients: tuple[Tensor | None, ...], truth: Exact) -> dict[str, float]:
    """The relative errors of a loss: of its value, and the larger one of its gradients to images and captions."""
    by_image, by_text = (x[:SUBSET] for x in gradients[:2] if x is not None)
    found = {"error_gradient": max(relative(by_image, truth.image), relative(by_text, truth.text))}
    return found if truth.value is None else found | {"error_value": relative(value, truth.value)}


def relative(found: Tensor, true: Tensor) -> float:
    """The length of the difference over the true length."""
    return ((found.double() - true).norm() / true.norm()).item()
