"""PyTorch files against torch.load: every form of file, every type, views, and objects whose classes are not there."""
# ruff: noqa: E501

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import milepost
from milepost.core.foreign import Foreign
from milepost.core.source import TensorSource
from milepost.errors import FormatError, UnsafeContentError

Save = Callable[[Any, Path], None]


def zipped(value: Any, path: Path) -> None:
    torch.save(value, path)


def legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def newest(value: Any, path: Path) -> None:
    torch.save(value, path, pickle_protocol=5)


def legacy_text(value: Any, path: Path) -> None:
    torch.save(value, path, pickle_protocol=1, _use_new_zipfile_serialization=False)


every_form = pytest.mark.parametrize("save", [zipped, newest, legacy, legacy_text])


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., TensorSource]:
    def make(value: Any, save: Save = zipped) -> TensorSource:
        save(value, tmp_path / "file.pt")
        return milepost.open(tmp_path / "file.pt")

    return make


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def same(source: TensorSource, path: str, tensor: torch.Tensor) -> None:
    tensor = tensor.detach().resolve_conj().resolve_neg()
    assert source.specs[path].shape == tuple(tensor.shape)
    assert source[path].tobytes() == raw(tensor)


NAMES = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool",
    "complex64", "complex128", "complex32", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
]  # fmt: skip


@every_form
@pytest.mark.parametrize("name", NAMES)
def test_every_type(saved: Callable[..., TensorSource], save: Save, name: str) -> None:
    kind = getattr(torch, name)
    bits = torch.randint(0, 2 if name == "bool" else 120, (2, 3, kind.itemsize), dtype=torch.uint8)
    tensor = bits.view(kind).reshape(2, 3)
    source = saved({"t": tensor}, save)
    assert source.specs["t"].dtype.name == name
    same(source, "t", tensor)
    if source.specs["t"].dtype.numpy is not None:
        assert source["t"].shape == (2, 3)


@every_form
def test_views_share_a_storage_and_come_out_in_order(saved: Callable[..., TensorSource], save: Save) -> None:
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    views = {
        "base": base, "part": base[1:, 2], "turned": base.permute(2, 0, 1), "steps": base[:, ::2, 1::3], "last": base[-1, -1, -1],
        "repeated": base[0, 0, :1].expand(7, 3, 1), "none": base[:0], "as_strided": base.as_strided((3, 3), (1, 2), 4),
        "channels": torch.arange(48.0).reshape(1, 3, 4, 4).to(memory_format=torch.channels_last), "half": base.view(torch.int32)[0]
        if save in (newest,) else base[0],
    }  # fmt: skip
    if save is newest:
        views.pop("half")  # torch refuses to save two types over one storage
    source = saved(views, save)
    for name, tensor in views.items():
        same(source, name, tensor)


@every_form
def test_what_training_saves(saved: Callable[..., TensorSource], save: Save) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    state = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "epoch": 3,
        "global_step": 70, "rng": torch.get_rng_state(), "numpy": np.random.default_rng(0).random(5), "best": np.float64(0.5),
        "device": torch.device("cuda:0"), "kind": torch.bfloat16, "size": torch.Size([1, 2]), "done": {1, 2}, "path": Path("a/b"),
        "parameter": torch.nn.Parameter(torch.ones(2)), "empty": {}, "none": None, 7: "seven",
    }  # fmt: skip
    source = saved(state, save)
    for name, tensor in model.state_dict().items():
        same(source, f"model/{name}", tensor)
    for index, entry in optimizer.state_dict()["state"].items():
        for name, tensor in entry.items():
            same(source, f"optimizer/state/{index}/{name}", tensor)
    same(source, "rng", state["rng"])
    same(source, "parameter", state["parameter"])
    np.testing.assert_array_equal(source["numpy"], state["numpy"])
    plain = source.plain
    assert (source.metadata["epoch"], source.metadata["step"]) == (3, 70)
    assert plain["optimizer/param_groups/0/lr"] == pytest.approx(optimizer.param_groups[0]["lr"])
    assert plain["best"] == np.float64(0.5)
    assert plain["device"] == Foreign("torch.device", "cuda:0")
    assert plain["kind"] == Foreign("torch.dtype", "bfloat16")
    assert (plain["size/0"], plain["size/1"], plain["done"], plain["7"]) == (1, 2, {1, 2}, "seven")
    assert (plain["empty"], plain["none"], str(plain["path"])) == ({}, None, "a/b")


@every_form
def test_a_tensor_by_itself_and_a_plain_value(saved: Callable[..., TensorSource], save: Save) -> None:
    same(saved(torch.arange(3), save), "tensor", torch.arange(3))
    assert saved(5, save).plain == {"value": 5}
    same(saved([torch.arange(3), 1], save), "0", torch.arange(3))


def test_conjugate_and_negative_views(saved: Callable[..., TensorSource]) -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j])
    for view in (tensor.conj(), tensor.conj().imag):
        assert view.is_conj() or view.is_neg()
        source = saved({"t": view})
        same(source, "t", view)


@every_form
def test_quantized_tensors_are_their_whole_numbers_and_what_these_mean(
    saved: Callable[..., TensorSource], save: Save
) -> None:
    weight = torch.randn(3, 4)
    tensor = torch.quantize_per_tensor(weight, 0.1, 3, torch.qint8)
    channels = torch.quantize_per_channel(
        weight, torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 2]), 0, torch.quint8
    )
    source = saved({"t": tensor, "c": channels}, save)
    same(source, "t", tensor.int_repr())
    same(source, "c", channels.int_repr())
    assert (source.plain["t~scale"], source.plain["t~zero_point"], source.plain["t~qscheme"]) == (
        0.1,
        3,
        "per_tensor_affine",
    )
    values = (source["t"].astype(np.float32) - 3) * np.float32(0.1)
    np.testing.assert_allclose(values, tensor.dequantize().numpy(), rtol=1e-6)
    same(source, "c~scales", channels.q_per_channel_scales())
    assert source.plain["c~axis"] == 0


@pytest.mark.filterwarnings("ignore:Sparse")
@every_form
def test_sparse_tensors_are_their_parts(saved: Callable[..., TensorSource], save: Save) -> None:
    dense = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    coo = dense.to_sparse()
    source = saved({"coo": coo, "csr": dense.to_sparse_csr(), "csc": dense.to_sparse_csc()}, save)
    same(source, "coo~indices", coo.indices())
    same(source, "coo~values", coo.values())
    assert [source.plain[f"coo~size/{axis}"] for axis in (0, 1)] == [2, 2]
    assert source.plain["coo~layout"] == "sparse_coo"
    same(source, "csr~crow_indices", dense.to_sparse_csr().crow_indices())
    same(source, "csc~row_indices", dense.to_sparse_csc().row_indices())


def test_meta_tensors_have_no_data(saved: Callable[..., TensorSource]) -> None:
    found = saved({"t": torch.empty(3, device="meta")}).plain["t"]
    assert found == Foreign("torch.Tensor", {"device": "meta", "shape": [3]})


class Marked(torch.Tensor):
    pass


def test_subclasses_and_attributes(saved: Callable[..., TensorSource]) -> None:
    tensor = torch.arange(3.0).as_subclass(Marked)
    tensor.note = "kept"
    source = saved({"t": tensor})
    same(source, "t", torch.arange(3.0))
    assert source.plain["t/note~attribute"] == "kept"


class Config:
    def __init__(self) -> None:
        self.lr, self.weight, self.inner = 0.1, torch.arange(3), collections.OrderedDict(a=1)


@every_form
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_objects_are_shown_by_class_and_fields(saved: Callable[..., TensorSource], save: Save) -> None:
    config = Config()
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    source = saved({"config": config, "again": config, "model": model}, save)
    assert source.plain["config/~class"] == f"{__name__}:Config"
    assert source.plain["config/lr"] == 0.1
    assert source.plain["config/inner/a"] == 1
    same(source, "config/weight", config.weight)
    assert source.plain["again"] == Foreign("python.same", "config")
    same(source, "model/0/weight", model[0].weight)
    assert source.plain["model/0/~class"] == "torch.nn.modules.linear:Linear"
    assert source.plain["model/0/in_features"] == 2


def test_cuda_storages(tmp_path: Path) -> None:
    torch.save({"t": torch.arange(4.0)}, tmp_path / "cpu.pt")
    with zipfile.ZipFile(tmp_path / "cpu.pt") as archive, zipfile.ZipFile(tmp_path / "cuda.pt", "w") as out:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith("data.pkl"):
                data = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:1")
                assert b"cuda:1" in data
            out.writestr(name, data)
    same(milepost.open(tmp_path / "cuda.pt"), "t", torch.arange(4.0))
    data = saved_bytes({"t": torch.arange(4.0)}, _use_new_zipfile_serialization=False)
    for old, new in (
        (b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:1"),
        (b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage"),
    ):
        assert old in data
        data = data.replace(old, new)
    (tmp_path / "legacy.pt").write_bytes(data)
    same(milepost.open(tmp_path / "legacy.pt"), "t", torch.arange(4.0))


@pytest.mark.parametrize("name", ["float32", "int16", "complex64", "bfloat16", "uint8"])
def test_big_endian_files(tmp_path: Path, name: str) -> None:
    tensor = torch.arange(6).to(getattr(torch, name)).reshape(2, 3)
    torch.save({"t": tensor}, tmp_path / "little.pt")
    size = tensor.element_size() // (2 if tensor.is_complex() else 1)
    with zipfile.ZipFile(tmp_path / "little.pt") as archive, zipfile.ZipFile(tmp_path / "big.pt", "w") as out:
        for member in archive.namelist():
            data = archive.read(member)
            if member.endswith("data/0"):
                data = np.frombuffer(data, np.uint8).reshape(-1, size)[:, ::-1].tobytes()
            out.writestr(member, b"big" if member.endswith("byteorder") else data)
    same(milepost.open(tmp_path / "big.pt"), "t", tensor)


def test_storage_alignment_and_a_deflated_archive(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(5.0), "b": torch.arange(7)}
    with zipfile.ZipFile(io.BytesIO(saved_bytes(tensors))) as archive:
        names = archive.namelist()
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with zipfile.ZipFile(tmp_path / "file.pt", "w", method) as out:
                for name in names:
                    out.writestr(name, archive.read(name))
            source = milepost.open(tmp_path / "file.pt")
            for name, tensor in tensors.items():
                same(source, name, tensor)


def saved_bytes(value: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(3, 2)
            self.sizes = [1, 2]
            self.register_buffer("table", torch.arange(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) + torch.tensor([1.0, 2.0])

    net = Net()
    torch.jit.trace(net, torch.ones(1, 3)).save(str(tmp_path / "traced.pt"))
    source = milepost.open(tmp_path / "traced.pt")
    assert source.metadata["format"] == "a TorchScript archive"
    same(source, "fc/weight", net.fc.weight)
    same(source, "table", net.table)
    assert any(path.startswith("constants") for path in source)
    torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 4))).save(str(tmp_path / "scripted.pt"))
    assert list(milepost.open(tmp_path / "scripted.pt")) == ["0/weight", "0/bias"]


def test_storages_pickled_by_themselves(tmp_path: Path) -> None:
    (tmp_path / "file.pkl").write_bytes(pickle.dumps({"t": torch.arange(6.0).reshape(2, 3).t(), "n": 1}))
    source = milepost.open(tmp_path / "file.pkl")
    assert source.metadata["format"] == "a pickle"
    same(source, "t", torch.arange(6.0).reshape(2, 3).t())
    assert source.plain["n"] == 1


def test_lightning_tells_who_and_where(tmp_path: Path) -> None:
    torch.save(
        {"pytorch-lightning_version": "2.6.6", "epoch": 1, "global_step": 40, "state_dict": {"w": torch.ones(1)}}, tmp_path / "a.ckpt"
    )  # fmt: skip
    source = milepost.open(tmp_path / "a.ckpt")
    assert source.metadata["written_by"] == {"Lightning": "2.6.6"}
    assert (source.metadata["step"], source.metadata["epoch"]) == (40, 1)


def test_the_oldest_form_is_refused_by_name(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "old.pt", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(FormatError, match="of the oldest kind, a tar archive"):
        milepost.open(tmp_path / "old.pt")


@pytest.mark.parametrize("save", [zipped, legacy])
def test_one_tensor_costs_one_tensor(tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    from milepost.formats.place import File

    save({"big": torch.zeros(5_000_000), "small": torch.arange(3)}, tmp_path / "file.pt")
    asked: list[int] = []
    real = File.read_into

    def counted(self: File, offset: int, out: memoryview) -> None:
        asked.append(len(out))
        real(self, offset, out)

    monkeypatch.setattr(File, "read_into", counted)
    source = milepost.open(tmp_path / "file.pt")
    assert source["small"].tolist() == [0, 1, 2]
    assert sum(asked) < 2_000_000
    assert source["big"].nbytes == 20_000_000


def rewritten(tmp_path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None], value: Any = None) -> Path:
    """A file of torch with its members changed."""
    data = saved_bytes({"t": torch.arange(4.0)} if value is None else value)
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(tmp_path / "file.pt", "w") as out:
        for name in archive.namelist():
            changed = change(name, archive.read(name))
            if changed is not None:
                out.writestr(*changed)
    return tmp_path / "file.pt"


def data_with(old: bytes, new: bytes) -> Callable[[str, bytes], tuple[str, bytes]]:
    def change(name: str, data: bytes) -> tuple[str, bytes]:
        if name.endswith("data.pkl"):
            assert old in data
            return name, data.replace(old, new)
        return name, data

    return change


WRONG: list[tuple[Callable[[str, bytes], Any], str]] = [
    (lambda name, data: None if name.endswith("data/0") else (name, data), "no member"),
    (lambda name, data: None if name.endswith("data.pkl") else (name, data), "of a kind that is not read"),
    (lambda name, data: (name, data[:-1] if name.endswith("data/0") else data), "another size"),
    (lambda name, data: (name, data + b"N." if name.endswith("data.pkl") else data), "something follows the pickle"),
    (lambda name, data: (name, b"middle" if name.endswith("byteorder") else data), "unknown byte order"),
    (lambda name, data: (name, data[:-9] if name.endswith("data.pkl") else data), "cut short"),
    (lambda name, data: (name.replace(".format_version", "DATA.PKL"), data), "differ by case"),
    (data_with(b"K\x04\x85q", b"K\x05\x85q"), "beyond its storage"),
    (data_with(b"K\x00K\x04\x85", b"K\x01K\x04\x85"), "beyond its storage"),
    (data_with(b"K\x00K\x04\x85", b"J\xff\xff\xff\xffK\x04\x85"), "described in a way"),
    (data_with(b"K\x04\x85q", b"\x8a\x08\0\0\0\0\0\0\0\x10\x85q"), "beyond its storage"),
    (data_with(b"FloatStorage", b"FlootStorage"), "kind that is not known"),
    (data_with(b"X\x01\x00\x00\x000q", b"X\x06\x00\x00\x00../../q"), "no member"),
    (data_with(b"K\x01\x85q", b"K\x00\x85q"), "^$"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_files_that_are_wrong(tmp_path: Path, change: Callable[[str, bytes], Any], words: str) -> None:
    path = rewritten(tmp_path, change)
    if words == "^$":  # a stride of 0 is a view like others
        assert milepost.open(path)["t"].tolist() == [0, 0, 0, 0]
        return
    with pytest.raises(FormatError, match=words):
        milepost.open(path)


def test_little_that_is_said_to_be_very_much(tmp_path: Path) -> None:
    path = rewritten(tmp_path, lambda name, data: (name, data), {"t": torch.zeros(1).expand(2**40)})
    with pytest.raises(UnsafeContentError, match="repeats little into far too much"):
        milepost.open(path)


@pytest.mark.parametrize("keep", [0, 1, 20, 100, 300, 500])
def test_legacy_files_cut_short(tmp_path: Path, keep: int) -> None:
    data = saved_bytes({"t": torch.arange(100.0)}, _use_new_zipfile_serialization=False)
    (tmp_path / "file.pt").write_bytes(data[:keep])
    with pytest.raises(FormatError):
        milepost.open(tmp_path / "file.pt")


def test_legacy_lengths_that_differ(tmp_path: Path) -> None:
    data = bytearray(saved_bytes({"t": torch.arange(100.0)}, _use_new_zipfile_serialization=False))
    data[-408] += 1
    (tmp_path / "file.pt").write_bytes(data)
    with pytest.raises(FormatError, match="another size than the pickle says"):
        milepost.open(tmp_path / "file.pt")
