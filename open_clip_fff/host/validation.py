"""The seam after OpenCLIP's evaluation: the same validation set once more, with all captions of each image."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from open_clip import get_input_dtype
from open_clip_train.precision import get_autocast
from open_clip_train.zero_shot import zero_shot_eval
from torch import Tensor

from open_clip_fff.data.batch import CaptionBatch
from open_clip_fff.data.ids import NO_ID
from open_clip_fff.data.tokens import KEYS
from open_clip_fff.errors import UsageError, reason
from open_clip_fff.host.loader.stages import unpack_batch
from open_clip_fff.host.loader.timeouts import LoaderTimeouts
from open_clip_fff.host.random_state import without_side_effects
from open_clip_fff.host.report.coverage import skipped_lines
from open_clip_fff.host.report.recall import Keys, recall
from open_clip_fff.host.report.results import LOSS, RECALL_PREFIX, keep_results, validation_line
from open_clip_fff.host.state import RunState
from open_clip_fff.losses.sigmoid import FFFLoss
from open_clip_fff.mining.assign import make_assignment, own_text_block
from open_clip_fff.mining.given import GivenPairs
from open_clip_fff.mining.labels import POSITIVE, known_ids
from open_clip_fff.numerics import exact_float32
from open_clip_fff.patching import View
from open_clip_fff.plural import plural

PROGRESS_EVERY = 100  # batches
OUTLIVED = OSError, MemoryError, RuntimeError  # errors of disks and memory, also torch's, and of killed workers


def evaluator(state: RunState, evaluate: Callable) -> Callable:
    """OpenCLIP's `evaluate`, with its metrics unchanged, followed by ours over all captions."""
    evaluate = partial(_evaluated, state.loaders, evaluate)
    if not state.plan.given:
        return evaluate

    def run(model, data, epoch, args, tb_writer=None, tokenizer=None):
        metrics = evaluate(model, data, epoch, args, tb_writer=tb_writer, tokenizer=tokenizer)
        counters = state.val_counters  # of OpenCLIP's pass over the set; ours reads the same rows, and is not reported
        shards, where = counters.shards, f"validation after epoch {epoch}"
        for line in skipped_lines(counters.take(), shards.take(), len(shards), where):
            logging.warning(line)
        values = {}
        for prefix, each in state.models.items():
            if "clip_val_loss" in metrics:  # on rank 0, in the epochs that --val-frequency names
                with _outlived(state.loaders, data, epoch, f"Evaluation over all captions{_of_average(prefix)}"):
                    values |= validate(each, data["val"].dataloader.loader, state, prefix)
                    logging.info(validation_line(epoch, values, prefix, _keys_note(state)))
            if prefix and state.master:  # OpenCLIP has done this for the model itself
                with _outlived(state.loaders, data, epoch, f"Evaluation{_of_average(prefix)}"):
                    values |= _zero_shot(each, data, epoch, args, tokenizer, prefix)
        counters.discard()
        if values:
            keep_results(values, epoch, data, args, tb_writer)
        return metrics

    return run


class _Watched(View):
    """A validation loader that tells whether it has ended without a batch."""

    empty = False

    def __iter__(self) -> Iterator:
        given = False
        for batch in self._viewed:
            given = True
            yield batch
        self.empty = not given


@contextmanager
def _outlived(loaders: LoaderTimeouts, data: dict, epoch: int, what: str) -> Iterator[None]:
    """During training, errors in OUTLIVED end this evaluation alone: the epoch is not saved yet."""
    try:
        yield
    except UsageError:
        raise
    except OUTLIVED as error:
        if "train" not in data:
            raise
        logging.warning(
            f"{what} after epoch {epoch} ended without results: {loaders.excuse() or reason(error).rstrip('.')}."
        )


def _evaluated(
    loaders: LoaderTimeouts, evaluate: Callable, model: Any, data: dict, epoch: int, args, **more: Any
) -> dict[str, float]:
    """OpenCLIP's evaluation; where no row can be read, our own message replaces torch's error."""
    loader = _Watched(data["val"].dataloader) if "val" in data else None
    if loader is not None:
        data = {**data, "val": replace(data["val"], dataloader=loader)}
    with _outlived(loaders, data, epoch, "Evaluation"):
        try:
            found = evaluate(model, data, epoch, args, **more)
            if not found and "train" not in data and args.rank == 0:
                of = f"a checkpoint of {plural(epoch, 'epochs')}"
                logging.warning(f"Nothing is scored: {_intervals(data, args)} passes over {of}; use 1.")
            return found
        except (RuntimeError, ValueError):  # torch's, which has no features to join
            if loader is None or not loader.empty:
                raise
            if "train" not in data:
                raise UsageError("--val-data: no row can be read, so nothing is validated") from None
            logging.warning(f"--val-data: no row can be read after epoch {epoch}, so nothing is validated.")
    return {}


def _intervals(data: dict, args) -> str:
    """OpenCLIP's flags that choose the epochs after which these data are evaluated, with their values."""
    flags = {f"--val-frequency {args.val_frequency}"} if "val" in data else set()
    flags |= {f"--zeroshot-frequency {args.zeroshot_frequency}"} if data.keys() - {"val"} else set()
    return " and ".join(sorted(flags, reverse=True))


def _of_average(prefix: str) -> str:
    return " of the moving average" if prefix else ""


def _keys_note(state: RunState) -> str:
    """The note on --positive-key in the line of a validation."""
    key, right = state.plan.captions.positive_key, state.key_label == POSITIVE
    return "" if key is None else f" (others of one {key} are {'right, too' if right else 'left out'})"


def _zero_shot(model: Any, data: dict, epoch: int, args, tokenizer, prefix: str) -> dict[str, float]:
    """OpenCLIP's own zero-shot evaluation, where its flags ask for one."""
    wrapped = SimpleNamespace(module=model) if args.distributed else model  # OpenCLIP unwraps DDP
    found = zero_shot_eval(wrapped, data, epoch, args, tokenizer=tokenizer)
    return {prefix + name: value for name, value in found.items()}


def validate(model: Any, loader, state: RunState, prefix: str = "") -> dict[str, float]:
    """Recall over all captions, and the sigmoid loss where the model has a bias.

    The loss is `FFFLoss`. An image's positives are its own captions and, with --positive-key-as positive, those of its
    --positive-key. The loss is averaged over all images; like any contrastive loss, it is comparable only at the same
    batch size.

    Args:
        model: one of `RunState.models`; its mode and the random generators are restored.
        loader: of (images [B, 3, H, W], captions), with `num_samples`, 0 where that is not known.
        prefix: of each name, to tell the models apart.

    Returns:
        `all_captions_image_to_text_R@1` and so on, `num_images`, `num_captions` and maybe `sigmoid_val_loss`.
    """
    bias = getattr(model, "logit_bias", None)
    batches, loss = [], 0.0
    with torch.no_grad(), without_side_effects(model):
        model.eval()
        for index, encoded in enumerate(_encoded(model, loader, state.args), start=1):
            if bias is not None:
                loss += _sigmoid_loss(encoded, model.logit_scale.exp(), bias, state.key_label) * len(encoded.image)
            batches.append(Encoded(*(x.cpu() for x in encoded)))
            if index % PROGRESS_EVERY == 0:
                images, known = sum(len(batch.image) for batch in batches), loader.num_samples
                logging.info(f"FFF Eval: all captions of [{images} / {known or 'unknown'}] images encoded")
        image, text, valid, ids, keys = (torch.cat(parts) for parts in zip(*batches, strict=True))
        ids = known_ids(ids, rank=0)
        text_ids, text_keys = (x.repeat_interleave(valid.sum(dim=1)) for x in (ids, keys))
        by_key = Keys(keys, text_keys, state.key_label == POSITIVE) if (keys >= 0).any() else None
        shares = recall(image, text, ids, text_ids, keys=by_key)
    values = {RECALL_PREFIX + name: share for name, share in shares.items()}
    values |= {"num_images": len(image), "num_captions": len(text)}
    values |= {} if bias is None else {LOSS: loss / len(image)}
    return {prefix + name: value for name, value in values.items()}


class Encoded(NamedTuple):
    """A batch after the towers."""

    image: Tensor  # float32 [B, D]
    text: Tensor  # float32 [V, D], the valid captions, image after image
    valid: Tensor  # bool [B, K], V of them True
    ids: Tensor  # int64 [B], as the loader gave them
    keys: Tensor  # int64 [B], --positive-key, negative where missing


def _encoded(model: Any, loader, args) -> Iterator[Encoded]:
    """The features of each batch, on the device; padding never meets the text tower."""
    device = torch.device(args.device)
    autocast = get_autocast(args.precision, device_type=device.type)
    for images, captions in map(unpack_batch, loader):
        captions = CaptionBatch(*captions).to(device, non_blocking=True)
        images = images.to(device=device, dtype=get_input_dtype(args.precision), non_blocking=True)
        with autocast():
            image = model.encode_image(images, normalize=True)
            text = model.encode_text(captions.tokens[captions.valid], normalize=True)
        keys = captions.extras.get(KEYS, torch.full_like(captions.ids, NO_ID))
        yield Encoded(image.float(), text.float(), captions.valid, captions.ids, keys)


def _sigmoid_loss(encoded: Encoded, scale: Tensor, bias: Tensor, key_label: int) -> float:
    """Eq. 2 of one batch, without mined pairs, in float32."""
    image, text, valid, ids, keys = encoded
    padded = text.new_zeros(*valid.shape, text.shape[1])
    padded[valid] = text
    with exact_float32(image.device):
        assignment = make_assignment(own_text_block(valid, ids, keys=keys), given=GivenPairs(key_label))
        loss = FFFLoss()(image, padded, scale.float(), bias.float(), assignment=assignment)
    return loss.item()
