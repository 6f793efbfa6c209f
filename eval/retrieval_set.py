"""Makes a retrieval set of one's own shards, in the form in which clip-benchmark (and eval/zero_shot.py) reads it.

python eval/retrieval_set.py 'data/test-{000..004}.tar' --out sets/my-test --json-text-key captions
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import webdataset as wds
from tqdm import tqdm

from open_clip_fff.data.shards import IMAGES, in_one_line, read_samples, why_unreadable
from open_clip_fff.data.sources import CaptionReader
from open_clip_fff.errors import UsageError
from open_clip_fff.hub.borrowed import borrow, refuse
from open_clip_fff.plural import plural
from open_clip_fff.whole import whole_folder

IMAGES_PER_TAR = 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the set as the command line says.

    Returns:
        0, or 2 for a mistake that the user can mend, which is printed in one line.
    """
    parser = argparse.ArgumentParser(prog="eval/retrieval_set.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shards", help="tars, with braces as in training")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the set's folder; it must not be there")
    parser.add_argument("--captions", type=int, default=5, metavar="K", help="of an image at most (default: 5)")
    parser.epilog = "Where the captions are, training's flags say: --text-key, --json-text-key, --caption-sidecar, …"
    arguments, rest = parser.parse_known_args(argv)
    try:
        if arguments.captions < 1:
            raise UsageError(f"--captions {arguments.captions}: must be 1 or more")
        images, captions, skipped = write_set(
            arguments.shards, arguments.out, arguments.captions, reader(rest, arguments.captions, arguments.shards)
        )
    except UsageError as error:
        print(f"eval/retrieval_set.py: error: {error}", file=sys.stderr, flush=True)
        return 2
    left_out = f"; {skipped:,} without captions or a whole image were left out" if skipped else ""
    print(f"{arguments.out}: {plural(captions, 'captions')} of {plural(images, 'images')}{left_out}")
    root, name = arguments.out.parent, arguments.out.name
    print(f"score it with: python eval/zero_shot.py MODEL --data-root {root} --datasets {name}")
    return 0


def reader(flags: Sequence[str], most: int, shards: str) -> CaptionReader:
    """What training's caption flags read, at most so many of an image.

    Raises:
        UsageError: for a flag that cannot work or is none of them.
    """
    said = {"loss": "fff", "caption_policy": "all", "mining_features": "off", "method": None}
    plan, others = borrow(flags, said={**said, "captions_per_image": most})
    refuse(others)
    return CaptionReader(replace(plan.captions, shards=shards))


def write_set(shards: str, out: Path, most: int, captions: CaptionReader) -> tuple[int, int, int]:
    """Writes the set, whole or not at all.

    Returns:
        Images and captions written, and samples left out.

    Raises:
        UsageError: if `out` is there, a shard cannot be read, or no sample is whole.
    """
    if out.exists():
        raise UsageError(f"--out {out}: is there already; nothing was written over")
    urls = wds.shardlists.expand_urls(shards)
    with whole_folder(out) as unfinished:
        counts = _write_tars(urls, unfinished / "test", most, captions)
        if not counts[0]:
            raise UsageError(f"{shards}: no sample has captions and a whole image; --text-key and --json-text-key?")
        (unfinished / "dataset_type.txt").write_text("retrieval\n")
    return counts


def _write_tars(urls: Sequence[str], folder: Path, most: int, captions: CaptionReader) -> tuple[int, int, int]:
    folder.mkdir()
    images = texts = skipped = 0
    with wds.ShardWriter(str(folder / "%d.tar"), maxcount=IMAGES_PER_TAR, maxsize=2**40, verbose=0) as tars:
        for sample in tqdm(in_one_line(read_samples(urls), " ".join(urls[:3])), unit=" images", disable=None):
            lines = [" ".join(text.split()) for text in captions.row(sample).captions[:most]]
            kind = next((name for name in IMAGES if name in sample), None)
            if not lines or kind is None or why_unreadable(sample[kind]) is not None:
                skipped += 1
                continue
            tars.write({"__key__": f"s{images:07d}", kind: sample[kind], "txt": "\n".join(lines)})
            images, texts = images + 1, texts + len(lines)
        shards = tars.shard
    (folder / "nshards.txt").write_text(f"{shards}\n")
    return images, texts, skipped


if __name__ == "__main__":
    sys.exit(main())
