"""What was made to do harm, tried on every format alike; what only one format can have is tried where that format is:

====================================================  =================================================================
pickles that would run something                      `test_hostile_pickles`, `test_distributed`, `test_npz`, `test_training_files`
archives: flag bits, two names, duplicates, overlaps  here, `test_archive`, `test_hostile_pickles`
bombs: of zip, of chunks in HDF5 and zarr, snappy     here, `test_archive`, `test_child`, `test_orbax`, `test_hostile_tensorflow`
lengths that are wrong, files that are cut short      here (cut at every place), and the mutants of each format
shapes of 2**60, overflow beside a zero dimension     here
tensors or boxes that overlap                         `test_safetensors`, `test_distributed`, `test_hostile_tensorflow`
200,000 keys, little text that becomes many values    here
2 s and 200 MB for every answer                       here
names with ``../``, NUL, newline, of 10,000 letters   here
the same in names of other files                      `test_onnx`, `test_sharded`, `test_distributed`, `test_hdf5`
links and pipes in place of files                     here; of those that files name: the same, `test_tensorflow`, `test_orbax`
external links, storage, virtual datasets             `test_hdf5`
protocol buffers and handles of blocks                `test_hostile_tensorflow`, `test_golden_tensorflow`
deep nesting                                          here and `test_hostile_pickles`
====================================================  =================================================================
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import tables
from every_format import FORMATS, Shapes

import milepost
from milepost.errors import FormatError, MilepostError

SECONDS, BYTES = 6.0, 200e6
"""What is promised is 2 s of an undisturbed processor; tests share theirs with others."""
NAMES = ["../../etc/passwd", "a\nb\x1b[31m", "a\0b", "x" * 10_000, "~", "/", "\u202e"]
SHAPES = {
    "2**60": (1 << 60,), "2**30 thrice": (1 << 30,) * 3, "zero beside 2**60": (0, 1 << 60, 1 << 60),
    "below zero": (-1, -4), "2**63 - 1": ((1 << 63) - 1,), "40 dimensions of 2": (2,) * 40,
}  # fmt: skip


def json_of(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def nested_safetensors(place: Path) -> None:
    raw = json_of(100_000).encode()
    place.write_bytes(struct.pack("<Q", len(raw)) + raw)


def nested_keras(place: Path) -> None:
    FORMATS["keras"](place.with_suffix(".whole"), {"w": (1,)})
    with zipfile.ZipFile(place.with_suffix(".whole")) as whole, zipfile.ZipFile(place, "w") as made:
        for name in whole.namelist():
            made.writestr(name, json_of(100_000) if name == "config.json" else whole.read(name))


def nested_hdf5(place: Path) -> None:
    with h5py.File(place, "w", libver="latest") as file:
        group = file
        for _ in range(2000):
            group = group.create_group("g")


def nested_onnx(place: Path) -> None:
    graph = b""
    for _ in range(300):
        graph = tables.field(1, tables.field(5, tables.field(1, b"body") + tables.field(6, graph)))
    place.write_bytes(tables.field(1, 8) + tables.field(2, b"x") + tables.field(7, graph))


def nested_gguf(place: Path) -> None:
    inner = struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100_000
    place.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + inner)


NESTED: dict[str, Callable[[Path], object]] = {
    "safetensors": nested_safetensors, "keras": nested_keras, "hdf5": nested_hdf5, "onnx": nested_onnx, "gguf": nested_gguf,
    "flax": lambda place: place.write_bytes(b"\x81\xa1k" + b"\x91" * 500_000 + b"\xc0"),
    "plain_pickle": lambda place: place.write_bytes(b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b"."),
    "npy": lambda place: place.write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 200_000) + b"[" * 200_000),
    "sharded": lambda place: place.write_text('{"weight_map": ' + json_of(100_000) + "}"),
    "orbax": lambda place: (place.mkdir(), (place / "_METADATA").write_text('{"tree_metadata": ' + json_of(100_000) + "}")),
}  # fmt: skip


def many_nothings(place: Path) -> None:
    """Little that becomes much: an entry of nine bytes takes some two hundred in memory."""
    raw = b"{" + b",".join(b'"%07x":0' % number for number in range(3_000_000)) + b"}"
    place.write_bytes(struct.pack("<Q", len(raw)) + raw)


def many_lists(place: Path) -> None:
    place.write_bytes(b'{"weight_map":{"a":"b"},"more":[' + b",".join([b"[]"] * 5_000_000) + b"]}")


def many_words(place: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k"
    place.write_bytes(head + struct.pack("<IIQ", 9, 8, 3_000_000) + (struct.pack("<Q", 2) + b"ab") * 3_000_000)


def many_dimensions(place: Path) -> None:
    raw = b'{"a":{"dtype":"F32","shape":[' + b"1," * 20_000_000 + b'1],"data_offsets":[0,4]}}'
    place.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))


MANY: list[tuple[str, Callable[[Path], object]]] = [
    ("safetensors", many_nothings), ("safetensors", many_dimensions), ("sharded", many_lists), ("gguf", many_words),
]  # fmt: skip


@pytest.fixture(scope="module")
def answers(
    tmp_path_factory: pytest.TempPathFactory, answers_of: Callable[..., list[dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """What comes of each hostile file, and what it costs, by its name: all of them are opened by one process."""
    folder = tmp_path_factory.mktemp("hostile")
    places: dict[str, Path] = {}
    for name, write in FORMATS.items():
        cases: dict[str, Shapes] = {}
        if name != "keras":  # which has HDF5 inside
            cases |= {word: {"w": shape} for word, shape in SHAPES.items()}
        if name != "npy":
            cases["a name"] = {"fine": (1,), NAMES[0]: (1,)}
            cases["names"] = {"fine": (1,)} | dict.fromkeys(NAMES, (1,))
        if name not in ("npy", "keras", "torch_legacy", "plain_pickle", "safetensors"):  # or it is in another one
            many = {"npz": 70_000, "distributed": 20_000, "hdf5": 100_000}.get(name, 200_000)  # some are made slowly
            cases["many keys"] = {f"layer/{number:06}/kernel": (1,) for number in range(many)}
        for number, (case, tensors) in enumerate(cases.items()):
            try:
                places[f"{name}: {case}"] = write(folder / f"{name}-{number}", tensors)
            except (OverflowError, RuntimeError, ValueError, struct.error):
                continue  # there is no way to say it in this format
    for name, nested in NESTED.items():
        places[f"{name}: nested"] = folder / f"{name}-nested"
        nested(places[f"{name}: nested"])
    for name, many_of in MANY:
        places[f"{name}: {many_of.__name__}"] = folder / many_of.__name__
        many_of(folder / many_of.__name__)
    return dict(zip(places, answers_of(places.values()), strict=True))


@pytest.mark.parametrize("name", FORMATS)
def test_every_answer_is_milepost_s_own_and_costs_little(answers: dict[str, dict[str, Any]], name: str) -> None:
    mine = {case: told for case, told in answers.items() if case.startswith(f"{name}:")}
    assert len(mine) >= 2
    for case, told in mine.items():
        assert told.get("error") != "foreign", f"{case}: {told['words']}"
        assert told["seconds"] < SECONDS, f"{case}: {told}"
        assert told["memory"] < BYTES, f"{case}: {told}"


@pytest.mark.parametrize("name", ["sharded", "flax", "gguf", "onnx", "tf_bundle"])
def test_many_keys_are_shown(answers: dict[str, dict[str, Any]], name: str) -> None:
    assert answers[f"{name}: many keys"].get("tensors") == 200_000, answers[f"{name}: many keys"]


@pytest.mark.parametrize("name", FORMATS)
def test_shapes_that_cannot_be_are_refused(answers: dict[str, dict[str, Any]], name: str) -> None:
    for word in SHAPES:
        told = answers.get(f"{name}: {word}")
        assert told is None or told["refused"] != 0 or told["tensors"] == 0, f"{word}: {told}"


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "npy"])
def test_names_of_every_kind_are_shown_or_refused(answers: dict[str, dict[str, Any]], name: str) -> None:
    one, all_of_them = answers[f"{name}: a name"], answers[f"{name}: names"]
    if name == "npz":
        assert one["error"] == all_of_them["error"] == "UnsafeContentError"
        return
    assert one["paths"]
    beside = 2 if name == "keras" else 0
    assert one["tensors"] + one["plain"] == 2 + beside
    assert all_of_them["paths"]
    assert all_of_them["tensors"] + all_of_them["plain"] == 1 + len(NAMES) + beside


@pytest.mark.parametrize("name", NESTED)
def test_what_is_nested_too_deep_is_refused(answers: dict[str, dict[str, Any]], name: str) -> None:
    assert answers[f"{name}: nested"]["error"] in ("FormatError", "UnsafeContentError"), answers[f"{name}: nested"]


@pytest.mark.parametrize(("name", "many_of"), MANY)
def test_little_that_becomes_much_is_refused(
    answers: dict[str, dict[str, Any]], name: str, many_of: Callable[[Path], object]
) -> None:
    assert answers[f"{name}: {many_of.__name__}"]["error"] == "UnsafeContentError"


@pytest.mark.parametrize("name", FORMATS)
def test_files_that_are_cut_short(tmp_path: Path, name: str) -> None:
    place = FORMATS[name](tmp_path / "whole", {"a": (5,), "b": (2, 2)})
    target = next(
        (place / part for part in (".metadata", "_METADATA") if place.is_dir() and (place / part).exists()), place
    )
    whole = target.read_bytes()
    few = 8 if name in ("hdf5", "keras", "orbax") else 64
    for kept in sorted({len(whole) * part // few for part in range(few)}):
        target.write_bytes(whole[:kept])
        try:
            source = milepost.open(place)
            assert [source[path].nbytes for path in source] == [spec.nbytes for spec in source.specs.values()]
        except MilepostError:
            continue


@pytest.mark.parametrize("name", FORMATS)
def test_pipes_and_links_in_place_of_files(tmp_path: Path, name: str) -> None:
    place = FORMATS[name](tmp_path / "place", {"a": (5,)})
    (tmp_path / f"link{place.suffix}").symlink_to(place)
    if name == "tf_bundle":
        (tmp_path / "link.data-00000-of-00001").symlink_to("place.data-00000-of-00001")
    if name == "sharded":
        os.symlink(place.parent / "m.safetensors", tmp_path / "m.safetensors")
    source = milepost.open(place)
    assert set(milepost.open(tmp_path / f"link{place.suffix}")) == set(source)
    if place.is_file():
        place.unlink()
        os.mkfifo(place)
        with pytest.raises(FormatError, match="not a regular file"):
            milepost.open(place)


def packed(place: Path, inner: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytearray:
    with zipfile.ZipFile(place, "w", method) as made:
        for name, data in inner.items():
            made.writestr(name, data)
    return bytearray(place.read_bytes())


def twice(place: Path, inner: dict[str, bytes], member: str) -> None:
    place.write_bytes(
        packed(place, inner | {member[:-1] + "?": b""}).replace(member[:-1].encode() + b"?", member.encode())
    )


def bomb(place: Path, inner: dict[str, bytes], member: str) -> None:
    packed(place, inner | {member: inner[member] + bytes(80 << 20)}, zipfile.ZIP_DEFLATED)


def flagged(place: Path, inner: dict[str, bytes], member: str) -> None:
    raw = packed(place, inner)
    raw[raw.rindex(b"PK\x01\x02", 0, raw.rindex(member.encode())) + 8] |= 1
    place.write_bytes(raw)


def renamed(place: Path, inner: dict[str, bytes], member: str) -> None:
    raw = packed(place, inner)
    raw[raw.index(member.encode())] ^= 1
    place.write_bytes(raw)


@pytest.mark.parametrize("harm", [twice, bomb, flagged, renamed])
@pytest.mark.parametrize(("name", "end"), [("torch_zip", "data.pkl"), ("npz", "b.npy"), ("keras", ".weights.h5")])
def test_archives_of_every_format(
    tmp_path: Path, name: str, end: str, harm: Callable[[Path, dict[str, bytes], str], None]
) -> None:
    whole = FORMATS[name](tmp_path / "whole", {"a": (5,), "b": (2, 2)})
    with zipfile.ZipFile(whole) as archive:
        inner = {member: archive.read(member) for member in archive.namelist()}
    packed(tmp_path / "fine", inner)
    assert milepost.open(tmp_path / "fine")["b"].shape == (2, 2)
    harm(tmp_path / "evil", inner, next(member for member in inner if member.endswith(end)))
    with pytest.raises(FormatError):
        milepost.open(tmp_path / "evil")["b"]
