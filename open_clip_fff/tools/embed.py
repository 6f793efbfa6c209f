"""open-clip-fff embed: features of each shard, and where they are written."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from open_clip_fff.config.plan import Plan
from open_clip_fff.data.decoded import DecodedSample, decoded_samples
from open_clip_fff.data.features import COLUMN, MEMBER, pack
from open_clip_fff.data.shards import as_usage_errors, read_samples
from open_clip_fff.data.sidecar import KEY
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.training_data import training_shards
from open_clip_fff.devices import usable
from open_clip_fff.fingerprint import plain_name
from open_clip_fff.hub.identity import stored_name
from open_clip_fff.numerics import half_on_cuda
from open_clip_fff.tools.sampling.extractors import FeatureExtractor, extractor_of
from open_clip_fff.tools.shards.folder import OutFolder, by_stem, refuse_input_folder
from open_clip_fff.tools.shards.record import ShardRecord
from open_clip_fff.tools.shards.run import process_shards
from open_clip_fff.tools.shards.share import Share
from open_clip_fff.tools.shards.tars import OUTSIDE, leaves_folder, members, tar_writer

SUFFIX = {"sidecar": ".parquet", "tars": ".tar"}


def run(args: argparse.Namespace, plan: Plan) -> int:
    """Embeds what is missing.

    Raises:
        UsageError: if the model cannot be loaded, or the folder not be used.
    """
    plan, urls = training_shards(plan, args.training)
    assert plan.miner is not None
    share, shards, captions = Share.from_environment(args.share), by_stem(urls), plan.captions
    model = stored_name(plan.miner)
    settings = {"model": model, "captions": {**asdict(captions), "shards": None}, "batch size": args.batch_size}
    if args.into == "tars":
        refuse_input_folder(args.out, urls)
    folder = OutFolder(args.out, SUFFIX[args.into], settings)
    device = usable(share.device(args.device))
    extractor = extractor_of(plan, device)
    if share.index == 0:
        print(f"features of {plain_name(model)}{', of captions alone' if plan.text_alone else ''}, on {device}")

    def work(url: str, file: BinaryIO, tick: Callable[[int], None]) -> ShardRecord:
        record = ShardRecord(url)
        features = embedded(url, CaptionReader(captions), extractor, model, device, args, record, tick)
        write = write_parquet if args.into == "sidecar" else write_tar
        write(url, file, dict(features), record)
        return record

    return process_shards(shards, folder, share, work)


def embedded(
    url: str,
    reader: CaptionReader,
    extractor: FeatureExtractor,
    model: str,
    device: torch.device,
    args: argparse.Namespace,
    record: ShardRecord,
    tick: Callable[[int], None],
) -> Iterator[tuple[str, bytes]]:
    """Key and packed features of the samples of a shard that have captions and a whole image.

    Raises:
        UsageError: if the shard cannot be read.
    """
    found = decoded_samples(read_samples([url]), reader, extractor.view, workers=args.workers)
    samples = as_usage_errors(found, url)
    while some := list(islice(samples, args.batch_size)):
        pictures = [picture for picture in some if isinstance(picture, DecodedSample)]
        record.counts.update(images=len(pictures))
        for other in some:
            if not isinstance(other, DecodedSample):
                record.leave_out(*other)
        if pictures:
            rows = [picture.row for picture in pictures]
            with half_on_cuda(device):
                k = max(len(row.captions) for row in rows)
                seen = extractor([picture.image for picture in pictures], rows, k)
            images, texts = None if seen[0] is None else seen[0].cpu().numpy(), seen[1].cpu().numpy()
            for place, (picture, row) in enumerate(zip(pictures, rows, strict=True)):
                record.counts.update(captions=len(row.captions))
                image, own = None if images is None else images[place], texts[place, : len(row.captions)]
                if np.isfinite(own).all() and (image is None or np.isfinite(image).all()):
                    yield picture.key, pack(image, own, row.captions, model)
                else:
                    record.leave_out(picture.key, "features are not finite")
        tick(len(some))


def write_parquet(url: str, file: BinaryIO, features: dict[str, bytes], record: ShardRecord) -> None:
    """The columns `key` and `features`."""
    contents = pa.array(features.values(), pa.binary())
    pq.write_table(pa.table({KEY: pa.array(features, pa.string()), COLUMN: contents}), file)


def write_tar(url: str, file: BinaryIO, features: dict[str, bytes], record: ShardRecord) -> None:
    """All samples of the shard, those that have features with them; none whose name leaves the folder.

    Raises:
        UsageError: if the shard cannot be read.
    """
    with tar_writer(file) as tar:
        for sample in as_usage_errors(read_samples([url]), url):
            key = str(sample["__key__"])
            if leaves_folder(sample):
                record.leave_out(key, OUTSIDE)
                continue
            tar.write({**members(sample), **({MEMBER: features[key]} if key in features else {})})
