"""Zip archives as this library reads them: every member has one name, one place and one size, or the archive is refused.

After PKWARE's APPNOTE 6.3.10. Readers differ in which of two contradicting records they believe, and files are made that show one
thing to a scanner and another to a framework. Here the central directory and the local headers have to agree, names are unique,
members lie one after the other and do not overlap, and nothing is inflated beyond the size that was declared.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from copy import copy
from itertools import pairwise
from typing import NamedTuple

from milepost.errors import DamagedError, FormatError, UnsafeContentError
from milepost.formats import bounds
from milepost.formats.place import Ahead, File, Readable, Window

MAGIC = b"PK\x03\x04"
MOST, LARGEST_DIRECTORY = 100_000, 32 * 1024 * 1024
"""Members, and bytes of the central directory; each has about a hundred in it."""
LARGEST_INFLATED = 1024 * 1024 * 1024
"""Bytes that a member may be inflated to when it is more than `HIGHEST_RATIO` times its size in the file."""
HIGHEST_RATIO = 200
IO_PIECE = 1024 * 1024

_END, _END64, _LOCATOR64, _CENTRAL, _LOCAL = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02", b"PK\x03\x04"
_LONGEST_COMMENT = 65535
_FIELDS = struct.Struct("<4s6H3I5H2I")  # the central directory's, as far as they have a fixed size
_LOCAL_FIELDS = struct.Struct("<4s5H3I2H")
_STORED, _DEFLATED = 0, 8
_WIDE, _UNICODE_NAME = 0x0001, 0x7075  # extra fields
_DESCRIPTOR, _UTF8 = 0x0008, 0x0800
_ALLOWED_FLAGS = 0x0002 | 0x0004 | _DESCRIPTOR | _UTF8
"""How hard was compressed, sizes behind the data, names in UTF-8. The others encrypt or patch the data, or hide the directory."""


class Member(NamedTuple):
    """One member: its sizes in the file and unpacked, where its local header is and where the next thing begins."""

    name: str
    method: int
    flags: int
    crc: int
    packed: int
    size: int
    header: int
    limit: int


def archive_of(file: File) -> Archive:
    """The archive that all of `file` is, read once however many formats ask; raises as `Archive` does."""
    found = file.memo.get(Archive)
    if found is None:
        found = file.memo[Archive] = Archive(file)
    assert isinstance(found, Archive)
    return found


class Archive:
    """The members of a zip archive, its central directory read and checked.

    Args:
        source: all of the archive.

    Raises:
        FormatError: not an archive, cut short, encrypted or in several parts.
        UnsafeContentError: it says two things at once.
    """

    def __init__(self, source: Readable) -> None:
        self.source = source
        offset, size, count = _end(source)
        if size > bounds.most(LARGEST_DIRECTORY) or count > bounds.most(MOST):
            found = f"{count:,} members, listed in {size:,} bytes"
            raise bounds.too_much("the archive has more members than are read", source.where, bound=MOST, found=found)
        self._directory = source.read(offset, size)
        self._entries: dict[str, int] = {}
        self._offsets: array[int] = array("Q")
        self._read_directory(count, offset)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def ahead(self) -> Archive:
        """The same archive for looking at the beginning of many members, one after the other."""
        other = copy(self)
        other.source = Ahead(self.source)
        return other

    def member(self, name: str) -> Member:
        """What the directory says of `name`.

        Raises:
            FormatError: there is no such member, or its fields cannot be.
        """
        at = self._entries.get(name)
        if at is None:
            raise FormatError(f"the archive has no member {_short(name)!r}", where=self.source.where)
        fields = _FIELDS.unpack_from(self._directory, at)
        flags, method, crc, packed, size, header = *fields[3:5], *fields[7:10], fields[16]
        if 0xFFFFFFFF in (packed, size, header):
            extra = at + _FIELDS.size + fields[10]
            packed, size, header = _wide(self._directory[extra : extra + fields[11]], packed, size, header)
        return Member(name, method, flags, crc, packed, size, header, self._after(header))

    def open(self, name: str) -> Readable:
        """The content of member `name`; of one that is stored, only what is asked for is read.

        Raises:
            FormatError: there is no such member, it is packed in another way than deflate, or is cut short.
            UnsafeContentError: its local header says something else than the directory, or it unpacks to far too much.
        """
        member = self.member(name)
        data = self._data(member)
        where = f"{self.source.where}: {_short(name)}"
        if member.method == _STORED:
            return Window(self.source, data, member.size, where)
        if member.size > LARGEST_INFLATED and member.size > HIGHEST_RATIO * member.packed:
            raise UnsafeContentError(
                "a member of the archive unpacks to far more than it is",
                where=where,
                found=f"{member.packed} bytes that are said to be {member.size}",
            )
        return _Inflated(Window(self.source, data, member.packed, where), member.size, member.crc)

    def read(self, name: str, most: int) -> bytes:
        """All of member `name`, which may have at most `most` bytes; raises as `open` does."""
        found = self.open(name)
        if found.size > most:
            raise UnsafeContentError(
                "a member of the archive is impossibly large",
                where=found.where,
                expected=f"at most {most} bytes",
                found=f"{found.size} bytes",
            )
        return found.read(0, found.size)

    def check(self, name: str, on_block: Callable[[int], None]) -> None:
        """Compare all of member `name` with its CRC-32; `on_block` is told the number of bytes after each piece.

        Raises:
            DamagedError: it differs.
            others as `open`.
        """
        found = self.open(name)
        crc = size = 0
        for piece in found.pieces() if isinstance(found, _Inflated) else _stored(found):
            crc, size = zlib.crc32(piece, crc), size + len(piece)
            on_block(len(piece))
        member = self.member(name)
        if size != found.size or crc != member.crc:
            raise DamagedError(
                "a member of the archive differs from its checksum",
                where=found.where,
                expected=f"CRC-32 {member.crc:08x}",
                found=f"{crc:08x}",
            )

    def _read_directory(self, count: int, offset: int) -> None:
        """Names and offsets of all members; that no two overlap."""
        directory, where = self._directory, self.source.where
        at, end = 0, len(directory)
        spans = []
        for _ in range(min(count, end // _FIELDS.size)):
            if at + _FIELDS.size > end:
                break
            fields = _FIELDS.unpack_from(directory, at)
            name_end = at + _FIELDS.size + fields[10]
            following = name_end + fields[11] + fields[12]
            if fields[0] != _CENTRAL or following > end:
                raise FormatError("the archive's directory cannot be read", where=where)
            extra = directory[name_end : name_end + fields[11]]
            raw = directory[at + _FIELDS.size : name_end]
            name = _name(raw, fields[3], where)
            if _field(extra, _UNICODE_NAME) is not None:
                raise UnsafeContentError(f"member {_short(name)!r} has a second name", where=where)
            if fields[3] & ~_ALLOWED_FLAGS or fields[13]:
                raise FormatError(
                    f"member {_short(name)!r} is encrypted, patched or in another file",
                    where=where,
                    found=f"flags {fields[3]:#x}",
                )
            if name in self._entries:
                raise UnsafeContentError(
                    f"two members of the archive are called {_short(name)!r}",
                    where=where,
                    hint="readers differ in which of them they take; have the file saved again",
                )
            self._entries[name] = at
            packed, size, header = fields[8], fields[9], fields[16]
            if 0xFFFFFFFF in (packed, size, header):
                packed, size, header = _wide(extra, packed, size, header)
            if fields[4] == _STORED and packed != size:
                raise UnsafeContentError(f"member {_short(name)!r} is stored, and of two sizes", where=where)
            spans.append((header, header + _LOCAL_FIELDS.size + len(raw) + packed))
            at = following
        if len(self._entries) != count or at != end:
            raise FormatError(
                "the archive's directory is cut short",
                where=where,
                expected=f"{count} members",
                found=str(len(self._entries)),
            )
        spans.sort()
        if any(one[1] > other[0] for one, other in pairwise(spans)) or (spans and spans[-1][1] > offset):
            raise UnsafeContentError("members of the archive overlap", where=where)
        self._offsets = array("Q", [header for header, _ in spans] + [offset])

    def _after(self, header: int) -> int:
        """Where the first thing behind the local header at `header` begins."""
        return self._offsets[bisect_right(self._offsets, header)]

    def _data(self, member: Member) -> int:
        """Where the data of `member` begin: its local header is read, and has to agree with the directory."""
        where = f"{self.source.where}: {_short(member.name)}"
        if member.method not in (_STORED, _DEFLATED):
            raise FormatError(
                "a member of the archive is packed in an unknown way", where=where, found=f"method {member.method}"
            )
        raw = self.source.read(member.header, _LOCAL_FIELDS.size)
        magic, _, flags, method, _, _, crc, packed, size, name_size, extra_size = _LOCAL_FIELDS.unpack(raw)
        if magic != _LOCAL:
            raise FormatError("a member of the archive is not where the directory says", where=where)
        rest = self.source.read(member.header + _LOCAL_FIELDS.size, name_size + extra_size)
        data: int = member.header + _LOCAL_FIELDS.size + name_size + extra_size
        if 0xFFFFFFFF in (packed, size):
            packed, size, _ = _wide(rest[name_size:], packed, size, 0)
        same = _name(rest[:name_size], flags, where) == member.name and method == member.method
        if flags & _DESCRIPTOR:
            same &= packed in (0, member.packed) and size in (0, member.size)
        else:
            same &= (packed, size, crc) == (member.packed, member.size, member.crc)
        if not same or (flags ^ member.flags) & ~(_ALLOWED_FLAGS & ~_DESCRIPTOR):
            raise UnsafeContentError(
                "a member of the archive says something else of itself than the directory",
                where=where,
                hint="readers differ in which of the two they believe; have the file saved again",
            )
        if data + member.packed > member.limit:
            raise UnsafeContentError("a member of the archive reaches into the next", where=where)
        return data


def _stored(source: Readable) -> Iterator[memoryview]:
    room = memoryview(bytearray(IO_PIECE))
    for start in range(0, source.size, IO_PIECE):
        piece = room[: source.size - start]
        source.read_into(start, piece)
        yield piece


class _Inflated:
    """A deflated member. What is asked for is inflated from its beginning, and never more than was declared."""

    def __init__(self, packed: Window, size: int, crc: int) -> None:
        self.where, self.size = packed.where, size
        self._packed, self._crc = packed, crc

    def read(self, offset: int, size: int) -> bytes:
        out = bytearray(size)
        self.read_into(offset, memoryview(out))
        return bytes(out)

    def read_into(self, offset: int, out: memoryview) -> None:
        if not 0 <= offset <= offset + len(out) <= self.size:
            raise FormatError("a member of the archive is shorter than is asked for", where=self.where)
        done, stop, crc = 0, offset + len(out), 0
        for piece in self.pieces():
            low, high = max(offset, done), min(stop, done + len(piece))
            if low < high:
                out[low - offset : high - offset] = piece[low - done : high - done]
            done += len(piece)
            crc = zlib.crc32(piece, crc)
            if done >= stop and stop < self.size:
                return
        if done != self.size:
            raise UnsafeContentError(
                "a member of the archive unpacks to another size than was declared", where=self.where
            )
        if crc != self._crc:
            raise DamagedError("a member of the archive differs from its checksum", where=self.where)

    def pieces(self) -> Iterator[bytes]:
        """The inflated bytes, one more than was declared at most."""
        inflate = zlib.decompressobj(-15)
        left, at, waiting = self.size + 1, 0, b""
        while left and not inflate.eof:
            if not waiting:
                size = min(IO_PIECE, self._packed.size - at)
                if not size:
                    return  # cut short, which the number of bytes tells
                waiting = self._packed.read(at, size)
                at += size
            piece = inflate.decompress(waiting, min(left, IO_PIECE))
            waiting = inflate.unconsumed_tail
            left -= len(piece)
            yield piece


def _end(source: Readable) -> tuple[int, int, int]:
    """Offset and size of the central directory, and the number of its entries."""
    start = max(0, source.size - 22 - _LONGEST_COMMENT)
    tail = source.read(start, source.size - start)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        raise FormatError("the archive has no end: it is cut short", where=source.where)
    disk, first, here, count, size, offset, comment = struct.unpack_from("<4H2IH", tail, at + 4)
    if len(tail) - at != 22 + comment:
        raise UnsafeContentError("something follows the archive's end", where=source.where)
    end = start + at
    if at >= 20 and tail.startswith(_LOCATOR64, at - 20):
        (record_at,) = struct.unpack_from("<Q", tail, at - 12)
        record = source.read(record_at, 56)
        if record[:4] != _END64 or record_at + 12 + int.from_bytes(record[4:12], "little") != end - 20:
            raise FormatError("the archive's directory cannot be found", where=source.where)
        narrow, end = (count, size, offset), record_at
        disk, first, here, count, size, offset = struct.unpack_from("<2I4Q", record, 16)
        for wide, short, most in zip((count, size, offset), narrow, (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF), strict=True):
            if short not in (wide, most):
                raise UnsafeContentError("the archive has two ends that differ", where=source.where)
    if disk or first or here != count:
        raise FormatError("the archive is in several parts", where=source.where)
    if offset + size != end:
        raise UnsafeContentError(
            "the archive's directory is not where its end says",
            where=source.where,
            expected=f"{end}",
            found=f"{offset + size}",
        )
    return offset, size, count


def _wide(extra: bytes, packed: int, size: int, header: int) -> tuple[int, int, int]:
    """The sizes and offset of a member that need 64 bits: those of 0xFFFFFFFF are in the extra field, in this order."""
    wide = _field(extra, _WIDE) or b""
    numbers = iter(struct.unpack_from(f"<{len(wide) // 8}Q", wide))
    size, packed, header = (next(numbers, value) if value == 0xFFFFFFFF else value for value in (size, packed, header))
    return packed, size, header


def _field(extra: bytes, tag: int) -> bytes | None:
    """What stands under `tag` in an extra field, or None."""
    at = 0
    while at + 4 <= len(extra):
        found, length = struct.unpack_from("<2H", extra, at)
        if found == tag:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return None


def _name(raw: bytes, flags: int, where: str) -> str:
    try:
        name = raw.decode("utf-8" if flags & _UTF8 or raw.isascii() else "cp437")
    except UnicodeDecodeError:
        raise FormatError("the name of a member is not UTF-8", where=where, found=repr(raw[:100])) from None
    if "\0" in name or name.startswith(("/", "../")) or "/../" in name or name.endswith("/.."):
        raise UnsafeContentError("the name of a member leads out of the archive", where=where, found=ascii(name[:100]))
    return name


def _short(name: str) -> str:
    return name if len(name) <= 100 else name[:99] + "…"
