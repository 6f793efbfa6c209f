"""open-clip-fff embed: features of the samples of each shard, in parquets or tars."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import torch

from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.config.plan import Plan
from open_clip_fff.data.data_sets import data_sets
from open_clip_fff.data.decoded import DecodedSample, decoded_samples
from open_clip_fff.data.features import FEATURE_COLUMN, MEMBER, pack_features
from open_clip_fff.data.shards import UnreadableTar, as_usage_errors, read_samples
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.data.training_data import check_all_captions, training_shards
from open_clip_fff.devices import or_best, usable
from open_clip_fff.errors import print_warnings
from open_clip_fff.fingerprint import plain_name
from open_clip_fff.hub.stored_names import files_hash, stored_name
from open_clip_fff.numerics import half_on_cuda
from open_clip_fff.tools.sampling.extractors import FeatureExtractor, load_extractor
from open_clip_fff.tools.shards.folder import OutFolder, ShardRecord, by_stem, check_out, refuse_input_folder
from open_clip_fff.tools.shards.per_sample import usable_batches, write_copy, write_sidecar
from open_clip_fff.tools.shards.run import process_shards
from open_clip_fff.tools.shards.share import INTO, Share
from open_clip_fff.tools.shards.tars import check_torn, samples_to_copy

READ = ("per_image", "policy", "text_keys", "json_keys", "sidecar", "sidecar_keys", "split_sentences", "words")


def run(args: argparse.Namespace, plan: Plan) -> int:
    """Makes the missing shards.

    Raises UsageError for captions that training would refuse, an unloadable model, or an unusable folder.
    """
    check_out(args.out)
    plan, urls = training_shards(plan, args.training)
    assert plan.miner is not None
    share, shards, captions = Share.from_environment(args.share), by_stem(urls), plan.captions
    model = stored_name(plan.miner)
    read = {name: getattr(captions, name) for name in READ}  # what features depend on
    settings = {"model": model, "captions": read, "batch size": args.batch_size}
    if plan.text_only and (here := Path(plan.miner.model)).is_dir():  # as earlier versions, without a hash in the name
        settings |= {"model": plan.miner.name, "the model's files": files_hash(here)}
    check_torn("--train-data", urls[0])
    check_captions(args.training.train_data, captions, share)
    if args.into == "tars":
        refuse_input_folder(args.out, urls)
    device = usable(share.device(or_best(args.device)))
    extractor = load_extractor(plan, device)
    folder = OutFolder(args.out, INTO[args.into], settings)  # created only once the model works
    if share.index == 0:
        print(f"features of {plain_name(model)}{', of captions alone' if plan.text_only else ''}, on {device}")

    def work(url: str, file: BinaryIO, tick: Callable[[int], None]) -> ShardRecord:
        check_torn("--train-data", url)
        record = ShardRecord(url)
        read = read_samples([url]) if args.into == "sidecar" else samples_to_copy(url, record)
        found = decoded_samples(read, CaptionReader(captions), extractor.preprocess, workers=args.workers)
        batches = usable_batches(as_usage_errors(found, url), args.batch_size, record, tick)
        features = embed(batches, extractor, model, device, record)
        if args.into == "sidecar":
            write_sidecar(file, features, pa.field(FEATURE_COLUMN, pa.binary()))
        else:
            write_copy(url, file, features, lambda _, stored: {} if stored is None else {MEMBER: stored})
        return record

    return process_shards(shards, folder, share, work)


def check_captions(shards: str, captions: CaptionSettings, share: Share) -> None:
    """Raises UsageError for captions of the first shards that training would refuse, but for fewer than K of them."""
    sidecar = CaptionReader(captions).sidecar
    if share.count > 1 and sidecar is not None and sidecar.missing(urls[0] for urls in data_sets(shards)):
        return  # another task of a job array is still making them
    with suppress(UnreadableTar):  # reported when its turn comes; the others are done
        print_warnings(check_all_captions(shards, captions))


def embed(
    batches: Iterable[list[DecodedSample]],
    extractor: FeatureExtractor,
    model: str,
    device: torch.device,
    record: ShardRecord,
) -> Iterator[tuple[str, bytes]]:
    """Key and stored features of samples; `record` counts them, and lists those whose features are not finite."""
    for samples in batches:
        if not samples:
            continue
        rows = [sample.row for sample in samples]
        with half_on_cuda(device):
            k = max(len(row.captions) for row in rows)
            image_features, text_features = extractor([sample.image for sample in samples], rows, k)
        images = None if image_features is None else image_features.cpu().numpy()
        texts = text_features.cpu().numpy()
        for index, (sample, row) in enumerate(zip(samples, rows, strict=True)):
            record.counts.update(images=1, captions=len(row.captions))
            if sample.damage:
                record.counts["images with captions that cannot be read"] += 1
            image, own = None if images is None else images[index], texts[index, : len(row.captions)]
            if np.isfinite(own).all() and (image is None or np.isfinite(image).all()):
                yield sample.key, pack_features(image, own, row.captions, model)
            else:
                record.leave_out(sample.key, "features are not finite")
