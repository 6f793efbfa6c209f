"""From a sample as it lies in the tar to its image and the envelope of its captions."""

from collections.abc import Iterator

from open_clip_fff.data.caption_rows import serialize
from open_clip_fff.data.counters import BAD_CAPTIONS, NO_CAPTION, NO_FEATURES, NOT_FINITE, LoaderCounters
from open_clip_fff.data.features import FeatureReader, FeaturesNotFinite, MissingFeatures
from open_clip_fff.data.shards import IMAGES, id_of
from open_clip_fff.data.sources import CaptionReader


class CaptionSerializer:
    """A stage of OpenCLIP's pipeline, before anything filters or decodes.

    Members that the pipeline does not need are dropped undecoded. A row without captions, or without the features
    that are asked for, is left without `txt`, which is what OpenCLIP's filter looks for.

    Args:
        reader: finds the captions.
        counters: counts what was read, skipped or damaged.
        features: finds stored features; None where none are asked for.
    """

    def __init__(self, reader: CaptionReader, counters: LoaderCounters, features: FeatureReader | None = None) -> None:
        self.reader, self.counters, self.features = reader, counters, features
        self._told = ""

    def __call__(self, samples: Iterator[dict]) -> Iterator[dict]:
        """Raises OneRankError for features that are another model's or other captions'."""
        for sample in samples:
            envelope = self._envelope(sample)
            kept = {name: value for name, value in sample.items() if name.startswith("__") or name in IMAGES}
            yield kept if envelope is None else {**kept, "txt": envelope.encode()}

    def _envelope(self, sample: dict) -> str | None:
        reader, counters = self.reader, self.counters
        found, damage = reader.read(sample)
        if damage:
            counters.count_damaged(BAD_CAPTIONS, self._line(damage[0]))
        row = reader.row_of(id_of(sample), found, reader.class_of(sample))
        counters.count_row(row, found)
        if not row.captions:
            counters.count_damaged(NO_CAPTION)
            return None
        if self.features is not None:
            try:
                row = row.with_features(self.features.read(sample, row.captions))
            except MissingFeatures as why:
                kind = NOT_FINITE if isinstance(why, FeaturesNotFinite) else NO_FEATURES
                counters.count_damaged(kind, self._line(str(why)))
                return None
        return serialize(row)

    def _line(self, damage: str) -> str:
        """A line for the log; none for what was told last: a sidecar's damage is the same for a whole shard."""
        if damage == self._told:
            return ""
        self._told = damage
        return f"{damage}. Going on without it."
