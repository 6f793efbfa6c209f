"""Fixes for what breaks in OpenCLIP 3.3 with today's libraries, each for the length of a run, with its reason."""

import argparse
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import open_clip.factory
import open_clip.timm_model
import open_clip.tokenizer
import open_clip_train
import open_clip_train.data as oc_data
import open_clip_train.main as oc_main
import torch
import webdataset as wds
from PIL import Image
from timm.layers import convert_sync_batchnorm
from torch.nn.parallel import DistributedDataParallel
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose

import open_clip_fff
from open_clip_fff.atomic_io import atomic_file
from open_clip_fff.config.plan import Plan
from open_clip_fff.data.clip_tokens import bpe
from open_clip_fff.data.counters import BAD_MEMBER, LoaderCounters
from open_clip_fff.data.images import NO_IMAGE, SafeMembers, UnreadableMember, open_as_open_clip, read_image, resizable
from open_clip_fff.data.shard_reader import Chain, ShardReader
from open_clip_fff.data.tars import tar_files, tar_samples
from open_clip_fff.errors import UsageError, printable, reason
from open_clip_fff.host.generation import PARALLEL, TASKS
from open_clip_fff.host.stopping import ignore_forwarded
from open_clip_fff.hub.checkpoints import kept_instead
from open_clip_fff.hub.float32_text import float32_text_towers
from open_clip_fff.hub.weights import resize_image_positions
from open_clip_fff.models.frozen_norms import freeze_batch_norms
from open_clip_fff.patching import View, replaced

ImageReader = Callable[[Any], Image.Image]  # of bytes or a path

_get_imagenet = oc_data.get_imagenet
_nothrow = oc_data.tarfile_to_samples_nothrow  # OpenCLIP's own, since `counting_damage` blocks may be nested


@contextmanager
def fixes(counters: LoaderCounters, seed: int, images: ImageReader) -> Iterator[None]:
    """Applies all fixes below. A run that works without them trains the same, except for the order of shuffled tars.

    An OpenCLIP with patches/ has some of them already, and trains the same. `seed` sets the order of shuffled tars.
    """
    parallel = View(torch.nn.parallel, DistributedDataParallel=AnyDeviceDDP)
    norms = View(torch.nn.SyncBatchNorm, convert_sync_batchnorm=convert_sync_batchnorm)
    native = {"save_whole": _save_by_torch} if hasattr(oc_main, "save_whole") else {}
    shuffle = partial(SeededShuffle, seed)
    webdataset = View(oc_data.wds, DataPipeline=EndingPipeline, shuffle=shuffle, tarfile_to_samples=tar_samples)
    with (
        replaced(PARALLEL, torch=View(PARALLEL.torch, nn=View(torch.nn, parallel=parallel))),
        # --use-bn-sync: torch's takes timm's norms for plain ones and drops the activations that are in them
        replaced(oc_main, torch=View(oc_main.torch, nn=View(oc_main.torch.nn, SyncBatchNorm=norms))),
        replaced(oc_main, torch=View(oc_main.torch, save=save_atomically), copy_codebase=copy_codebase, **native),
        replaced(oc_main, start_sync_process=partial(daemon, oc_main.start_sync_process)),
        replaced(
            oc_data,
            # webdataset >= 0.2.90 ends each shard with an empty sample: KeyError 'fname' in OpenCLIP's grouping
            tar_file_expander=partial(tar_files, refused=b""),
            SharedEpoch=LatestEpoch,
            wds=webdataset,
            Image=View(oc_data.Image, open=images),
            get_imagenet=partial(get_imagenet, images),
            get_dataset_fn=partial(get_dataset_fn, images, oc_data.get_dataset_fn),
        ),
        decoding(images),
        replaced(open_clip.tokenizer.SimpleTokenizer, bpe=bpe),
        replaced(open_clip.factory, resize_pos_embed=resize_image_positions),
        replaced(open_clip.timm_model, freeze_batch_norm_2d=freeze_batch_norms),
        float32_text_towers(),
        counting_damage(counters),
    ):
        yield


def counting_damage(counters: LoaderCounters) -> AbstractContextManager[None]:
    """Data sets made in the block count the samples they skip in `counters`; of nested blocks the innermost counts."""
    return replaced(
        oc_data,
        log_and_continue=partial(count_and_continue, counters),
        tarfile_to_samples_nothrow=ShardReader(_nothrow, counters.shards),
        CsvDataset=partial(ForgivingCsvDataset, counters),
    )


class AnyDeviceDDP(DistributedDataParallel):
    """DDP that also trains on CPU: OpenCLIP passes device_ids=[cpu], a ValueError; gloo on CPU wants none."""

    def __init__(self, module: torch.nn.Module, device_ids: list | None = None, **kwargs: Any) -> None:
        if device_ids and torch.device(device_ids[0]).type == "cpu":
            device_ids = None
        norms = any(isinstance(each, torch.nn.SyncBatchNorm) for each in module.modules())
        if norms and next(module.parameters()).device.type == "cpu":
            raise UsageError("--use-bn-sync: torch computes the norms of several ranks on a GPU alone; drop it")
        super().__init__(module, device_ids=device_ids, **kwargs)


def save_atomically(checkpoint: object, path: str) -> None:
    """torch.save that leaves a whole file or none: OpenCLIP writes epoch_N.pt in place, and a kill leaves half of it.

    The unfinished file does not end in .pt, so that `--resume latest` never picks it. Raises UsageError on a full disk.
    """
    try:
        with atomic_file(Path(path)) as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:
        why = next((each for each in _causes(error) if isinstance(each, OSError)), None)
        if why is None:
            raise
        raise UsageError(
            f"{path}: cannot be saved ({why.strerror or reason(why)}){kept_instead(Path(path))}"
        ) from error


def daemon(start: Callable, *args: object) -> Any:
    """Makes --remote-sync's endless process a daemon: otherwise a run that raises would not end.

    The process ignores a terminal's Ctrl-C and hang-up: the run handles them, and ends the process.
    """
    process = start(*args)
    process.daemon, process._target = True, partial(_without_signals, process._target)
    return process


def _without_signals(target: Callable, *args: object) -> None:
    ignore_forwarded()
    target(*args)


def _save_by_torch(checkpoint: object, path: str) -> None:
    """Replaces a patched OpenCLIP's `save_whole`: saves as stock does, by main's torch.save, which a run replaces."""
    oc_main.torch.save(checkpoint, path)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes: when a disk is full, torch's own error tells only of file positions."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def count_and_continue(counters: LoaderCounters, error: Exception) -> bool:
    """Replaces OpenCLIP's handler, which also continues: names what cannot be read, counts it for the epoch's end."""
    where: str = "a shard"
    cause: BaseException = error
    if isinstance(error, UnreadableMember):
        where, cause = f"{error.tar}: {error.member}", error.__cause__ or error
    elif urls := [part for part in error.args[1:] if isinstance(part, str)]:
        where = urls[-1]
    counters.count_damaged(BAD_MEMBER, printable(f"{where} cannot be read ({reason(cause)}). Going on without it."))
    return True


class ForgivingCsvDataset(oc_data.CsvDataset):
    """A CSV data set that replaces an unreadable image by the next row, with a warning and a count."""

    def __init__(self, counters: LoaderCounters, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.counters = counters

    def __getitem__(self, index: int) -> tuple:
        for offset in range(len(self)):
            row = (index + offset) % len(self)
            try:
                return super().__getitem__(row)
            except NO_IMAGE as error:
                if not offset:  # an unreadable replacement is counted when its own turn comes
                    line = f"{self.images[row]} cannot be read ({error}). Using the next row."
                    self.counters.count_damaged(BAD_MEMBER, line)
        raise OSError("no image of this CSV can be read")


class LatestEpoch(oc_data.SharedEpoch):
    """OpenCLIP's shared epoch counter, findable by the shuffle that is made right after it."""

    latest: "LatestEpoch | None" = None

    def __init__(self, epoch: int = 0, *args: Any) -> None:
        super().__init__(epoch, *args)
        LatestEpoch.latest = self


def copy_codebase(args: argparse.Namespace) -> None:
    """Copies the packages that train into the run's folder for --copy-codebase; a resumed run keeps its first copy.

    OpenCLIP's own, if installed by pip, copies all packages of its environment, gigabytes.
    """
    code = Path(args.logs) / args.name / "code"
    if args.rank != 0 or code.exists():
        return
    for package in (open_clip, open_clip_train, open_clip_fff):
        folder = Path(package.__path__[0])
        shutil.copytree(folder, code / folder.name, ignore=shutil.ignore_patterns("__pycache__"))


def image_reader(plan: Plan) -> ImageReader:
    """The reader of images; without a flag of open_clip_fff it is as OpenCLIP's, but opens fewer formats."""
    return partial(read_image, max_pixels=plan.safety.max_pixels) if plan.given else open_as_open_clip


def decoding(images: ImageReader) -> AbstractContextManager[None]:
    """Data sets of tars made in the block decode images with the reader `images`."""
    decode = partial(decode_safely, images)
    if not TASKS:
        return replaced(oc_data, wds=View(oc_data.wds, decode=decode))
    seams = View(oc_data.wds, decode=decode, rename=rename_with_places)
    return replaced(oc_data, wds=seams, decode_pil_rgb=partial(decode_image, images))


def get_dataset_fn(images: ImageReader, upstream: Callable, path: str, kind: str) -> Callable:
    """OpenCLIP's data set factory; validation, whose transform resizes the short side, leaves out very thin images.

    Without a flag of open_clip_fff, training crops and keeps them, as OpenCLIP does.
    """
    build = upstream(path, kind)

    def building(args: Any, preprocess: Callable, is_train: bool, **more: Any) -> oc_data.DataInfo:
        if is_train:
            return build(args, preprocess, is_train=True, **more)
        with decoding(Compose([images, resizable])):
            return build(args, Compose([resizable, preprocess]), is_train=False, **more)  # of a table, when it is read

    return building


def decode_safely(images: ImageReader, *_: str, handler: Callable, only: Sequence[str] = ()) -> Callable:
    """Replaces webdataset's decoder, which unpickles members of any origin, by one of images and text alone.

    (`only`: the members that a patched OpenCLIP has decoded, images and text as well.)
    """
    return wds.map(SafeMembers(images), handler=handler)


def decode_image(images: ImageReader, content: Any, max_pixels: int | None = None) -> Image.Image:
    """Replaces the image decoder of OpenCLIP's main branch; that branch's own limit of pixels still holds.

    `content` is a `PlacedBytes`. Raises UnreadableMember.
    """
    try:
        image = images(content)
        if max_pixels and image.width * image.height > max_pixels:
            size = f"{image.width} x {image.height}"
            raise ValueError(f"it has {size} pixels, more than --max-image-pixels {max_pixels:,}")
    except Exception as error:  # whatever Pillow raises
        raise UnreadableMember(*content.place) from error
    return image


class PlacedBytes(bytes):
    """A member of a sample, which knows where it is."""

    place: tuple[str, str]  # member and tar


def rename_with_places(**names: Any) -> Callable:
    """webdataset's `rename`, with which OpenCLIP's main branch drops key and tar of a sample before it decodes it."""
    return Chain(wds.map(partial(_place, names.get("image", ""))), wds.rename(**names))


def _place(image_names: str, sample: dict[str, Any]) -> dict[str, Any]:
    placed = dict(sample)
    for name in sample.keys() & set(image_names.split(";")):
        placed[name] = PlacedBytes(sample[name])
        placed[name].place = (f"{sample['__key__']}.{name}", sample["__url__"])
    return placed


def get_imagenet(images: ImageReader, *given: Any, **more: Any) -> oc_data.DataInfo:
    """OpenCLIP's set of --imagenet-val or --imagenet-v2, read by `images`; its own readers open all Pillow formats."""
    info, read = _get_imagenet(*given, **more), partial(read_file, images)
    dataset: Any = info.dataloader.dataset
    if isinstance(dataset, ImageFolder):
        dataset.loader = read
    else:  # imagenetv2_pytorch's, which gives its transform an image that is opened and not decoded
        dataset.transform = Compose([attrgetter("filename"), read, dataset.transform])
    return info


def read_file(images: ImageReader, path: str) -> Image.Image:
    """An image of an evaluation. Raises OSError, whatever is wrong with it, so that only the evaluation fails."""
    try:
        return resizable(images(path))
    except NO_IMAGE as error:
        raise OSError(printable(f"{path} cannot be read ({reason(error)})")) from error


class EndingPipeline(wds.DataPipeline):
    """webdataset's pipeline, ended by a pass without samples: 0.2.86 would begin the next pass, and never end."""

    def iterator(self) -> Iterator:
        for _ in range(self.repetitions):
            passed, empty = self.passed(), True
            for batch in self.iterator1():
                empty = False
                yield batch
            if empty and self.passed() == passed:
                return

    def passed(self) -> int:
        """How many samples were read but not yielded; a pass with such samples is not empty either."""
        return 0


class SeededShuffle(wds.PipelineStage):
    """webdataset's shuffle, seeded by (seed, epoch, rank, worker); upstream's is seeded by pid and time."""

    def __init__(self, seed: int, bufsize: int, initial: int) -> None:
        self.seed, self.bufsize, self.initial = seed, bufsize, initial
        self.epoch = LatestEpoch.latest

    def seed_text(self) -> str:
        """The shuffle's seed, of seed, epoch, rank and worker."""
        rank, _, worker, _ = wds.utils.pytorch_worker_info()
        return f"{self.seed}/{self.epoch_now()}/{rank}/{worker}"

    def epoch_now(self) -> int:
        """The current epoch of the data."""
        return self.epoch.get_value() if self.epoch is not None else 0

    def run(self, source: Iterator) -> Iterator:
        return wds.filters._shuffle(source, self.bufsize, self.initial, random.Random(self.seed_text()))
