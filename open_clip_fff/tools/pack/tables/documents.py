"""json files that are one object: COCO's captions, Karpathy's splits, and rows by name, by column or in a field."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from open_clip_fff.data.table_columns import column_names
from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.folder_files import IMAGE_SUFFIXES
from open_clip_fff.tools.pack.tables.csv import LOOK
from open_clip_fff.tools.pack.tables.reader import CAPTION_NAMES, Cells, Reader, open_text

Document = dict[str, Any]


class DocumentLayout(NamedTuple):
    """The layout of a document."""

    name: str  # for printed lines
    image: str | None  # the column of images; None to guess it and that of captions
    rows: Callable[[Document], Iterator[Cells]]  # makes the document's rows; those of an image have `captions`
    used: Collection[str]  # fields of the document that rows are made of
    unused: Callable[[Document], list[str]] = lambda document: []  # makes lines on content of `used` that is in no row


def coco(document: Document) -> DocumentLayout | None:
    """COCO's captions: `images` with `id` and `file_name`, `annotations` with `image_id` and `caption`.

    Raises ValueError for COCO's other annotations.
    """
    if not (_objects(document, "images") and _objects(document, "annotations")):
        return None
    if not any("caption" in annotation for annotation in document["annotations"]):
        raise ValueError("it is COCO's, but no annotation has a caption; take the one that is called captions_*.json")
    return DocumentLayout("COCO's captions", "file_name", _coco_rows, ("images", "annotations"), _coco_unlisted)


def _coco_rows(document: Document) -> Iterator[Cells]:
    captions: dict[Any, list[object]] = defaultdict(list)
    for annotation in document["annotations"]:
        captions[str(annotation.get("image_id"))].append(annotation.get("caption"))
    for image in document["images"]:
        yield {**image, "captions": captions.get(str(image.get("id")), [])}


def _coco_unlisted(document: Document) -> list[str]:
    listed = {str(image.get("id")) for image in document["images"]}
    unlisted = sum(str(annotation.get("image_id")) not in listed for annotation in document["annotations"])
    return [f"{plural(unlisted, 'annotations')} of images that are not listed"] if unlisted else []


def karpathy(document: Document) -> DocumentLayout | None:
    """Karpathy's splits: `images` with `filename`, perhaps `filepath`, and `sentences` with `raw`."""
    images = _objects(document, "images")
    if not images or not {"filename", "sentences"} <= set(images[0]):
        return None
    splits = Counter(str(image.get("split")) for image in images)
    counts = ", ".join(f"{name} {count:,}" for name, count in splits.most_common())
    return DocumentLayout(
        f"Karpathy's splits ({counts}; --only 'split=A;B' takes some)", "image", _karpathy_rows, ("images",)
    )


def _karpathy_rows(document: Document) -> Iterator[Cells]:
    for image in document["images"]:
        rest = {name: value for name, value in image.items() if name not in ("filename", "filepath", "sentences")}
        path = "/".join(str(part) for part in (image.get("filepath"), image.get("filename")) if part)
        texts = [x.get("raw") if isinstance(x, dict) else x for x in image.get("sentences") or []]
        yield {"image": path, "captions": texts, **rest}


def by_name(document: Document) -> DocumentLayout | None:
    """The caption, captions or fields of each image, `{"1.jpg": "a cat"}`, or by keys, `{"7": {…}}`."""
    of_images = any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in document)
    kinds = {type(x) if not _objects(document, name) else None for name, x in document.items()}
    if not of_images and not (kinds == {dict} or (kinds and kinds <= {str, list})):
        return None
    column = "file" if of_images else "key"

    def rows(document: Document) -> Iterator[Cells]:
        for name, x in document.items():
            yield {column: name, **(x if isinstance(x, dict) else {"captions": x})}

    return DocumentLayout("rows by name", column if of_images else None, rows, frozenset(document))


def by_column(document: Document) -> DocumentLayout | None:
    """Columns of one length, some of captions, each a list, or pandas' `{"0": cell, "1": cell}`."""
    lengths = {len(x) if isinstance(x, list) or (isinstance(x, dict) and "0" in x) else 0 for x in document.values()}
    named = any(known in name.lower() for name in document for known in CAPTION_NAMES)
    if len(lengths) != 1 or 0 in lengths or not named:
        return None

    def rows(document: Document) -> Iterator[Cells]:
        cells = [x.values() if isinstance(x, dict) else x for x in document.values()]
        return (dict(zip(document, row, strict=True)) for row in zip(*cells, strict=True))

    return DocumentLayout("columns", None, rows, frozenset(document))


def in_field(document: Document) -> DocumentLayout | None:
    """The list of objects in the only field that has one, as in `{"data": [{…}]}`."""
    names = [name for name in document if _objects(document, name)]
    if len(names) != 1:
        return None
    return DocumentLayout(f"the objects in `{names[0]}`", None, lambda document: iter(document[names[0]]), (*names,))


LAYOUTS: tuple[Callable[[Document], DocumentLayout | None], ...] = (coco, karpathy, in_field, by_column, by_name)


class DocumentReader(Reader):
    """A row per image; the document is in memory only while rows are read.

    Raises UsageError if its layout is unknown, and ValueError as the layouts, or if it is no object.
    """

    form = "json"
    fixed = False

    def __init__(self, file: str) -> None:
        super().__init__(file)
        document = self._load()
        layout = next(filter(None, (layout(document) for layout in LAYOUTS)), None)
        if layout is None:
            raise UsageError(
                f"{file} is neither COCO's captions (images, annotations), Karpathy's splits (images with sentences), "
                "a list of objects, captions by names of images nor an object a line; it has "
                f"{column_names(list(document)) or 'nothing'}"
            )
        self.layout, self.image, self._layout = layout.name, layout.image, layout
        self._count = sum(1 for _ in layout.rows(document))
        others = [f"{name} ({len(x):,})" if isinstance(x, list) else name for name, x in document.items()
                  if name not in layout.used]  # fmt: skip
        self._unused = layout.unused(document) + ([f"fields of the json: {', '.join(others)}"] if others else [])
        rows = islice(layout.rows(document), LOOK)
        self.columns = list(dict.fromkeys(name for row in rows for name in row))
        self.captions = ("captions",) if layout.image and "captions" in self.columns else ()

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        for row in self._layout.rows(self._load()):
            yield {column: row.get(column) for column in columns}

    def about(self) -> int:
        return self._count

    def unused(self) -> list[str]:
        return self._unused

    def _load(self) -> Document:
        with open_text(self.file) as text:
            document = json.load(text)
        if not isinstance(document, dict):
            raise ValueError("it is neither a list nor an object")
        return document


def _objects(fields: Document, name: str) -> list[Document] | None:
    """The list of objects in a field; None for anything else."""
    value = fields.get(name)
    return value if isinstance(value, list) and value and all(isinstance(x, dict) for x in value) else None
