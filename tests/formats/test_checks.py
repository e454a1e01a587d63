"""`milepost verify` on files of other programs: a changed byte is found where a format has checksums, and else that is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from milepost.errors import FormatError
from milepost.ops.checking import Verified, verify_other
from milepost.ops.sequence import members

GOLDEN = Path(__file__).parent / "golden"
ARRAY = np.arange(5000, dtype=np.float32)


def torch_zip(folder: Path) -> Path:
    torch.save({"w": torch.from_numpy(ARRAY)}, folder / "x.pt")
    return folder / "x.pt"


def npz(folder: Path) -> Path:
    np.savez(folder / "x.npz", w=ARRAY)
    return folder / "x.npz"


def packed_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "x.npz", w=np.random.default_rng(0).integers(0, 9, 50_000, np.uint8))
    return folder / "x.npz"


def hdf5(folder: Path) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("w", data=ARRAY, fletcher32=True, chunks=(100,))
    return folder / "x.h5"


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def damaged(found: Verified) -> list[str]:
    return [one.name for one in found.damaged]


@pytest.mark.parametrize(
    ("make_file", "against", "bad"),
    [
        (torch_zip, "CRC-32", "x/data/0"),
        (npz, "CRC-32", "w.npy"),
        (packed_npz, "CRC-32", "w.npy"),
        (hdf5, "Fletcher-32", "w"),
    ],
)
def test_a_changed_byte(make_file: Callable[[Path], Path], against: str, bad: str, tmp_path: Path) -> None:
    file = make_file(tmp_path)
    seen: list[int] = []
    found = verify_other(str(file), on_block=seen.append)
    assert (damaged(found), found.against, found.unchecked) == ([], (against,), 0)
    assert sum(seen) == found.nbytes >= 5000
    flip(file, file.stat().st_size // 2)
    assert damaged(verify_other(str(file))) == [bad]
    assert not verify_other(str(file), "quick").damaged
    file.write_bytes(file.read_bytes()[:-30])
    assert damaged(verify_other(str(file), "quick")) == [file.name]


def test_tensorflow(tmp_path: Path) -> None:
    for file in (GOLDEN / "tensorflow").glob("named.*"):
        shutil.copy(file, tmp_path)
    where = str(tmp_path / "named")
    found = verify_other(where)
    assert (damaged(found), found.against) == ([], ("CRC-32C",))
    flip(tmp_path / "named.data-00000-of-00001", 5)
    assert len(damaged(verify_other(where))) == 1
    flip(tmp_path / "named.index", 20)
    assert damaged(verify_other(where)) == ["named.index"]


def test_where_there_are_no_checksums_the_structure_is_read(tmp_path: Path) -> None:
    save_file({"w": ARRAY}, tmp_path / "x.safetensors")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["w"] = ARRAY
    for name in ("x.safetensors", "x.h5"):
        found = verify_other(str(tmp_path / name))
        assert (damaged(found), found.against, found.unchecked) == ([], (), 1)
    with open(tmp_path / "x.safetensors", "r+b") as cut:
        cut.truncate(9000)
    assert damaged(verify_other(str(tmp_path / "x.safetensors"))) == ["x.safetensors"]


def test_torch_was_asked_to_write_none(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        file = torch_zip(tmp_path)
    finally:
        torch.serialization.set_crc32_options(True)
    found = verify_other(str(file))
    assert (damaged(found), found.against, found.unchecked) == ([], (), 1)


def test_a_folder_of_parts(tmp_path: Path) -> None:
    save_file({"w": ARRAY}, tmp_path / "model.safetensors")
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    found = verify_other(str(tmp_path))
    assert (found.against, found.unchecked) == (("CRC-32",), 1)
    flip(tmp_path / "optimizer.pt", 150)
    assert damaged(verify_other(str(tmp_path)))


def test_every_tensor_of_a_distributed_checkpoint(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    inner = tmp_path / "pytorch_model_fsdp_0"  # as Accelerate has it beside other files
    dcp.save(
        {"model": {"a": torch.from_numpy(ARRAY), "b": torch.ones(3)}, "step": 3}, checkpoint_id=inner, no_dist=True
    )
    torch.save({"state": {}}, tmp_path / "optimizer.bin")
    for place, paths in ((inner, {"model/a", "model/b", "step"}), (tmp_path, {"pytorch_model_fsdp_0: model/a"})):
        found = verify_other(str(place))
        assert (damaged(found), found.against, found.unchecked) == ([], ("CRC-32",), 0)
        assert paths <= {one.name for one in found.findings}
    file = next(inner.glob("*.distcp"))
    flip(file, file.read_bytes().index(ARRAY.tobytes()) + 100)
    assert damaged(verify_other(str(inner))) == ["model/a"]
    assert damaged(verify_other(str(tmp_path))) == ["pytorch_model_fsdp_0: model/a"]


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    with pytest.raises(FormatError):
        verify_other(str(tmp_path / "x"))


def test_members(tmp_path: Path) -> None:
    for step in (900, 1000, 20):
        torch.save({"w": torch.ones(2)}, tmp_path / f"step-{step}.pt")
    (tmp_path / "log.txt").write_text("hello")
    names = [f"{tmp_path}/step-{step}.pt" for step in (20, 900, 1000)]
    assert members(str(tmp_path)) == names
    assert members(names[0]) == names[:1]
    save_file({"w": ARRAY}, tmp_path / "final.safetensors")  # one more file does not make them parts of one
    assert members(str(tmp_path)) == [f"{tmp_path}/final.safetensors", *names]


def test_members_of_a_trainers_folder(tmp_path: Path) -> None:
    for folder in (tmp_path / "checkpoint-500", tmp_path / "checkpoint-1000", tmp_path):
        folder.mkdir(exist_ok=True)
        save_file({"w": ARRAY}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    assert members(str(tmp_path)) == [f"{tmp_path}/checkpoint-500", f"{tmp_path}/checkpoint-1000", str(tmp_path)]
