"""json files that are one object with lists of images and captions: COCO's and Karpathy's."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from open_clip_fff.errors import UsageError
from open_clip_fff.plural import plural
from open_clip_fff.tools.pack.tables.reader import Cells, Reader
from open_clip_fff.tools.pack.tables.separated import LOOK

Document = dict[str, Any]


class DocumentLayout(NamedTuple):
    """The layout of a document."""

    name: str  # for printed lines
    image: str  # the column of images
    # makes a row per image of the document, with its captions in `captions`
    rows: Callable[[Document], Iterator[Cells]]
    used: tuple[str, ...]  # fields of the document that rows are made of
    unused: Callable[[Document], list[str]] = lambda document: []  # makes lines on content of these that is in no row


def coco(document: Document) -> DocumentLayout | None:
    """COCO's captions: `images` with `id` and `file_name`, `annotations` with `image_id` and `caption`.

    Raises ValueError for COCO's other annotations.
    """
    if not (_objects(document, "images") and _objects(document, "annotations")):
        return None
    if not any("caption" in annotation for annotation in document["annotations"]):
        raise ValueError("it is COCO's, but no annotation has a caption; take the one that is called captions_*.json")
    return DocumentLayout("COCO's captions", "file_name", _coco_rows, ("images", "annotations"), _coco_strays)


def _coco_rows(document: Document) -> Iterator[Cells]:
    captions: dict[Any, list[object]] = defaultdict(list)
    for annotation in document["annotations"]:
        captions[str(annotation.get("image_id"))].append(annotation.get("caption"))
    for image in document["images"]:
        yield {**image, "captions": captions.get(str(image.get("id")), [])}


def _coco_strays(document: Document) -> list[str]:
    listed = {str(image.get("id")) for image in document["images"]}
    strays = sum(str(annotation.get("image_id")) not in listed for annotation in document["annotations"])
    return [f"{plural(strays, 'annotations')} of images that are not listed"] if strays else []


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
        path = "/".join(filter(None, (image.get("filepath"), image.get("filename"))))
        yield {"image": path, "captions": [x.get("raw") for x in image.get("sentences") or []], **rest}


LAYOUTS: tuple[Callable[[Document], DocumentLayout | None], ...] = (coco, karpathy)


class DocumentReader(Reader):
    """A row per image; the document is in memory only while rows are read.

    Raises UsageError if its layout is unknown, and ValueError as the layouts.
    """

    form = "json"
    fixed = False

    def __init__(self, file: str, load: Callable[[], Document]) -> None:
        super().__init__(file)
        document, self._load = load(), load
        layout = next(filter(None, (layout(document) for layout in LAYOUTS)), None)
        if layout is None:
            raise UsageError(
                f"{file} is neither COCO's captions (images, annotations), Karpathy's splits (images with sentences), "
                f"a list of objects nor an object a line; it has {', '.join(document) or 'nothing'}"
            )
        self.layout, self.image, self.captions = layout.name, layout.image, ("captions",)
        self._layout, self._count = layout, len(document["images"])
        others = [f"{name} ({len(x):,})" if isinstance(x, list) else name for name, x in document.items()
                  if name not in layout.used]  # fmt: skip
        self._unused = layout.unused(document) + ([f"fields of the json: {', '.join(others)}"] if others else [])
        rows = islice(layout.rows(document), LOOK)
        self.columns = list(dict.fromkeys(name for row in rows for name in row))

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        for row in self._layout.rows(self._load()):
            yield {column: row.get(column) for column in columns}

    def about(self) -> int:
        return self._count

    def unused(self) -> list[str]:
        return self._unused


def _objects(fields: Document, name: str) -> list[Document] | None:
    """The list of objects in a field; None for anything else."""
    value = fields.get(name)
    return value if isinstance(value, list) and value and all(isinstance(x, dict) for x in value) else None
