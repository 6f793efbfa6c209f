"""The seam where OpenCLIP makes its data sets: captions as the plan says, and batch hooks."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import open_clip_train.data as oc_data
import pandas as pd
import torch

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.batch import Batch, CaptionBatch, Uncast
from open_clip_fff.data.caption_rows import serialize
from open_clip_fff.data.counters import NO_CAPTION, WITHOUT_IMAGE, LoaderCounters
from open_clip_fff.data.data_sets import expand_shards
from open_clip_fff.data.serialize import CaptionSerializer
from open_clip_fff.data.shard_reader import Chain
from open_clip_fff.data.sources import CaptionReader, cell_text
from open_clip_fff.data.table_columns import further_rows, read_table, table_columns
from open_clip_fff.data.tokens import CaptionTokenizer, OneCaptionTokenizer, Tokenizer
from open_clip_fff.data.training_data import csv_captions, feature_reader, val_captions
from open_clip_fff.hooks.check import check_batch
from open_clip_fff.hooks.registry import BATCH_HOOKS, BatchHook, HookContext, NeedsTokens, OrdersData
from open_clip_fff.host.checks.arguments import keeps_checkpoints
from open_clip_fff.host.fixes import counting_damage
from open_clip_fff.host.generation import TASKS
from open_clip_fff.host.loader.grouping import order_table, stream_seams
from open_clip_fff.host.loader.passes import MiniBatches, RepeatingPipeline
from open_clip_fff.host.loader.position import SkipTrained
from open_clip_fff.host.loader.seeding import SeededPipeline, with_own_generator
from open_clip_fff.host.loader.stages import before_decoder, pack_batch, reading_txt, unpack_batch
from open_clip_fff.host.loader.tracking import TrackedLoader, table_loader
from open_clip_fff.host.report.coverage import caption_line, check_coverage
from open_clip_fff.host.state import RunState
from open_clip_fff.patching import View, replaced
from open_clip_fff.plural import plural

MANY_ROWS = 100_000  # of a table; reading so many takes seconds
# the hook that makes the mining features; with `online` the loss has them
_HOOKS = {"frozen": "frozen", "precomputed": "stored", "text": "sentence", "ema": "ema"}


def data_factory(state: RunState, get_data: Callable) -> Callable:
    """OpenCLIP's `get_data`, whose data sets read captions as the plan says."""
    if not state.plan.given:
        return get_data

    def with_captions(args, preprocess, epoch=0, tokenizer=None, **more):
        if state.own_loss:
            state.hooks = _build_hooks(state, tokenizer)
        dataset_fn = partial(_dataset_fn, state, oc_data.get_dataset_fn)
        with replaced(oc_data, get_dataset_fn=dataset_fn):
            return get_data(args, preprocess, epoch=epoch, tokenizer=tokenizer, **more)

    return with_captions


def _build_hooks(state: RunState, tokenizer: Tokenizer) -> list[BatchHook]:
    plan, args = state.plan, state.args
    names = [f"{_HOOKS[plan.features]}-features"] if plan.features in _HOOKS else []
    names += ["connection"] if plan.connection is not None else []
    visual = state.model.visual
    context = HookContext(
        plan=plan,
        device=torch.device(args.device),
        image_mean=tuple(visual.image_mean),
        image_std=tuple(visual.image_std),
        tokenizer=tokenizer,
        frozen=state.frozen,
        sentences=state.sentences,
        ema=None if state.ema is None else state.ema.module,
        step=lambda: state.steps,
        batch_size=args.batch_size,
        accumulation=args.accum_freq,
        cache_dir=args.cache_dir,
        rank=args.rank,
        world_size=args.world_size,
        seed=args.seed,
        folder=Path(args.checkpoint_path) if keeps_checkpoints(args) else None,
        resumed=Path(args.resume).parent if args.resume else None,
    )
    with torch.random.fork_rng():  # building a model must not change training's random numbers
        return [BATCH_HOOKS[name](context) for name in (*names, *plan.batch_hooks)]


def _dataset_fn(state: RunState, upstream: Callable, path: str, kind: str) -> Callable:
    build = upstream(path, kind)

    def with_captions(args, preprocess, is_train, epoch=0, tokenizer=None, **more):
        captions = state.plan.captions if is_train else val_captions(state.plan.captions, args.val_data)
        many, hooks = state.own_loss or not is_train, state.hooks if is_train else []
        needed = [hook.tokenizers for hook in hooks if isinstance(hook, NeedsTokens)]
        extra = {name: make for each in needed for name, make in each.items()}
        wrapped = CaptionTokenizer(tokenizer, captions, extra) if many else OneCaptionTokenizer(tokenizer, captions)
        if not is_train:
            state.val_counters = LoaderCounters(captions.sources, expand_shards(args.val_data))
        counters = state.counters if is_train else state.val_counters
        serializer = CaptionSerializer(
            CaptionReader(captions), counters, feature_reader(state.plan) if many and is_train else None
        )
        orders = [hook for hook in hooks if isinstance(hook, OrdersData)]
        seams: dict[str, object] = {
            "batched": MiniBatches,
            "WebLoader": partial(with_own_generator, oc_data.wds.WebLoader, args.seed, args.rank),
            "tarfile_to_samples": lambda **_: oc_data.tarfile_to_samples_nothrow,  # as training reads
        }
        if is_train:
            skip_trained = SkipTrained()
            seams |= before_decoder(skip_trained)
            pipeline = RepeatingPipeline if many else SeededPipeline
            seams["DataPipeline"] = partial(pipeline, skip_trained, state.epoch_start)
            if orders:
                seams |= stream_seams(orders[0], skip_trained, state.epoch_start, seams)
        with (
            counting_damage(counters),
            replaced(
                oc_data,
                wds=View(oc_data.wds, **seams),
                tarfile_to_samples_nothrow=Chain(oc_data.tarfile_to_samples_nothrow, serializer),
                CsvDataset=partial(_csv_dataset, oc_data.CsvDataset, csv_captions(args, captions)),
            ),
        ):
            info = build(reading_txt(args), preprocess, is_train=is_train, epoch=epoch, tokenizer=wrapped, **more)
        if not is_train:
            info.dataloader = FirstCaptionLoader(info.dataloader)
            return info
        if info.shared_epoch is not None:  # a stream
            state.train_loader = TrackedLoader(info.dataloader, args.device)
        else:
            batches = order_table(info, orders[0]) if orders else info.dataloader.batch_sampler
            state.train_loader = table_loader(info.dataloader, batches, args.device)
        info.dataloader = state.train_loader
        if many:
            info.dataloader = HookedLoader(state.train_loader, torch.device(args.device), state.hooks)
        return info

    return with_captions


def _csv_dataset(make: Callable, captions: CaptionSettings, filename: str, preprocess: Callable, **options):
    """OpenCLIP's CSV data set, in which a row's caption is all its captions, serialized.

    All captions are read here, reported once, and checked against --min-coverage. Rows without caption or image are
    left out, as with tars.
    """
    image, captions, _ = table_columns(filename, options["sep"], options["img_key"], captions)
    columns, reader = list(captions.text_keys), CaptionReader(captions)
    # all columns, as OpenCLIP reads them next: with `usecols` a row with a cell too many is no error
    table = read_table(filename, options["sep"], (image, *captions.text_columns))
    dataset = make(filename, preprocess, **{**options, "img_key": image, "caption_key": columns[0]})
    paths, texts, counters, left_out, lost = [], [], LoaderCounters(captions.sources), Counter[str](), {}
    names = captions.text_columns
    if len(table) >= MANY_ROWS:
        logging.info(f"Reading the captions of the {len(table):,} rows of {filename}")
    for path, *row_cells in zip(table[image], *(table[name] for name in names), strict=True):
        cells = dict(zip(names, row_cells, strict=True))
        found = reader.by_column(cells)
        row = reader.table_row(str(path), cells, found)
        counters.count_row(row, found)
        if row.captions and cell_text(path):
            paths.append(path)
            texts.append(serialize(row))
        else:
            left_out[WITHOUT_IMAGE if row.captions else NO_CAPTION] += 1
        if further := sum(further_rows(x, str(path), options["sep"]) for some in found.values() for x in some):
            lost[path] = further
    counts = counters.take()
    logging.info(f"Captions in {filename}: {caption_line(counts, captions)}")
    check_coverage(counts, captions, filename)
    if left_out:
        why = ", ".join(f"{left_out[kind]:,} {kind}" for kind in (NO_CAPTION, WITHOUT_IMAGE) if left_out[kind])
        logging.warning(f"Rows left out of {filename}: {why}")
    if lost:
        logging.warning(
            f"{filename}: {plural(sum(lost.values()), 'rows')} of it are inside a caption, the first in that of "
            f"{next(iter(lost))}, where a quote has no end: double the quotes of a caption, and put it in quotes."
        )
    dataset.images, dataset.captions = (pd.Series(paths), pd.Series(texts)) if TASKS else (paths, texts)
    return dataset


class HookedLoader(View):
    """A loader that passes each batch through the hooks once, on the training device.

    Not in the model's forward: gradient accumulation runs that twice per micro-batch, and `torch.compile` compiles it.
    """

    def __init__(self, loader, device: torch.device, hooks: list[BatchHook]) -> None:
        super().__init__(loader)
        self.loader, self.device, self.hooks = loader, device, hooks

    def __iter__(self) -> Iterator[Batch | dict]:
        for number, (images, captions) in enumerate(map(unpack_batch, self.loader)):
            captions = CaptionBatch(*captions).to(self.device, non_blocking=True)
            batch = Batch(images.to(self.device, non_blocking=True), captions)
            for hook in self.hooks:
                before, batch = batch, hook(batch)
                check_batch(hook, before, batch, thorough=number == 0)
            yield pack_batch((batch.images, Uncast(batch.captions)) if TASKS else batch)


class FirstCaptionLoader(View):
    """A validation loader as OpenCLIP's `evaluate` wants it: images [B, 3, H, W], the first caption's tokens [B, L].

    The `loader` beneath has all captions.
    """

    def __init__(self, loader) -> None:
        super().__init__(loader)
        self.loader = loader

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor] | dict[str, torch.Tensor]]:
        for images, captions in map(unpack_batch, self.loader):
            yield pack_batch((images, CaptionBatch(*captions).tokens[:, 0].contiguous()))
