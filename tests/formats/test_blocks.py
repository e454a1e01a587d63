"""Read in blocks, a tensor has the same elements as read whole, in every format that can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file

import milepost
from milepost.core.source import BLOCK
from milepost.errors import DamagedError, FormatError

SIZE = BLOCK // 4 * 2 + 7  # elements of float32 that fill two blocks and a bit
FLOATS = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)


def of_torch(folder: Path) -> Path:
    whole = torch.from_numpy(FLOATS)
    views = {"view": whole[5:], "strided": whole[: SIZE // 2 * 2].reshape(2, -1).T, "half": whole.bfloat16()}
    torch.save({"w": whole, **views, "conj": torch.complex(whole, whole).conj()}, folder / "x.pt")
    return folder / "x.pt"


def of_old_torch(folder: Path) -> Path:
    torch.save({"w": torch.from_numpy(FLOATS)}, folder / "x.pt", _use_new_zipfile_serialization=False)
    return folder / "x.pt"


def of_safetensors(folder: Path) -> Path:
    save_file({"w": torch.from_numpy(FLOATS), "d": torch.from_numpy(FLOATS).double()}, folder / "x.safetensors")
    return folder / "x.safetensors"


def of_numpy(folder: Path) -> Path:
    big = FLOATS.astype(">f4")
    turned = np.asfortranarray(FLOATS[: SIZE // 3 * 3].reshape(3, -1))
    np.savez(folder / "x.npz", w=FLOATS, big=big, turned=turned, c=FLOATS.astype(np.complex64))
    return folder / "x.npz"


def of_packed_numpy(folder: Path) -> Path:
    np.savez_compressed(folder / "x.npz", w=FLOATS)
    return folder / "x.npz"


def of_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file["w"] = FLOATS
        file["big"] = FLOATS.astype(">f4")
        file.create_dataset("packed", data=FLOATS, compression="gzip")
    return folder / "x.h5"


@pytest.mark.parametrize("make_file", [of_torch, of_old_torch, of_safetensors, of_numpy, of_packed_numpy, of_hdf5])
def test_blocks(make_file: Callable[[Path], Path], tmp_path: Path) -> None:
    source = milepost.open(make_file(tmp_path))
    assert source["w"].tolist() == FLOATS.tolist()
    for path in source:
        expected: npt.NDArray[Any] = source[path].reshape(-1)
        blocks = [block.copy() for block in source.blocks(path)]
        assert all(block.nbytes <= BLOCK and block.dtype == expected.dtype for block in blocks)
        assert np.concatenate(blocks).tobytes() == expected.tobytes(), path


def test_of_a_run(start_job: Callable[..., Any]) -> None:
    job = start_job()
    half = FLOATS.astype(ml_dtypes.bfloat16)
    job.save(1, {"model": {"w": FLOATS, "half": half, "small": np.arange(3), "none": np.zeros((0, 2))}})
    source = milepost.open(job.run.where)
    for path in source:
        blocks = [block.copy() for block in source.blocks(path)]
        assert b"".join(block.tobytes() for block in blocks) == source[path].tobytes()
    assert source.digest("model/w") not in (None, source.digest("model/small"))


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    file = of_safetensors(tmp_path)
    blocks = milepost.open(file).blocks("w")
    next(blocks)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises((DamagedError, FormatError)):
        list(blocks)
