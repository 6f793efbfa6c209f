"""open-clip-fff class-set: a zero-shot classification set of folders of classes, or of shards with classes."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from open_clip_fff.atomic_io import atomic_folder
from open_clip_fff.data.class_texts import NAMES as CLASS_NAMES
from open_clip_fff.data.class_texts import TEMPLATES, check_templates, same_names_line, some
from open_clip_fff.data.data_sets import check_tars, expand_shards
from open_clip_fff.data.prefetch import prefetch_map
from open_clip_fff.data.shards import SkippedSample, as_usage_errors, image_bytes, read_samples
from open_clip_fff.data.sources import cell_text, value_of
from open_clip_fff.errors import UsageError, as_mistake, printable
from open_clip_fff.plural import plural
from open_clip_fff.progress import progress
from open_clip_fff.tools.evaluation_sets import Members, how_to_score, write_split
from open_clip_fff.tools.pack.folder_files import UnusedFiles, folder_entries, images_below
from open_clip_fff.tools.pack.items import SkipSample, image_content, prepare_image
from open_clip_fff.tools.pack.kinds import files_in
from open_clip_fff.tools.pack.settings import ImageSettings
from open_clip_fff.tools.pack.splits import SPLIT_NAMES
from open_clip_fff.tools.shards.tars import check_torn

GENERIC_TEMPLATES = (  # the seven that CLIP's authors found best for ImageNet; OpenCLIP's SIMPLE_IMAGENET_TEMPLATES
    "itap of a {c}.",
    "a bad photo of the {c}.",
    "a origami {c}.",
    "a photo of the large {c}.",
    "a {c} in a video game.",
    "art of the {c}.",
    "a photo of the small {c}.",
)
SPLIT = "test"  # on which models are scored
THREADS = 4  # that read and decode images
CODE = re.compile(r"n\d{8}$|\d+[. _-]|[\W\d_]*$")  # wordnet's ids, numbers before a name, or no letter at all


class LabelledImage(NamedTuple):
    """An image as its bytes or its path, and its label: the name of its folder, or what a shard's class field holds."""

    key: str
    content: bytes | Path | None
    label: str | None


class Classes(NamedTuple):
    """The names of the classes in the order of their numbers, and the number of each label."""

    names: list[str]
    numbers: dict[str, int]


def class_set(
    source: str, out: Path, split: str, class_key: str, names_file: Path | None, templates_file: Path | None
) -> int:
    """Writes a set, or another split of one, completely or not at all, and prints what is in it.

    Args:
        source: a folder with a folder of images for each class, or shards, with it in the member or field `class_key`.
        out: the set's folder; one that has other splits of the same classes gets this one as well.
        names_file: names of the classes (`name_classes`); None for the folders' names.
        templates_file: a template a line; None for GENERIC_TEMPLATES.

    Raises UsageError if the source, the names or the templates cannot be used, fewer than two classes have images, or
    `out` is something else, or cannot be written.
    """
    unused = UnusedFiles()
    images, labels = _images_of(source, class_key, unused)
    names, numbers = name_classes(labels, names_file)
    files = {CLASS_NAMES: names, TEMPLATES: read_templates(templates_file)}
    is_new = _check_out(out, split, files, templates_file is not None)
    per_class = Counter[int]()

    def members(image: LabelledImage) -> Members | SkippedSample:
        if image.label is None or image.content is None:
            return SkippedSample(image.key, "without a class" if image.label is None else "without an image")
        try:
            made = prepare_image(image_content(image.content), ImageSettings())
        except SkipSample as why:
            return SkippedSample(image.key, str(why))
        return {made.extension: made.content, "cls": str(numbers[image.label]).encode()}

    def counted() -> Iterator[Members | SkippedSample]:
        for made in prefetch_map(members, images(), THREADS):
            per_class.update([] if isinstance(made, SkippedSample) else [int(made["cls"])])
            yield made

    folder = out if is_new else out / split
    with as_mistake(f"--out {out}: cannot be written", OSError), atomic_folder(folder) as unfinished:
        written, left_out = write_split(unfinished / split if is_new else unfinished, counted())
        if not written:
            raise UsageError(f"{source}: no image with a class can be read{left_out}")
        if len(per_class) < 2:
            only = f"only {printable(names[next(iter(per_class))])} has images that can be read"
            raise UsageError(f"{source}: {only}, and a set needs two classes with images{left_out}")
        for name, lines in files.items() if is_new else ():
            (unfinished / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    counts = [per_class[number] for number in range(len(names))]
    each = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    print(f"{out}: {plural(written, 'images')} of {plural(len(names), 'classes')} ({each} each), ", end="")
    print(f"{plural(len(files[TEMPLATES]), 'templates')}, split {split}{left_out}")
    print("".join(f"not used: {line}\n" for line in unused.lines), end="")
    if empty := [name for name, count in zip(names, counts, strict=True) if not count]:
        print(f"without images: {some(empty)}")
    if same := same_names_line(names):
        print(same)
    if codes := [name for name in names if CODE.match(name)]:
        fix = "--class-names FILE with LABEL<TAB>NAME in each line"
        print(f"names that are codes or begin with numbers, of which models know nothing: {some(codes)}; give {fix}")
    if split == SPLIT:
        print(how_to_score(out))
    return 0


def name_classes(labels: Sequence[str], file: Path | None) -> Classes:
    """Names and numbers of classes.

    Args:
        labels: of all images, each once, sorted. Where all are numbers, they are the classes' numbers, from 0.
        file: a name a line, in the order of numbers or of sorted labels, or `LABEL<TAB>NAME` in any order. None for the
            labels themselves with spaces for underscores.

    Raises:
        UsageError: for fewer than two classes, numbers without names, or names that do not fit the labels.
    """
    are_numbers = all(label.isdecimal() for label in labels)
    in_order = {label: number for number, label in enumerate(labels)}
    if len(labels) < 2:
        raise UsageError(f"SOURCE: has {plural(len(labels), 'classes')} ({some(labels)}); a set needs two or more")
    if file is None:
        if are_numbers:
            raise UsageError(f"--class-names: the classes are numbers ({some(labels)}); name a file with their names")
        names = [" ".join(label.replace("_", " ").split()) or label for label in labels]
        names = [name.encode(errors="replace").decode() for name in names]  # a folder's name may be no UTF-8
        return Classes(names, in_order)
    lines = _lines(file, "--class-names")
    if all("\t" in line for line in lines):
        by_label = {label.strip(): name.strip() for label, _, name in (line.partition("\t") for line in lines)}
        if missing := [label for label in labels if not by_label.get(label)]:
            raise UsageError(f"--class-names {file}: has no name for {some(missing)}")
        return Classes([by_label[label] for label in labels], in_order)
    words = [re.split(r"[\s,;:=]", line, maxsplit=1) for line in lines]
    if {word[0] for word in words} == set(labels) and all(len(word) > 1 for word in words):
        raise UsageError(
            f"--class-names {file}: each line begins with a label ({printable(lines[0])}); where that is no part of "
            f"the name, write a tab after it: LABEL<TAB>NAME"
        )
    if are_numbers:
        if int(max(labels, key=int)) >= len(lines):
            raise UsageError(
                f"--class-names {file}: has {plural(len(lines), 'names')}, from class 0 on, and there is a class "
                f"{max(labels, key=int)}; add names, or write LABEL<TAB>NAME in each line"
            )
        return Classes(lines, {label: int(label) for label in labels})
    if len(lines) != len(labels):
        raise UsageError(
            f"--class-names {file}: has {plural(len(lines), 'names')} for {plural(len(labels), 'classes')} "
            f"({some(labels)}); write one for each, in this order, or LABEL<TAB>NAME in each line"
        )
    return Classes(lines, in_order)


def read_templates(file: Path | None) -> list[str]:
    """Templates with `{c}` for the class's name, which a file may write as `{}`.

    Raises UsageError for a file that cannot be read, or a line without a place for the name.
    """
    if file is None:
        return list(GENERIC_TEMPLATES)
    templates = [line.replace("{}", "{c}") for line in _lines(file, "--templates")]
    check_templates(f"--templates {file}", templates)
    return templates


def _images_of(source: str, key: str, unused: UnusedFiles) -> tuple[Callable[[], Iterator[LabelledImage]], list[str]]:
    """A function that iterates over a source's images, and their labels, sorted.

    Raises UsageError if there are none, or a folder holds splits.
    """
    folder = Path(source)
    if urls := files_in(folder, ".tar") if folder.is_dir() else tuple(expand_shards(source)):
        check_tars("SOURCE", urls)
        check_torn("SOURCE", *urls)
        images = partial(_from_shards, urls, key)
        read = progress(images(), "reading classes", unit=" images")
        labels = sorted({image.label for image in read if image.label is not None})
        if not labels:
            raise UsageError(f"--class-key {key}: no sample of {source} has a class there")
        return images, labels
    labels = [name for name, is_folder in folder_entries(folder) if is_folder]
    if not labels:
        raise UsageError(f"{source}: has neither a folder of images for each class nor tars")
    if SPLIT_NAMES.issuperset(map(str.lower, labels)):
        raise UsageError(f"{source}: holds splits ({some(labels)}) and not classes; name one of them, such as "
                         f"{folder / labels[0]}")  # fmt: skip
    for name, is_folder in folder_entries(folder):
        if not is_folder:
            unused.add(name)
    return partial(_from_folders, folder, labels, unused), labels


def _from_folders(folder: Path, labels: Sequence[str], unused: UnusedFiles) -> Iterator[LabelledImage]:
    for label in labels:
        for path in images_below(folder / label, unused, beside=False):
            yield LabelledImage(str(path), path, label)


def _from_shards(urls: Sequence[str], key: str) -> Iterator[LabelledImage]:
    for sample in as_usage_errors(read_samples(urls), " ".join(urls[:3])):
        value = value_of(sample, key)
        value = value.decode(errors="replace") if isinstance(value, bytes) else value
        label = "" if isinstance(value, dict | list) else "".join(cell_text(value))
        number = label.removesuffix(".0")  # of a CSV that pandas wrote with a class missing
        label = number if number.isdecimal() else label
        yield LabelledImage(str(sample["__key__"]), image_bytes(sample), label or None)


def _check_out(out: Path, split: str, files: dict[str, list[str]], templates_given: bool) -> bool:
    """Whether the set is new; if not, puts its templates into `files`.

    Raises UsageError where `out` is neither new nor a set of these classes, and for other templates than it has.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return True
    if (out / split).exists() or not (out / CLASS_NAMES).is_file():
        raise UsageError(f"--out {out}: exists already; nothing was overwritten")
    if _lines(out / CLASS_NAMES, "--out") != files[CLASS_NAMES]:
        raise UsageError(f"--out {out}: is a set of other classes; name another folder for split {split}")
    theirs = _lines(out / TEMPLATES, "--out")
    if templates_given and theirs != files[TEMPLATES]:
        raise UsageError(f"--templates: {out} has others, for all of its splits; drop it, or name another folder")
    files[TEMPLATES] = theirs
    return False


def _lines(file: Path, flag: str) -> list[str]:
    """The lines of a text file. Raises UsageError if it cannot be read, or one is empty."""
    with as_mistake(f"{flag} {file}: cannot be read", OSError, UnicodeDecodeError):
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    if not all(lines) or not lines:
        raise UsageError(f"{flag} {file}: line {lines.index('') + 1 if lines else 1} is empty")
    return lines
