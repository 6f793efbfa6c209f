"""Reading untrusted tars one member at a time, with limits, and with errors for damage.

Python's tarfile takes a damaged header, and the end of the file, for the end of the tar, and silently loses the rows
behind it. It seeks backwards for a negative size, reads past the end of the file, allocates as many bytes as a sparse
file or a long name claims, and decompresses a block of bzip2, perhaps gigabytes, at once. Of tars that were joined by
`cat` it reads the first, as webdataset and tar do; here a warning says so.
"""

import bz2
import gzip
import logging
import lzma
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from subprocess import TimeoutExpired
from typing import Any, ClassVar, NamedTuple

from webdataset.filters import pipelinefilter
from webdataset.gopen import Pipe
from webdataset.handlers import reraise_exception
from webdataset.tariterators import base_plus_ext, group_by_keys, url_opener

from open_clip_fff.data.shards import MOST_TOLD, tell_link
from open_clip_fff.errors import POINTER, POINTER_NOTE, printable

MOST_BYTES = 2**30  # of a sample's members together
MOST_HEADER = 2**20  # bytes of a long name, or of pax records
MOST_PADDING = 2**20  # bytes of zeros behind a tar's end; tar writes up to 10,240 of them by default
NO_TAR = {  # by first bytes: what is no tar, and what to do
    POINTER: POINTER_NOTE,
    b"\x28\xb5\x2f\xfd": "it is zstd, which is not read: unzstd it",
    b"PK\x03\x04": "it is a zip archive: unpack it, and open-clip-fff pack makes tars of the folder",
    b"7z\xbc\xaf\x27\x1c": "it is a 7z archive: unpack it, and open-clip-fff pack makes tars of the folder",
}
# webdataset's own, as `__index__`, and macOS's, whose `dir/._1.jpg` before each file has webdataset's key `dir/`
NO_FILE = re.compile(r"__[^/]*__($|/)|(.*/)?\._[^/]*$")
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)

Handler = Callable[[Exception], bool]


class _Parsed(NamedTuple):
    """A file's header that tarfile has parsed: the bytes that the next header may share, and their parsed fields."""

    same: bytes
    how: tuple[str, str]  # encoding and errors
    prefix: str  # of names
    fields: tuple  # mode, mtime, uid, gid, uname, gname


class Header(tarfile.TarInfo):
    """A member's header, for `tarfile.open(..., tarinfo=Header)`, that raises ReadError for damage."""

    _last: _Parsed | None = None
    _joined: ClassVar[set[str]] = set()  # tars with another one behind their end

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:  # type: ignore[override]
        """As tarfile's, in half the time where only name, size and checksum differ from the header before."""
        same, last = buf[100:124] + buf[136:148] + buf[156:], Header._last
        if last is not None and last.same == same and last.how == (encoding, errors):
            size, checksum = buf[124:135], buf[148:154]
            if buf[135:136] + buf[154:156] == b"\0\0 " and size.isdigit() and checksum.isdigit():
                with suppress(ValueError):  # an 8 or 9
                    if int(checksum, 8) == sum(buf) - sum(buf[148:156]) + 256:
                        return cls._like(last, buf[:100].split(b"\0", 1)[0].decode(encoding, errors), int(size, 8))
        made = super().frombuf(buf, encoding, errors)
        if made.type == tarfile.REGTYPE:
            prefix = buf[345:500].split(b"\0", 1)[0].decode(encoding, errors)
            fields = (made.mode, made.mtime, made.uid, made.gid, made.uname, made.gname)
            Header._last = _Parsed(same, (encoding, errors), f"{prefix}/" if prefix else "", fields)
        return made

    @classmethod
    def _like(cls, last: _Parsed, name: str, size: int) -> tarfile.TarInfo:
        made = cls(last.prefix + name)
        made.size, made.type = size, tarfile.REGTYPE
        made.mode, made.mtime, made.uid, made.gid, made.uname, made.gname = last.fields
        return made

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "Header":  # type: ignore[override]
        offset = archive.offset
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            with suppress(Exception):  # whatever is behind the end is no damage
                cls._look_behind(archive)
            raise
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            if offset == 0:
                raise  # not a tar
            raise tarfile.ReadError(f"{error} at byte {offset:,}, and what follows cannot be read") from error
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            if offset == 0:
                raise  # an empty file
            raise tarfile.ReadError(f"cut short at byte {offset:,}, between two members: a tar has an end") from error

    @classmethod
    def _look_behind(cls, archive: Any) -> None:
        """Warns of another tar behind the end of a local one, the first time in this process."""
        if not archive.name or archive.name in cls._joined or len(cls._joined) == MOST_TOLD:
            return
        blocks = iter(partial(archive.fileobj.read, tarfile.BLOCKSIZE), b"")
        block = next(filter(any, islice(blocks, MOST_PADDING // tarfile.BLOCKSIZE)), b"")
        tarfile.TarInfo.frombuf(block, archive.encoding, archive.errors)  # raises for what is no header
        cls._joined.add(archive.name)
        logging.getLogger(__name__).warning(
            f"{printable(archive.name)}: its end is at byte {archive.offset:,}, and another tar behind it is not read; "
            f"join tars by tar --concatenate, not by cat"
        )

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _LONG + _PAX and self.size > MOST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.ReadError(f"a member of {count:,} bytes")
        return super()._block(count)  # type: ignore[misc]


def tar_files(
    sources: Iterable[dict[str, Any]],
    handler: Handler = reraise_exception,
    refused: bytes | None = None,
) -> Iterator[dict[str, Any]]:
    """webdataset's `tar_file_expander`, for untrusted tars: `fname`, `data` and `__url__` of each file.

    Args:
        sources: `url` and `stream` each.
        handler: gets errors of members and tars; it raises them, or reading goes on.
        refused: replaces the content of a file that is too large or sparse; None to give `handler` an error.
    """
    for source in sources:
        try:
            for name, content in _members(source, handler, refused):
                yield {"fname": name, "data": content, "__url__": source["url"]}
        except Exception as error:
            error = _failed_program(source.get("stream")) or error
            error.args = (*error.args, source.get("stream"), source.get("url"))
            handler(error)


def _failed_program(stream: Any) -> Exception | None:
    """The error of the program that writes a tar (pipe:, https:), if its failure ended the tar; else None."""
    if isinstance(stream, Pipe):
        try:
            stream.proc.wait(timeout=1)  # longer, and it still writes: it is not the program that failed
            stream.wait_for_child()
        except TimeoutExpired:
            return None
        except OSError as error:
            return error
    return None


class _PeekableStream:
    """A stream that shows its first bytes, `start`, before they are read."""

    def __init__(self, stream: Any) -> None:
        self.start, self._stream = stream.read(64), stream

    def read(self, size: int = -1) -> bytes:
        if not self.start:
            return self._stream.read(size)
        start, self.start = self.start, b""
        if 0 <= size < len(start):
            start, self.start = start[:size], start[size:]
        return start + (self._stream.read(size - len(start)) if size >= 0 else self._stream.read())


class _CheckedEnd:
    """A stream that raises at its end, where tarfile would read on to the end of a header's size."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._over = stream, False

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        if not content and self._over:
            raise tarfile.ReadError("unexpected end of data")
        self._over = not content
        return content


def _decompressed(file: Any) -> _CheckedEnd:
    """A tar's bytes, of a `_PeekableStream`, decompressed as they are read."""
    for magic, opener in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open)):
        if file.start.startswith(magic):
            return _CheckedEnd(opener(file))
    return _CheckedEnd(file)


def _no_tar(start: bytes) -> str | None:
    """What a file that is no tar is, by its first bytes; None where they do not tell."""
    text = " ".join(start.decode(errors="ignore").split())
    page = f"it begins with {text!r}: download it again" if text and text.isprintable() else None
    return next((what for first, what in NO_TAR.items() if start.startswith(first)), page)


def _opened(stream: Any) -> Any:
    """A stream as a tar. Raises ReadError; where the stream is no tar, its message says what it is."""
    peeked = _PeekableStream(stream)
    start = peeked.start
    unpacked: Any = _decompressed(peeked)
    name = getattr(stream, "name", None)
    local = name if isinstance(name, str) else None
    try:
        return tarfile.open(local, fileobj=unpacked, mode="r|", tarinfo=Header)
    except tarfile.ReadError as error:
        raise tarfile.ReadError(_no_tar(start) or error.args[0]) from error


def is_file(tar: str, member: tarfile.TarInfo) -> bool:
    """Whether webdataset reads a member. Warns of links, which hold no data."""
    if NO_FILE.match(member.name):
        return False
    if member.islnk() or member.issym():
        tell_link(tar, member.name)
    return member.isreg()


def _members(source: dict[str, Any], handler: Handler, refused: bytes | None) -> Iterator[tuple[str, bytes]]:
    key, held, stream = None, 0, source["stream"]
    with _opened(stream) as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
            if not is_file(source["url"], member):
                continue
            before, (key, _) = key, base_plus_ext(member.name)
            held = member.size + (held if key == before else 0)
            try:
                if (why := _obstacle(member, held)) is None:
                    yield member.name, _content(archive.fileobj, member)
                elif refused is None:
                    raise ValueError(f"{member.name}: {why}")
                else:
                    yield member.name, refused
            except Exception as error:
                error.args = (f"{error.args[0] if error.args else error} @ {stream}", *error.args[1:])
                handler(error)


def _content(stream: Any, member: tarfile.TarInfo) -> bytes:
    """What `extractfile(member).read()` gives, without two files in between."""
    stream.seek(member.offset_data)
    content = stream.read(member.size)
    if len(content) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _obstacle(member: tarfile.TarInfo, held: int) -> str | None:
    """Why a member is not read; `held` counts its sample's bytes so far."""
    if member.issparse():
        return "is a sparse file"
    return f"its sample holds {held:,} bytes, and {MOST_BYTES:,} are read" if held > MOST_BYTES else None


def _samples(urls: Iterable[dict[str, Any]], handler: Handler = reraise_exception) -> Iterator[dict[str, Any]]:
    for source in url_opener(urls, handler):  # one by one: a sample ends where its tar does
        yield from group_by_keys(tar_files([source], handler), handler=handler)


tar_samples = pipelinefilter(_samples)  # webdataset's `tarfile_to_samples`
