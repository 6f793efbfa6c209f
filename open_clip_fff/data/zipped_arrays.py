"""Numpy arrays out of a zip that `np.savez` wrote, of which a loader reads one for each sample."""

import functools
import io
import struct
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

_LOCAL, _ZIP64, _END = struct.Struct("<4s5H3I2H"), struct.Struct("<2H2Q"), struct.Struct("<4s4H2IH")
_UTF8 = 0x800  # the flag of a member whose name is UTF-8
_IN_ZIP64 = 0xFFFFFFFF  # a size that is written behind the name


def read_arrays(content: bytes, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays of these names.

    Raises:
        Exception: of zipfile, struct, zlib or numpy, for a file that is truncated or something else.
    """
    wanted = [f"{name}.npy" for name in names]
    members = _as_savez_wrote(content, [name.encode() for name in wanted])
    if members is None:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = [file.read(name) for name in wanted]
    return [_array(member) for member in members]


def _as_savez_wrote(content: bytes, names: list[bytes]) -> list[bytes] | None:
    """These members, one behind the other and uncompressed; None for any other zip, or a damaged one.

    `zipfile` takes ten times as long for the same.
    """
    members, at = [], 0
    try:
        for name in names:
            magic, _, flags, method, _, _, checksum, packed, size, named, more = _LOCAL.unpack_from(content, at)
            at += _LOCAL.size
            if size == _IN_ZIP64:
                tag, length, size, packed = _ZIP64.unpack_from(content, at + named)
                if (tag, length, more) != (1, 16, _ZIP64.size):
                    return None
            start = at + named + more
            member = content[start : start + size]
            if magic != b"PK\3\4" or flags & ~_UTF8 or method or packed != size or content[at : at + named] != name:
                return None
            if len(member) != size or zlib.crc32(member) != checksum:
                return None
            members.append(member)
            at = start + size
        magic, _, _, _, entries, size, start, _ = _END.unpack_from(content, len(content) - _END.size)
    except struct.error:
        return None
    whole = magic == b"PK\5\6" and entries == len(names) and start == at and at + size + _END.size == len(content)
    return members if whole else None


def _array(content: bytes) -> np.ndarray:
    """An array in numpy's format. `np.load` takes four times as long, for headers that are equal in all rows."""
    version, size = content[6], 2 if content[6] == 1 else 4
    start = 8 + size + int.from_bytes(content[8 : 8 + size], "little")
    shape, fortran, dtype = _header(version, content[8:start])
    return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if fortran else "C").copy()


@functools.lru_cache(256)
def _header(version: int, header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    read = np.lib.format.read_array_header_1_0 if version == 1 else np.lib.format.read_array_header_2_0
    return read(io.BytesIO(header))
