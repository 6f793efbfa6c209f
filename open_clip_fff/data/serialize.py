"""A stage of the loader's pipeline: from a sample of a tar to its image and its row of captions."""

from collections.abc import Iterator

from open_clip_fff.data.caption_rows import CaptionRow, RowBytes
from open_clip_fff.data.counters import BAD_CAPTIONS, NO_CAPTION, NO_FEATURES, NOT_FINITE, WITHOUT_IMAGE, LoaderCounters
from open_clip_fff.data.features import FeatureReader, FeaturesNotFinite, MissingFeatures
from open_clip_fff.data.shards import IMAGES, image_bytes
from open_clip_fff.data.sources import CaptionReader


class CaptionSerializer:
    """Replaces a sample's members, except the image, by its row, `txt`; runs before filters and decoding.

    A sample without captions, or without features where `features` is given, gets no `txt`; OpenCLIP's filter drops it.
    """

    def __init__(self, reader: CaptionReader, counters: LoaderCounters, features: FeatureReader | None = None) -> None:
        self.reader, self.counters, self.features = reader, counters, features
        self._last_line = ""

    def __call__(self, samples: Iterator[dict]) -> Iterator[dict]:
        """Raises OneRankError for features of another model or of other captions."""
        for sample in samples:
            row = self._row(sample)
            kept = {name: value for name, value in sample.items() if name.startswith("__") or name in IMAGES}
            yield kept if row is None else {**kept, "txt": RowBytes.of(row)}

    def _row(self, sample: dict) -> CaptionRow | None:
        reader, counters = self.reader, self.counters
        found, damage = reader.read(sample)
        if damage:
            counters.count_damaged(BAD_CAPTIONS, self._line(damage[0]))
        row = reader.named_row(sample, found)
        counters.count_row(row, found)
        if not row.captions:
            counters.count_damaged(NO_CAPTION)
            return None
        if image_bytes(sample) is None:
            counters.count_damaged(WITHOUT_IMAGE)  # OpenCLIP's filter drops it
            return row
        if self.features is not None:
            try:
                row = row._replace(features=self.features.read(sample, row.captions))
            except MissingFeatures as why:
                kind = NOT_FINITE if isinstance(why, FeaturesNotFinite) else NO_FEATURES
                counters.count_damaged(kind, self._line(str(why)))
                return None
        return row

    def _line(self, damage: str) -> str:
        """A line for the log; empty if it is the last one again, as for a whole shard with a damaged sidecar."""
        if damage == self._last_line:
            return ""
        self._last_line = damage
        return f"{damage}. Going on without it."
