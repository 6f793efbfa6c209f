"""Evaluation sets in clip-benchmark's webdataset layout, and a retrieval set of one's own shards."""

import argparse
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from open_clip_fff.atomic_io import atomic_folder, check_new_folder
from open_clip_fff.config.captions import CaptionSettings
from open_clip_fff.data.data_sets import check_tars, expand_shards
from open_clip_fff.data.shards import (
    IMAGES,
    SkippedSample,
    as_usage_errors,
    describe_members,
    id_of,
    read_samples,
    unreadable_reason,
)
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError, as_mistake
from open_clip_fff.plural import plural, reasons
from open_clip_fff.progress import progress
from open_clip_fff.tools.shards.tars import check_torn, tar_writer

IMAGES_PER_TAR = 1_000

Members = dict[str, bytes]  # of a sample, by extension


def write_split(folder: Path, samples: Iterable[Members | SkippedSample]) -> tuple[int, str]:
    """Writes `0.tar`, `1.tar`, … and `nshards.txt` into a folder; equal samples make equal bytes.

    Returns how many were written, and the end of a line on samples left out; empty for none.
    """
    left_out = Counter[str]()

    def usable() -> Iterator[Members]:
        for sample in progress(samples, "writing", unit=" images"):
            if isinstance(sample, SkippedSample):
                left_out[sample.why] += 1
            else:
                yield sample

    folder.mkdir(exist_ok=True)
    images, shards, remaining = 0, 0, usable()
    for first in remaining:
        with (folder / f"{shards}.tar").open("wb") as file, tar_writer(file) as tar:
            for members in chain([first], islice(remaining, IMAGES_PER_TAR - 1)):
                tar.write({"__key__": f"s{images:07d}", **members})
                images += 1
        shards += 1
    (folder / "nshards.txt").write_text(f"{shards}\n")
    return images, f"; left out: {reasons(left_out)}" if left_out else ""


def how_to_score(out: Path) -> str:
    """The command that scores a model on a set."""
    where, name = shlex.quote(str(out.parent)), shlex.quote(out.name)
    return f"score it with: open-clip-fff score MODEL --data-root {where} --datasets {name}"


def retrieval_set(arguments: argparse.Namespace, settings: CaptionSettings) -> int:
    """Writes a retrieval set completely or not at all, and prints what is in it.

    Raises UsageError as `check_new_folder`, and if a shard cannot be read, or no sample has captions and an image.
    """
    shards, out = arguments.shards, arguments.out
    check_new_folder(out)
    urls, reader, captions = expand_shards(shards), CaptionReader(settings), 0
    check_tars("SHARDS", urls)
    check_torn("SHARDS", *urls)
    if reader.sidecar is not None and len(reader.sidecar.missing(urls)) == len(urls):
        reader.sidecar.check(urls[0])  # names the parquet
    (texts, dropped), written = _captions_by_image(urls, reader, arguments.captions), set[int]()

    def members(sample: dict) -> Members | SkippedSample:
        nonlocal captions
        image = id_of(sample)
        own, kind = texts.get(image, []), next((name for name in IMAGES if name in sample), None)
        if not own or kind is None or unreadable_reason(sample[kind]) is not None:
            return SkippedSample(str(sample["__key__"]), "without captions or a readable image")
        if image in written:
            return SkippedSample(str(sample["__key__"]), "copy of an image, which has its captions")
        written.add(image)
        captions += len(own)
        return {kind: sample[kind], "txt": "\n".join(own).encode()}

    with as_mistake(f"--out {out}: cannot be written", OSError), atomic_folder(out) as unfinished:
        samples = as_usage_errors(read_samples(urls), " ".join(urls[:3]))
        images, left_out = write_split(unfinished / "test", map(members, samples))
        if not images:
            held = describe_members({name for sample in read_samples(urls, IMAGES_PER_TAR) for name in sample})
            sources = ", ".join(settings.sources)
            raise UsageError(f"{shards}: no sample has captions ({sources}) and a readable image; they hold {held}")
        (unfinished / "dataset_type.txt").write_text("retrieval\n")
    less = ", ".join(plural(number, f"captions {why}") for why, number in dropped.items())
    less = f"; dropped: {less}" if less else ""
    print(f"{out}: {plural(captions, 'captions')} of {plural(images, 'images')}{left_out}{less}")
    print(how_to_score(out))
    return 0


def _captions_by_image(
    urls: Sequence[str], reader: CaptionReader, most: int
) -> tuple[dict[int, list[str]], Counter[str]]:
    """Each image's first `most` captions by its id, one line each, and how many were dropped, by reason.

    A copy of an image adds captions that the image lacks.

    Raises UsageError if a shard cannot be read, or a named source has no caption at all.
    """
    texts: dict[int, list[str]] = {}
    counts, joined, dropped, damaged = Counter[str](), 0, Counter[str](), list[str]()
    samples = as_usage_errors(read_samples(urls), " ".join(urls[:3]))
    for sample in progress(samples, "reading captions", unit=" images"):
        found, damage = reader.read(sample)
        damaged += damage[:1]
        counts.update({source: len(captions) for source, captions in found.items()})
        if (image := id_of(sample)) >= 0:
            own = texts.setdefault(image, [])
            for text in chain.from_iterable(found.values()):
                if (line := " ".join(text.split())) in own:
                    dropped["that an image had already"] += 1
                elif len(own) == most:
                    dropped[f"beyond --captions {most}"] += 1
                else:
                    own.append(line)
                    joined += "\n" in text
    if counts.total() and (empty := [name for name, count in counts.items() if not count and name != "txt"]):
        why = damaged[0] if damaged else "--text-key, --json-text-key?"
        raise UsageError(f"no sample has a caption in {', '.join(empty)}; {why}")
    if joined:
        print(
            f"{plural(joined, 'captions')} of several lines, each one caption here: lists of captions belong into json"
        )
    if damaged:
        print(f"{plural(len(damaged), 'samples')} with captions that cannot be read, first {damaged[0]}")
    return texts, dropped
