"""Where captions are read, and which of them join a batch."""

import re
from dataclasses import dataclass
from typing import ClassVar

from open_clip_fff.config.fields import Settings, setting
from open_clip_fff.config.numbers import number
from open_clip_fff.config.open_clip import Upstream
from open_clip_fff.config.topics import Topic, code, codes

TAR_FLAGS = frozenset({"text_key", "json_text_key", "caption_sidecar", "sidecar_text_key", "split_sentences"})
ROW_FLAGS = TAR_FLAGS | {"caption_words", "min_coverage", "class_key", "positive_key", "positives"}
PATTERN = "re:"  # prefix of a json key that is a regular expression over field names


def _has_sidecar(settings: "CaptionSettings") -> bool:
    return bool(settings.sidecar or settings.val_sidecar)


def _bounds(text: str) -> tuple[int, int | None]:
    """`3:50` as (3, 50), `3:` as (3, None), `:50` as (0, 50)."""
    least, colon, most = text.partition(":")
    try:
        if colon:
            return int(least or 0), int(most) if most else None
    except ValueError:
        pass
    raise ValueError(f"invalid MIN:MAX value: {text!r}")


@dataclass(frozen=True)
class CaptionSettings(Settings):
    """Where captions are read and how many of an image's captions join a batch.

    Fields are documented by their flags' help. `val_sidecar`: None means that of training, an empty string none. The
    upper bound of `words` may be None. `shards` is --train-data, `A::B`, in the order of `sidecar`'s folders; None if
    unknown.
    """

    group: ClassVar[str] = "captions"
    per_image: int = setting(
        "captions_per_image",
        1,
        "K, the most captions of one image",
        metavar="K",
        check=(lambda k: k >= 1, "captions per image is {}: it is at least 1"),
    )
    policy: str = setting(
        "caption_policy",
        "first",
        "all K in the batch, sample one of K at each visit, or the first non-empty one",
        follows="all for our losses, first for OpenCLIP's",
        choices=("all", "sample", "first"),
    )
    text_keys: tuple[str, ...] = setting("text_key", ("txt",), "tar members with a caption, in order")
    json_keys: tuple[str, ...] = setting(
        "json_text_key",
        (),
        "fields of the member json with a caption or a list of them: a name, a path meta.captions, or re:PATTERN, "
        "which matches whole names; syn.json:NAME is a field of the member syn.json; they follow the text keys",
    )
    sidecar: str | None = setting(
        "caption_sidecar",
        None,
        "folder with a parquet per shard, of the same stem, joined by its column key; with --train-data A::B a "
        "folder for each, A::B, where stems repeat",
        metavar="DIR",
    )
    val_sidecar: str | None = setting(
        "val_caption_sidecar",
        None,
        "the same for --val-data; '' for none",
        unset="--caption-sidecar, where no stem repeats",
        metavar="DIR",
        shown=lambda s: "that of training" if s.val_sidecar is None else s.val_sidecar or "none",
        when=_has_sidecar,
    )
    shards: str | None = None  # OpenCLIP's --train-data
    sidecar_keys: tuple[str, ...] = setting(
        "sidecar_text_key",
        ("captions",),
        "its columns with a caption or a list of them",
        when=_has_sidecar,
        needs="--caption-sidecar DIR",
    )
    split_sentences: bool = setting(
        "split_sentences",
        False,
        "cut captions from json and sidecar into sentences, a caption each",
        when=lambda s: s.has_generated,
        needs="--json-text-key FIELD or --caption-sidecar DIR; those of --text-key and --csv-caption-key stay whole",
    )
    words: tuple[int, int | None] = setting(
        "caption_words",
        (0, None),
        "use captions of so many words, each bound may be left out",
        unset="any",
        metavar="MIN:MAX",
        parse=_bounds,
        shown=lambda s: s.bounds or "any",
    )
    raw_weight: float = setting(
        "raw_weight",
        1.0,
        "under sample: weight of a caption from a text key over a generated one, 0 for never",
        metavar="W",
        check=(lambda weight: weight >= 0, "raw weight is {}: it is 0 or greater"),
        when=lambda s: s.policy == "sample",
        needs="--caption-policy sample",
    )
    min_coverage: float = setting(
        "min_coverage",
        0.0,
        "stop where a source has text in less than this share of rows, at the start and each epoch",
        metavar="SHARE",
        check=(lambda share: 0.0 <= share <= 1.0, "least coverage is {}: it is a share from 0 to 1"),
    )
    class_key: str | None = setting(
        "class_key",
        None,
        "tar member, json field or CSV column with the image's class: the log tells how many mined pairs are "
        "right; never trained on",
        metavar="NAME",
    )
    positive_key: str | None = setting(
        "positive_key",
        None,
        "tar member, json field or CSV column (product, patient): images with the same value are positives of each "
        "other",
        metavar="FIELD",
        group="mining",
    )
    positive_key_as: str = setting(
        "positive_key_as",
        "positive",
        "what they are of each other: positives, or neither positives nor negatives",
        choices=("positive", "ignore"),
        group="mining",
        when=lambda s: s.positive_key is not None,
        needs="--positive-key FIELD",
    )
    positives: str | None = setting(
        "positives",
        None,
        "pairs of rows that are positives of each other: parquet, csv, tsv or jsonl with shard_a, key_a, shard_b, "
        "key_b, and with --train-data A::B source_a, source_b, from 0",
        metavar="FILE",
        group="mining",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("text_keys", "json_keys", "sidecar_keys"):  # a source that is named twice is read once
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        if not self.text_keys and not self.json_keys and self.sidecar is None:
            raise ValueError("no caption source: name one with --text-key, --json-text-key or --caption-sidecar")
        for _, field in self.json_fields:
            if field.startswith(PATTERN):
                try:
                    re.compile(field.removeprefix(PATTERN))
                except re.error as error:
                    raise ValueError(f"--json-text-key {field}: is no regular expression ({error})") from None
        least, most = self.words
        if least < 0 or (most is not None and most < max(least, 1)):
            raise ValueError(f"--caption-words {least}:{most}: nothing fits")

    def describe(self, upstream: Upstream) -> Topic:
        """How many captions of an image are in a batch, and from where."""
        if self.per_image == 1:
            several = len(self.sources if upstream.data == "webdataset" else upstream.csv_caption_key.split(";")) > 1
            how = "one per image" + ", the first that is not empty" * several
        else:
            how = {
                "all": f"up to {self.per_image} per image, all in the same batch",
                "sample": f"one of an image's first {self.per_image}, drawn anew at each visit",
                "first": f"the first of up to {self.per_image} per image",
            }[self.policy]
        parts = [how, f"from {self._from(upstream)}"]
        if self.policy == "sample" and self.raw_weight != 1.0:
            parts.append(f"a raw caption weighs {number(self.raw_weight)} where a generated one weighs 1")
        parts += ["cut into sentences where they are from json or a sidecar"] * self.split_sentences
        parts += [f"of {self._words()}"] * bool(self.bounds)
        if self.min_coverage:
            parts.append(f"training stops where a source has text in less than {number(self.min_coverage)} of the rows")
        if self.class_key is not None:
            parts.append(
                f"classes from {code(self.class_key)} tell the log what is right, and nothing is trained on them"
            )
        return Topic("captions", tuple(parts))

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The CSV columns to read as text, without duplicates; here the text keys are column names."""
        keys = (*self.text_keys, self.class_key, self.positive_key)
        return tuple(dict.fromkeys(key for key in keys if key is not None))

    @property
    def has_generated(self) -> bool:
        """Whether a source of generated captions is named; those from text keys are raw."""
        return bool(self.json_keys) or self.sidecar is not None

    @property
    def gives_positives(self) -> bool:
        """Whether the user gives positives."""
        return self.positives is not None or (self.positive_key is not None and self.positive_key_as == "positive")

    @property
    def pairs_text(self) -> tuple[str, ...]:
        """The pairs that the user gives, in clauses."""
        parts = []
        if self.positive_key is not None:
            what = "are positives of each other" if self.positive_key_as == "positive" else "are no negatives either"
            parts.append(f"images of one {code(self.positive_key)} {what}")
        if self.positives is not None:
            parts.append(f"the pairs in {code(self.positives)} are positives")
        return tuple(parts)

    def _from(self, upstream: Upstream) -> str:
        if upstream.data == "synthetic":
            return "OpenCLIP's synthetic data"
        if upstream.data == "csv":
            return f"the CSV's {codes(tuple(upstream.csv_caption_key.split(';')))}"
        members = tuple(source for source in self.sources if not source.startswith("sidecar:"))
        beside = f"{codes(self.sidecar_keys)} of the sidecar {code(self.sidecar)}" if self.sidecar else ""
        return ", ".join(filter(None, (codes(members), beside)))

    def _words(self) -> str:
        least, most = self.words
        if most is None:
            return f"{least} words or more"
        return f"{least} to {most} words" if least else f"up to {most} words"

    @property
    def bounds(self) -> str:
        """The bounds of words as they are given; empty where there are none."""
        least, most = self.words
        return f"{least or ''}:{'' if most is None else most}" if least or most is not None else ""

    @property
    def columns(self) -> int:
        """How many captions of each image are in one batch: K under `all`, else 1."""
        return self.per_image if self.policy == "all" else 1

    @property
    def json_fields(self) -> tuple[tuple[str, str], ...]:
        """The tar member and the field of each json key."""
        return tuple(dict.fromkeys(map(_member_and_field, self.json_keys)))

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources' names, in the order of their captions."""
        beside = [("sidecar", key) for key in self.sidecar_keys] if self.sidecar else []
        named = (source_name(*names) for names in (*self.json_fields, *beside))
        return tuple(dict.fromkeys((*self.text_keys, *named)))


def source_name(where: str, name: str) -> str:
    """A json field or a sidecar's column as a source: `json:captions`; spaces around the name are not shown."""
    return f"{where}:{name.strip()}"


def _member_and_field(key: str) -> tuple[str, str]:
    """`syn.json:NAME` as ("syn.json", "NAME"). Other colons are the field's own, as in `dc:title` and `re:(?:a|b)`."""
    member, colon, field = key.partition(":")
    member, field = (member.strip(), field) if colon and member.endswith("json") else ("json", key)
    return member, field.lstrip() if field.lstrip().startswith(PATTERN) else field
