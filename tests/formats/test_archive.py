"""Zip archives: what zipfile and torch write is read; whatever says two things at once, or far too much, is refused."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from milepost.errors import DamagedError, FormatError, UnsafeContentError
from milepost.formats.archive import Archive, archive_of
from milepost.formats.place import File, Memory


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytearray:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.comment = comment
    return bytearray(out.getvalue())


def opened(data: bytes) -> Archive:
    return Archive(Memory(bytes(data), "file.zip"))


def refused(data: bytes, words: str, kind: type[FormatError] = UnsafeContentError) -> None:
    """Opening the archive, or the member ``a``, fails, for the reason given, and as exactly this kind of error."""
    with pytest.raises(FormatError, match=words) as caught:
        opened(data).open("a").read(0, 0)
    assert type(caught.value) is kind
    assert caught.value.where is not None
    assert caught.value.where.startswith("file.zip")


TWO = {"a": b"alpha" * 100, "b/c": bytes(range(256)) * 300}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_as_zipfile_wrote_them(method: int) -> None:
    archive = opened(zipped(TWO, method, comment=b"a comment"))
    assert list(archive) == ["a", "b/c"]
    for name, data in TWO.items():
        member = archive.open(name)
        assert member.size == len(data)
        assert member.read(0, len(data)) == data
        assert member.read(130, 17) == data[130:147]
        assert archive.read(name, 100_000) == data
    assert "d" not in archive
    with pytest.raises(FormatError, match="no member 'd'"):
        archive.open("d")
    with pytest.raises(UnsafeContentError, match="impossibly large"):
        archive.read("b/c", 1000)


def test_of_a_stored_member_only_what_is_asked_for_is_read() -> None:
    class Counted(Memory):
        asked = 0

        def read(self, offset: int, size: int) -> bytes:
            Counted.asked += size
            return super().read(offset, size)

    archive = Archive(Counted(bytes(zipped({"a": bytes(10_000_000)})), "file.zip"))
    assert archive.open("a").read(5_000_000, 10) == bytes(10)
    assert Counted.asked < 200_000


def test_an_archive_of_torch_with_its_alignment_and_data_descriptors(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "file.pt")
    file = File(str(tmp_path / "file.pt"))
    archive = archive_of(file)
    assert archive_of(file) is archive
    assert archive.read("file/data/0", 4000) == np.arange(1000, dtype=np.float32).tobytes()
    assert archive.read("file/byteorder", 10) == b"little"


def test_zip64_sizes_and_ends() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("a", "w", force_zip64=True) as member:
        member.write(b"alpha")
    assert opened(out.getvalue()).read("a", 5) == b"alpha"
    torch_like = bytearray(_with_wide_end(zipped(TWO)))
    assert opened(torch_like).read("a", 500) == TWO["a"]
    at = torch_like.rindex(b"PK\x05\x06")
    torch_like[at + 8 : at + 12] = struct.pack("<2H", 1, 1)
    refused(torch_like, "two ends that differ")


def _with_wide_end(data: bytes) -> bytes:
    """The same archive with a zip64 end as well, as torch writes it."""
    at = data.rindex(b"PK\x05\x06")
    count, size, offset = struct.unpack_from("<H2I", data, at + 10)
    wide = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)
    return bytes(data[:at]) + wide + struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1) + bytes(data[at:])


def test_more_than_65535_members() -> None:
    names = [f"{index}" for index in range(70_000)]
    assert list(opened(zipped(dict.fromkeys(names, b"")))) == names


@pytest.mark.parametrize("keep", [0, 3, 21, 22, 50, 200, 500])
def test_cut_short(keep: int) -> None:
    refused(zipped(TWO)[:keep], "no end", FormatError)


def test_what_follows_the_end_or_precedes_the_beginning() -> None:
    data = zipped(TWO)
    refused(data + b"more", "follows the archive's end")
    refused(b"before" + data, "not where its end says")
    refused(data + zipped({"a": b"other"}), "not where its end says")


def test_two_members_of_one_name() -> None:
    refused(zipped({"a": b"1", "X": b"2"}).replace(b"X", b"a"), "two members of the archive are called 'a'")


@pytest.mark.parametrize("name", ["../a", "/a", "x/../../a", "x/..", "a\0b"])
def test_names_that_lead_out_or_end_early(name: str) -> None:
    data = zipped({"X" * len(name): b"1"})
    refused(data.replace(b"X" * len(name), name.encode()), "leads out of the archive")


def test_a_second_name_in_the_extra_field() -> None:
    info = zipfile.ZipInfo("a")
    info.extra = struct.pack("<2HBI", 0x7075, 8, 1, zlib.crc32(b"a")) + b"b/c"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(info, b"1")
    refused(out.getvalue(), "has a second name")


CENTRAL = {"flags": (8, "H"), "method": (10, "H"), "crc": (16, "I"), "packed": (20, "I"), "size": (24, "I"),
           "disk": (34, "H"), "offset": (42, "I")}  # fmt: skip
LOCAL = {"flags": (6, "H"), "method": (8, "H"), "crc": (14, "I"), "packed": (18, "I"), "size": (22, "I")}


def changed(field: str, value: int, *, local: bool, method: int = zipfile.ZIP_STORED) -> bytearray:
    data = zipped(TWO, method)
    at, kind = (LOCAL if local else CENTRAL)[field]
    struct.pack_into("<" + kind, data, (0 if local else data.index(b"PK\x01\x02")) + at, value)
    return data


@pytest.mark.parametrize("flag", [0x1, 0x20, 0x40, 0x2000])
def test_flag_bits_that_readers_treat_differently(flag: int) -> None:
    refused(changed("flags", flag, local=False), "encrypted, patched or in another file", FormatError)
    refused(changed("flags", flag, local=True), "says something else of itself")
    refused(changed("flags", 0x8, local=True), "says something else of itself")


@pytest.mark.parametrize(("field", "value"), [("crc", 1), ("packed", 499), ("size", 499), ("method", 8)])
def test_a_local_header_that_differs(field: str, value: int) -> None:
    refused(changed(field, value, local=True), "says something else of itself")


def test_a_local_name_that_differs() -> None:
    data = zipped(TWO)
    data[30:31] = b"z"
    refused(data, "says something else of itself")


def test_a_method_that_is_not_known() -> None:
    refused(changed("method", 12, local=False), "packed in an unknown way", FormatError)


def test_a_member_in_another_file() -> None:
    refused(changed("disk", 1, local=False), "in another file", FormatError)


def test_members_that_overlap_or_point_elsewhere() -> None:
    second = zipped(TWO).index(b"PK\x03\x04", 4)
    refused(changed("offset", second, local=False), "overlap")
    one = zipped({"a": b"alpha"})
    one[0:4] = b"PK\x03\x05"
    refused(one, "not where the directory says", FormatError)
    refused(changed("size", 499, local=False), "of two sizes")
    data = zipped(TWO)
    struct.pack_into("<2I", data, data.index(b"PK\x01\x02") + 20, 600, 600)
    refused(data, "overlap")


def test_a_long_local_extra_field_may_not_reach_into_the_next_member() -> None:
    data = zipped(TWO)
    struct.pack_into("<H", data, 28, 40)
    refused(data, "reaches into the next")


def test_a_bomb_is_refused_by_its_claim_and_by_what_comes_out() -> None:
    bomb = changed("size", 0xFFFFFFF0, local=False, method=zipfile.ZIP_DEFLATED)
    struct.pack_into("<I", bomb, 22, 0xFFFFFFF0)
    refused(bomb, "far more than it is")
    data = zipped({"a": bytes(1_000_000)}, zipfile.ZIP_DEFLATED)
    for at in (22, data.index(b"PK\x01\x02") + 24):
        struct.pack_into("<I", data, at, 1000)
    with pytest.raises(UnsafeContentError, match="another size than was declared"):
        opened(data).read("a", 1000)
    short = zipped({"a": bytes(1000)}, zipfile.ZIP_DEFLATED)
    for at in (22, short.index(b"PK\x01\x02") + 24):
        struct.pack_into("<I", short, at, 2000)
    with pytest.raises(UnsafeContentError, match="another size than was declared"):
        opened(short).read("a", 2000)


def test_a_deflated_member_that_was_changed() -> None:
    data = zipped(TWO, zipfile.ZIP_DEFLATED)
    for at in (14, data.index(b"PK\x01\x02") + 16):
        struct.pack_into("<I", data, at, 1)
    with pytest.raises(DamagedError, match="differs from its checksum"):
        opened(data).read("a", 500)


def test_an_archive_in_parts_and_a_directory_of_other_length() -> None:
    data = zipped(TWO)
    end = data.rindex(b"PK\x05\x06")
    several = bytearray(data)
    struct.pack_into("<H", several, end + 4, 1)
    refused(several, "several parts", FormatError)
    more = bytearray(data)
    struct.pack_into("<2H", more, end + 8, 3, 3)
    refused(more, "cut short", FormatError)
    fewer = bytearray(data)
    struct.pack_into("<2H", fewer, end + 8, 1, 1)
    refused(fewer, "cut short", FormatError)
