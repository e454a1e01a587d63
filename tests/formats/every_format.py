"""Small files of every format, with tensors of any name and any shape: what no library would write."""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import tables
import torch

Shapes = dict[str, tuple[int, ...]]
FLOAT = 1


def data_of(shape: tuple[int, ...]) -> bytes:
    """Zeros for the tensor, or for its beginning if it is said to be large."""
    size = 4 * math.prod(shape)
    return bytes(size if 0 <= size <= 4096 else 4)


def torch_zip(place: Path, tensors: Shapes) -> Path:
    return _torch(place, tensors, zipped=True)


def torch_legacy(place: Path, tensors: Shapes) -> Path:
    return _torch(place, tensors, zipped=False)


def _torch(place: Path, tensors: Shapes, *, zipped: bool) -> Path:
    made = {shape: torch.zeros(1).as_strided(shape, (0,) * len(shape)) for shape in set(tensors.values())}
    state = {name: made[shape] for name, shape in tensors.items()}
    torch.save(state, place, _use_new_zipfile_serialization=zipped)
    return place


def plain_pickle(place: Path, tensors: Shapes) -> Path:
    out, arrays = bytearray(b"\x80\x02}("), {shape: _array(shape) for shape in set(tensors.values())}
    for name, shape in tensors.items():
        raw = name.encode("utf-8", "surrogatepass")
        out += b"X" + struct.pack("<I", len(raw)) + raw + arrays[shape]
    place.write_bytes(out + b"u.")
    return place


def _array(shape: tuple[int, ...]) -> bytes:
    dimensions = pickle._Pickler(sizes := io.BytesIO(), 2)  # type: ignore[attr-defined]
    dimensions.save(shape)
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    kind = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = data_of(shape)
    return head + b"(K\x01" + sizes.getvalue() + kind + b"\x89B" + struct.pack("<I", len(data)) + data + b"tb"


def safetensors(place: Path, tensors: Shapes) -> Path:
    header, at = {}, 0
    for name, shape in tensors.items():
        size = len(data_of(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    place.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(at))
    return place


def _npy(shape: tuple[int, ...]) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data_of(shape)


def npy(place: Path, tensors: Shapes) -> Path:
    place.write_bytes(_npy(next(iter(tensors.values()))))
    return place


def npz(place: Path, tensors: Shapes) -> Path:
    with zipfile.ZipFile(place, "w") as archive:
        for name, shape in tensors.items():
            archive.writestr(zipfile.ZipInfo(name + ".npy"), _npy(shape))
    return place


def flax(place: Path, tensors: Shapes) -> Path:
    out = [b"\xdf" + struct.pack(">I", len(tensors))]
    for name, shape in tensors.items():
        sizes = b"".join(b"\xd3" + struct.pack(">q", size) for size in shape)
        data, raw = data_of(shape), name.encode()
        inner = b"\x93\xdc" + struct.pack(">H", len(shape)) + sizes + b"\xa7float32\xc6"
        inner += struct.pack(">I", len(data)) + data
        length = bytes([0xA0 + len(raw)]) if len(raw) < 32 else b"\xda" + struct.pack(">H", len(raw))
        out += [length, raw, b"\xc9" + struct.pack(">I", len(inner)) + b"\x01", inner]
    place.write_bytes(b"".join(out))
    return place


def gguf(place: Path, tensors: Shapes) -> Path:
    out, at = [b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 0)], 0
    for name, shape in tensors.items():
        raw = name.encode()
        out.append(struct.pack("<Q", len(raw)) + raw + struct.pack(f"<I{len(shape)}q", len(shape), *shape[::-1]))
        out.append(struct.pack("<IQ", 0, at))
        at += -(-len(data_of(shape)) // 32) * 32
    header = b"".join(out)
    place.write_bytes(header.ljust(-(-len(header) // 32) * 32, b"\0") + bytes(at))
    return place


def onnx(place: Path, tensors: Shapes) -> Path:
    made = []
    for name, shape in tensors.items():
        dimensions = b"".join(tables.field(1, size) for size in shape)
        tensor = dimensions + tables.field(2, 1) + tables.field(8, name.encode()) + tables.field(9, data_of(shape))
        made.append(tables.field(5, tensor))
    place.write_bytes(tables.field(1, 8) + tables.field(2, b"x") + tables.field(7, b"".join(made)))
    return place


def tf_bundle(place: Path, tensors: Shapes) -> Path:
    data = max((data_of(shape) for shape in tensors.values()), key=len, default=b"")
    crcs = {len(part): tables.masked(part) for part in map(data_of, set(tensors.values()))}
    entries = [(0, b"", tables.HEADER)]
    for name, shape in sorted((name.encode(), shape) for name, shape in tensors.items()):
        size = len(data_of(shape))
        entries.append((0, name, tables.entry(FLOAT, shape, 0, size, crcs[size])))
    place.with_suffix(".index").write_bytes(tables.table([tables.block(entries)]))
    place.with_suffix(".data-00000-of-00001").write_bytes(data)
    return place.with_suffix(".index")


def hdf5(place: Path, tensors: Shapes) -> Path:
    """Tensors of one shape are one, if they are many."""
    made: dict[tuple[int, ...], bytes] = {}
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    with h5py.File(place, "w", libver="latest") as file:
        for name, shape in tensors.items():
            raw = name.encode().replace(b"\0", b"?")  # a name in HDF5 ends there
            raw = raw.strip(b"/") or b"slash"
            if shape in made and len(tensors) > 1000:
                file.id.links.create_hard(raw, file.id, made[shape], links)
                continue
            made[shape] = raw
            how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            if shape and 4 * math.prod(shape) != len(data_of(shape)):
                how.set_chunk((1,) * len(shape))
            space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
            h5py.h5d.create(file.id, raw, h5py.h5t.IEEE_F32LE, space, how, links)
    return place


def keras(place: Path, tensors: Shapes) -> Path:
    weights = hdf5(place.with_suffix(".inner"), tensors)
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
        archive.write(weights, "model.weights.h5")
    weights.unlink()
    return place


def orbax(place: Path, tensors: Shapes) -> Path:
    """Zarr files, if the tensors are few and have names that folders can have; else values that are nothing."""
    place.mkdir()
    tree = {}
    for number, (name, shape) in enumerate(tensors.items()):
        array = len(tensors) <= 100 and not set("\0/") & set(name) and len(name) < 200
        value = {"value_type": "np.ndarray" if array else "None", "skip_deserialize": not array}
        tree[str(number)] = {"key_metadata": [{"key": name, "key_type": 2}], "value_metadata": value}
        if array:
            told = {"chunks": [1] * len(shape), "compressor": None, "dimension_separator": ".", "dtype": "<f4"}
            told |= {"fill_value": None, "filters": None, "order": "C", "shape": shape, "zarr_format": 2}
            (place / name).mkdir()
            (place / name / ".zarray").write_text(json.dumps(told))
            (place / name / ".".join("0" for _ in shape or (1,))).write_bytes(bytes(4))
    (place / "_METADATA").write_text(json.dumps({"tree_metadata": tree, "use_ocdbt": False, "use_zarr3": False}))
    return place


def distributed(place: Path, tensors: Shapes) -> Path:
    """All tensors are the same bytes of one file."""
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )

    place.mkdir()
    torch.save(torch.zeros(1), raw := io.BytesIO())
    (place / "__0_0.distcp").write_bytes(raw.getvalue())
    state, storage = {}, {}
    info = _StorageInfo("__0_0.distcp", 0, len(raw.getvalue()))
    for name, shape in tensors.items():
        chunk = ChunkStorageMetadata(torch.Size([0] * len(shape)), torch.Size(shape))
        state[name] = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size(shape), [chunk])
        storage[MetadataIndex(name, [0] * len(shape))] = info
    told = Metadata(state, {name: (name,) for name in tensors}, storage)
    (place / ".metadata").write_bytes(pickle.dumps(told))
    return place


def sharded(place: Path, tensors: Shapes) -> Path:
    place.mkdir()
    safetensors(place / "m.safetensors", tensors)
    weights = dict.fromkeys(tensors, "m.safetensors")
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    return place / "model.safetensors.index.json"


FORMATS: dict[str, Callable[[Path, Shapes], Path]] = {
    made.__name__: made
    for made in (
        torch_zip, torch_legacy, plain_pickle, safetensors, npy, npz, flax, gguf, onnx, tf_bundle, hdf5, keras, orbax, distributed,
        sharded,
    )
}  # fmt: skip
