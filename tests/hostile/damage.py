"""Shards that are damaged, each in some other way: what the fuzz feeds to the training loader."""

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile

import numpy as np
from PIL import Image

from open_clip_fff.data.features import pack_features

ROWS = 4  # of a shard
BLOCK, HUGE = tarfile.BLOCKSIZE, 2**33
JSON = [
    b'{"captions": ' + b"[" * 100_000,
    b'{"captions": ' + b'{"a":' * 990 + b"1" + b"}" * 991,
    b'{"captions": ' + b"9" * 5_000 + b"}",
    b'{"captions": [1e999, NaN, -Infinity, null, "x"]}',
    b'{"captions": "half \\ud83d", "captions": ["again", "again"]}',
    b'{"captions": {"captions": []}, "cls": 99999999999999999999}',
    b'\xff\xfe{"captions": "x"}',
    b"[]",
    b"",
]
NAMES = [
    "../../up",
    "/abs/olute",
    "a" * 300,
    "n\new\x1b[2J",
    "caf\udce9",
    "",
    ".",
    "__meta__",
    "no",
    "a.b.c",
    "0.PNG",
    "x/0",
]
PAX = ["size", "path", "GNU.sparse.size", "GNU.sparse.realsize", "GNU.sparse.map", "GNU.sparse.major", "hdrcharset"]
PAX += ["mtime", "linkpath", "GNU.sparse.numbytes", "GNU.sparse.offset", "GNU.sparse.minor"]
VALUES = ["-1024", "-1", "0", "1", str(HUGE), "9" * 400, "x", "0,8589934592", "1,2,3", "\udce9", "BINARY", "nan"]
TYPES = [*b"01234567LKSVxgXDM\0"]


def samples(rng: random.Random) -> list[tuple[str, bytes]]:
    """The files of a sound shard."""
    files = []
    for row in range(ROWS):
        name, image = rng.choice(["png", "jpg", "webp"]), io.BytesIO()
        Image.new("RGB", (8, 8), (row, 9, 9)).save(image, {"jpg": "jpeg"}.get(name, name))
        texts = [f"raw {row}", f"one {row}", f"two {row}"]
        members = {name: image.getvalue(), "txt": texts[0].encode(), "cls": str(row).encode()}
        members["json"] = json.dumps({"captions": texts[1:]}).encode()
        members["feat.npz"] = pack_features(np.ones(4) / 2, np.ones((3, 4)) / 2, texts, "a model")
        files += [(f"{row:03d}.{each}", content) for each, content in members.items()]
    return files


def header(rng: random.Random, name: str, size: int, kind: int) -> bytes:
    """A tar's header with a right checksum, whatever it says."""
    info = tarfile.TarInfo()
    info.size, info.type, info.mode = 0, bytes([kind]), 0o644
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[:100] = name.encode("utf-8", "surrogateescape")[:100].ljust(100, b"\0")
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    if rng.random() < 0.3:  # of a sparse file: more blocks follow, and how large it is
        block[386:512] = (
            rng.randbytes(96) + bytes([rng.randrange(2)]) + tarfile.itn(HUGE, 12, tarfile.GNU_FORMAT) + bytes(17)
        )
    return checked(block)


def checked(block: bytearray) -> bytes:
    """A header with its checksum put right."""
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:512]))
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def insertion(rng: random.Random) -> bytes:
    """A member, or what goes before one, that no one would write."""
    size = rng.choice([0, 1, 512, 513, 2**20 + 1, HUGE, -1, -512, -2048, -(2**40)])
    kind, name = rng.choice(TYPES), rng.choice(NAMES) + rng.choice(["", ".png", ".txt", ".json"])
    if rng.random() < 0.5:
        return header(rng, name, size, kind) + padded(rng.randbytes(rng.choice([0, 10, 600])))
    records = b""
    for key in rng.sample(PAX, rng.randint(1, 4)):
        value = rng.choice(VALUES).encode("utf-8", "surrogateescape")
        length = rng.choice([len(key) + len(value) + 5, 0, 1, 10**6])
        records += b"%d %s=%s\n" % (length, key.encode(), value)
    whole = header(rng, "pax", rng.choice([len(records), size]), rng.choice(b"xg")) + padded(records)
    return whole * rng.choice([1, 1, 1, 2, 400])  # each header of these is read within the one before


def shard(rng: random.Random) -> tuple[bytes, str]:
    """A damaged shard, and how it was damaged."""
    files, done = samples(rng), []
    for _ in range(rng.choice([0, 0, 1, 2])):
        done.append(rng.choice(sorted(OF_FILES)))
        OF_FILES[done[-1]](rng, files)
    content = bytearray(tar(files, rng.choice(FORMATS)))
    for _ in range(rng.choice([0, 1, 1, 2])):
        done.append(rng.choice([*OF_BYTES, "insert"]))
        if content:
            OF_BYTES[done[-1]](rng, content, rng.randrange(len(content) // BLOCK + 1) * BLOCK)
    packing = rng.choice([None, None, None, *PACKINGS])
    if packing is None:
        return bytes(content), " ".join(done) or "sound"
    whole = bytearray(PACKINGS[packing](bytes(content) + (bytes(2**26) if rng.random() < 0.05 else b"")))
    if rng.random() < 0.5:
        whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        del whole[rng.choice([len(whole), rng.randrange(len(whole))]) :]
    return bytes(whole), " ".join([*done, packing])


def tar(files: list[tuple[str, bytes]], form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name[:90])
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def flipped(rng: random.Random, content: bytearray) -> None:
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def change_member(rng: random.Random, files: list) -> None:
    place = rng.randrange(len(files))
    content = bytearray(files[place][1])
    flipped(rng, content)
    files[place] = files[place][0], bytes(content)


def change_json(rng: random.Random, files: list) -> None:
    files[rng.randrange(len(files))] = f"{rng.randrange(ROWS):03d}.json", rng.choice(JSON)


def empty(rng: random.Random, files: list) -> None:
    place = rng.randrange(len(files))
    files[place] = files[place][0], b""


def repeat_member(rng: random.Random, files: list) -> None:
    files.insert(rng.randrange(len(files)), rng.choice(files))


def rename(rng: random.Random, files: list) -> None:
    place = rng.randrange(len(files))
    files[place] = f"{rng.choice(NAMES)}.{files[place][0].partition('.')[2]}", files[place][1]


def flip(rng: random.Random, content: bytearray, _: int) -> None:
    for _ in range(rng.choice([1, 5, 50])):
        flipped(rng, content)


def cut(rng: random.Random, content: bytearray, at: int) -> None:
    del content[rng.choice([at, rng.randrange(len(content))]) :]


def change_header(rng: random.Random, content: bytearray, at: int) -> None:
    """With a right checksum, where it is one."""
    block = bytearray(content[at : at + BLOCK].ljust(BLOCK, b"\0"))
    block[rng.choice([0, 100, 124, 130, 135, 156, 257, 263, 345, 482, 483])] = rng.choice(b"\0 0\x80\xffS")
    content[at : at + BLOCK] = checked(block)


def insert(rng: random.Random, content: bytearray, at: int) -> None:
    content[at:at] = insertion(rng)


def repeat(rng: random.Random, content: bytearray, at: int) -> None:
    content[at:at] = content[: rng.randrange(1, len(content) + 1)]


def zeros(rng: random.Random, content: bytearray, at: int) -> None:
    content[at : at + BLOCK * rng.choice([1, 2, 9])] = bytes(BLOCK)


def another_file(rng: random.Random, content: bytearray, _: int) -> None:
    content[:] = rng.choice([b"", b"<html>404</html>", rng.randbytes(2_000), bytes(10_240)])


FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
PACKINGS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}
OF_FILES = {
    **{"member": change_member, "json": change_json, "empty": empty, "twice": repeat_member, "renamed": rename},
    "order": lambda rng, files: rng.shuffle(files),
}
OF_BYTES = {
    **{"flip": flip, "cut": cut, "header": change_header, "insert": insert, "repeat": repeat, "zeros": zeros},
    "another file": another_file,
}
