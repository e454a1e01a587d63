"""Which format a file or folder is in, by what is in it rather than by its name.

A format is a module below `milepost.formats` with the members of `FormatModule`. Its line in `FORMATS` says which files and folders
are worth asking it about, so that modules are imported only then.
"""

from __future__ import annotations

import importlib
from fnmatch import fnmatchcase
from typing import NamedTuple, Protocol, cast

from milepost.core.source import TensorSource
from milepost.formats.place import File, Folder, look
from milepost.formats.source import parsing


class FormatModule(Protocol):
    """What a module of a format offers."""

    NAME: str
    """What it is, for people, with its article: "a safetensors file"."""

    def recognises(self, place: File | Folder) -> bool:
        """Whether `place` is one: a quick look at a file's first (or last) bytes, or at the names in a folder. True also for
        one that is damaged or of a version that cannot be read, which `open_source` then says."""

    def open_source(self, place: File | Folder) -> TensorSource:
        """Read the header or index of `place`, for which `recognises` was true.

        Raises:
            FormatError: it is damaged, or of a kind that is not read.
            UnsafeContentError: it was made to do harm.
        """


class Format(NamedTuple):
    """A format, and which places may be in it."""

    module: str
    starts: tuple[bytes, ...] = ()
    """How a file may begin; ``b""`` where that says nothing."""
    holds: tuple[str, ...] = ()
    """Names of which a folder holds at least one; ``*`` and ``?`` stand for any."""


MODEL_FILES = (
    "*.safetensors", "*.safetensors.index*.json", "*.bin.index*.json", "pytorch_model*.bin", "diffusion_pytorch_model*.bin",
    "adapter_model.bin", "trainer_state.json", "optimizer.bin", "optimizer.pt", "random_states_*.pkl", "*mp_rank_*_model_states.pt",
)  # fmt: skip
"""What is in the folders of Hugging Face's libraries, and of DeepSpeed."""

FORMATS: tuple[Format, ...] = (
    Format("safetensors", starts=(b"",)),
    Format("distributed", holds=(".metadata", "*.distcp")),
    Format("model_folder", holds=MODEL_FILES),
    Format("keras_shards", starts=(b"{",)),
    Format("sharded", starts=(b"{",)),
    Format("equinox", starts=(b"\x93NUMPY", b"{")),
    Format("hdf5", starts=(b"\x89HDF\r\n\x1a\n",)),
    Format("keras", starts=(b"PK\x03\x04",)),
    Format("pytorch", starts=(b"PK\x03\x04", b"\x80", b"L", b"")),
    Format("npz", starts=(b"PK\x03\x04",)),
    Format("npy", starts=(b"\x93NUMPY",)),
    Format("plain_pickle", starts=(b"\x80", b"(", b"]", b"}", b"c")),
    Format("tf_saved_model", starts=(b"\x08",), holds=("saved_model.pb", "saved_model.cpb")),
    Format("gguf", starts=(b"GGUF",)),
    Format("onnx", starts=(b"\x08",)),
    Format("tf_bundle", starts=(b"",)),
    Format("flax", starts=(*(bytes([first]) for first in range(0x81, 0x90)), b"\xde", b"\xdf")),
    Format("hdf5", starts=(b"",)),
    Format("orbax", holds=("*",)),
    Format("tf_folder", holds=("checkpoint", "*.index")),
)
"""In the order they are asked: the more specific first."""


def find(place: File | Folder) -> FormatModule | None:
    """The format of `place`, or None."""
    for entry in FORMATS:
        if isinstance(place, Folder):
            near = any(fnmatchcase(name, pattern) for name in place.names for pattern in entry.holds)
        else:
            near = place.head.startswith(entry.starts)
        if near:
            module = cast("FormatModule", importlib.import_module(f"milepost.formats.{entry.module}"))
            with parsing(place.where):
                if module.recognises(place):
                    return module
    return None


def describe(path: str) -> str | None:
    """What `path` is, in a few words; None if no format is recognised.

    Raises:
        NotFoundError, FormatError, StorageError: as `milepost.formats.place.look`.
    """
    module = find(look(path))
    return None if module is None else module.NAME


def open_source(path: str) -> TensorSource | None:
    """Open `path` as a source; None if no format is recognised.

    Raises:
        NotFoundError, StorageError: as `milepost.formats.place.look`.
        FormatError: the file is damaged, or of a kind that is not read.
        UnsafeContentError: it was made to do harm.
    """
    return open_place(look(path))


def open_place(place: File | Folder) -> TensorSource | None:
    """As `open_source`, of a place that was looked at."""
    module = find(place)
    if module is None:
        return None
    with parsing(place.where):
        return module.open_source(place)
