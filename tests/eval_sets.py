"""Small data in the layouts of the paper's 13 sets, as torchvision and clip-benchmark read them."""

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from tests.conftest import COLOURS, colour_image, write_tar

IMAGES = 8  # of each set, two of each colour
NAMES = list(COLOURS)


def jpeg(row: int) -> bytes:
    """A JPEG of the row's colour."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(colour_image(NAMES[row % 4], 900 + row))).save(buffer, "jpeg")
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> None:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def webdataset(
    folder: Path, shards: int = 2, split: str = "test", retrieval: bool = False, images: int = IMAGES
) -> Path:
    """clip-benchmark's webdataset form; two captions per image in a retrieval set."""
    for shard in range(shards):
        rows = range(shard * images // shards, (shard + 1) * images // shards)
        samples = {}
        for row in rows:
            colour = NAMES[row % 4]
            label = (
                {"txt": f"a {colour} square\npicture {row}".encode()} if retrieval else {"cls": str(row % 4).encode()}
            )
            samples[f"s{row:04d}"] = {"jpg": jpeg(row), **label}
        (folder / split).mkdir(parents=True, exist_ok=True)
        write_tar(folder / split / f"{shard}.tar", samples)
    put(folder / split / "nshards.txt", str(shards))
    if retrieval:
        put(folder / "dataset_type.txt", "retrieval")
    else:
        put(folder / "classnames.txt", "\n".join(NAMES))
        put(folder / "zeroshot_classification_templates.txt", "a {c} square\nall {c}")
    return folder


def _cifar(root: Path, monkeypatch, fine: bool) -> None:
    """torchvision checks the real files' md5, so that those of the small ones are put in their place."""
    from torchvision.datasets import CIFAR10, CIFAR100

    pixels = [
        np.asarray(Image.open(io.BytesIO(jpeg(row))).resize((32, 32))).transpose(2, 0, 1) for row in range(IMAGES)
    ]
    rows = {
        "data": np.stack(pixels).reshape(IMAGES, -1),
        "fine_labels" if fine else "labels": [r % 4 for r in range(IMAGES)],
    }
    kind, base = (CIFAR100, "cifar-100-python") if fine else (CIFAR10, "cifar-10-batches-py")
    meta = {"fine_label_names" if fine else "label_names": NAMES}

    def stored(name: str, value: dict) -> str:
        content = pickle.dumps(value)
        put(root / base / name, content)
        return hashlib.md5(content).hexdigest()

    monkeypatch.setattr(kind, "train_list", [[name, stored(name, rows)] for name, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[name, stored(name, rows)] for name, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": stored(kind.meta["filename"], meta)})


def _cifar10(root: Path, monkeypatch) -> None:
    _cifar(root, monkeypatch, fine=False)


def _cifar100(root: Path, monkeypatch) -> None:
    _cifar(root, monkeypatch, fine=True)


def _food101(root: Path, monkeypatch) -> None:
    listed = {
        f"{colour}_food": [f"{colour}_food/{row}" for row in range(i, IMAGES, 4)] for i, colour in enumerate(NAMES)
    }
    for split in ("train", "test"):
        put(root / "food-101" / "meta" / f"{split}.json", json.dumps(listed))
    for row in range(IMAGES):
        put(root / "food-101" / "images" / f"{NAMES[row % 4]}_food" / f"{row}.jpg", jpeg(row))


def _pets(root: Path, monkeypatch) -> None:
    lines = [f"{NAMES[row % 4]}_cat_{row} {row % 4 + 1} 1 1" for row in range(IMAGES)]
    for split in ("trainval", "test"):
        put(root / "oxford-iiit-pet" / "annotations" / f"{split}.txt", "\n".join(lines))
    for row, line in enumerate(lines):
        put(root / "oxford-iiit-pet" / "images" / f"{line.split()[0]}.jpg", jpeg(row))


def _flowers(root: Path, monkeypatch) -> None:
    from torchvision.datasets import Flowers102

    base = root / "flowers-102"
    for row in range(IMAGES):
        put(base / "jpg" / f"image_{row + 1:05d}.jpg", jpeg(row))
    ids = np.arange(1, IMAGES + 1)
    savemat(base / "setid.mat", {"trnid": ids, "valid": ids, "tstid": ids})
    savemat(base / "imagelabels.mat", {"labels": ids % 4 + 1})
    md5 = {name: hashlib.md5((base / name).read_bytes()).hexdigest() for name in ("setid.mat", "imagelabels.mat")}
    files = {"label": ("imagelabels.mat", md5["imagelabels.mat"]), "setid": ("setid.mat", md5["setid.mat"])}
    monkeypatch.setattr(Flowers102, "_file_dict", {**Flowers102._file_dict, **files})


def _sun397(root: Path, monkeypatch) -> None:
    put(root / "SUN397" / "ClassName.txt", "\n".join(f"/{name[0]}/{name}" for name in NAMES))
    for row in range(IMAGES):
        put(root / "SUN397" / NAMES[row % 4][0] / NAMES[row % 4] / f"sun_{row}.jpg", jpeg(row))


def _cars(root: Path, monkeypatch) -> None:
    base = root / "stanford_cars"
    rows = np.array(
        [(f"{row}.jpg", row % 4 + 1) for row in range(IMAGES)], dtype=[("fname", object), ("class", object)]
    )
    put(base / "devkit" / "README.txt", "")
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(NAMES, dtype=object)})
    for path in (base / "cars_test_annos_withlabels.mat", base / "devkit" / "cars_train_annos.mat"):
        savemat(path, {"annotations": rows})
    for row in range(IMAGES):
        put(base / "cars_test" / f"{row}.jpg", jpeg(row))
        put(base / "cars_train" / f"{row}.jpg", jpeg(row))


def _dtd(root: Path, monkeypatch) -> None:
    listed = [f"{NAMES[row % 4]}/{NAMES[row % 4]}_{row}.jpg" for row in range(IMAGES)]
    for split in ("train", "test"):
        put(root / "dtd" / "dtd" / "labels" / f"{split}1.txt", "\n".join(listed))
    for row, name in enumerate(listed):
        put(root / "dtd" / "dtd" / "images" / name, jpeg(row))


def _caltech101(root: Path, monkeypatch) -> None:
    for row in range(IMAGES):
        folder = root / "caltech101" / "101_ObjectCategories" / NAMES[row % 4]
        put(folder / f"image_{row // 4 + 1:04d}.jpg", jpeg(row))


def _fgvc_aircraft(root: Path, monkeypatch) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    put(data / "variants.txt", "\n".join(NAMES))
    for split in ("trainval", "test"):
        put(data / f"images_variant_{split}.txt", "\n".join(f"{row:07d} {NAMES[row % 4]}" for row in range(IMAGES)))
    for row in range(IMAGES):
        put(data / "images" / f"{row:07d}.jpg", jpeg(row))


def _imagenet1k(root: Path, monkeypatch) -> None:
    wnids = ["n01440764", "n01443537", "n01484850", "n01491361"]
    for split in ("train", "val"):
        for row in range(IMAGES):
            put(root / split / wnids[row % 4] / f"ILSVRC2012_val_{row:08d}.JPEG", jpeg(row))
    torch.save(({wnid: (name,) for wnid, name in zip(wnids, NAMES, strict=True)}, wnids * 2), root / "meta.bin")


def _flickr30k(root: Path, monkeypatch) -> None:
    lines = [
        f"{row}.jpg,{text}" for row in range(IMAGES) for text in (f"a {NAMES[row % 4]} square, big", f"picture {row}")
    ]
    put(root / "flickr30k_test_karpathy.txt", "\n".join(["image,caption", *lines]))
    for row in range(IMAGES):
        put(root / f"{row}.jpg", jpeg(row))


def _mscoco_captions(root: Path, monkeypatch) -> None:
    images = [{"id": row, "file_name": f"COCO_val2014_{row:012d}.jpg"} for row in range(IMAGES)]
    texts = [(row, text) for row in range(IMAGES) for text in (f"a {NAMES[row % 4]} square", f"picture {row}")]
    annotations = [{"id": n, "image_id": row, "caption": text} for n, (row, text) in enumerate(texts)]
    put(root / "coco_test_karpathy.json", json.dumps({"images": images, "annotations": annotations}))
    for image in images:
        put(root / "val2014" / image["file_name"], jpeg(image["id"]))


TORCHVISION: dict[str, Callable] = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "food101": _food101,
    "pets": _pets,
    "flowers": _flowers,
    "sun397": _sun397,
    "cars": _cars,
    "dtd": _dtd,
    "caltech101": _caltech101,
    "fgvc_aircraft": _fgvc_aircraft,
    "imagenet1k": _imagenet1k,
    "flickr30k": _flickr30k,
    "mscoco_captions": _mscoco_captions,
}
