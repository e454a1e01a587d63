"""What a place is that milepost did not write, by its first bytes and names alone: for errors that say more than
"no"."""

from __future__ import annotations

import os
from difflib import get_close_matches

_PICKLED = {".pt", ".pth", ".bin", ".ckpt", ".tar"}
_ZIPPED = {".npz": "a numpy archive", ".keras": "a Keras model"}

_IN_FOLDER = {
    ".metadata": "a folder of torch.distributed.checkpoint",
    "saved_model.pb": "a TensorFlow SavedModel",
    "_CHECKPOINT_METADATA": "an Orbax checkpoint",
    "_METADATA": "an Orbax checkpoint",
    "checkpoint": "a folder of TensorFlow checkpoints",
    "model.safetensors.index.json": "a folder of safetensors files",
    "model.safetensors": "a folder of safetensors files",
    "pytorch_model.bin": "a folder of PyTorch files",
}


def describe(place: str) -> str | None:
    """What the file or folder `place` is, in a few words; None if nothing is recognised or it cannot be read."""
    if os.path.isdir(place):
        return next((words for name, words in _IN_FOLDER.items() if os.path.exists(os.path.join(place, name))), None)
    ending = os.path.splitext(place)[1].lower()
    try:
        with open(place, "rb") as file:
            head = file.read(16)
    except OSError:
        return None  # the caller says that it is no checkpoint either way
    if head.startswith(b"PK\x03\x04"):
        return _ZIPPED.get(ending) or ("a PyTorch file" if ending in _PICKLED else "a zip archive")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "an HDF5 file"
    if head.startswith(b"\x93NUMPY"):
        return "a numpy array"
    if head.startswith(b"GGUF"):
        return "a GGUF file"
    if head.startswith(b"\x80") and len(head) > 1 and 2 <= head[1] <= 5:
        return "a pickle file" + (" of PyTorch" if ending in _PICKLED else "")
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= os.path.getsize(place):
        return "a safetensors file"
    return "a TensorFlow checkpoint" if ending == ".index" or ".data-0" in os.path.basename(place) else None


def similar(place: str) -> str | None:
    """A name beside `place` that is much like it, as a path; None if there is none."""
    folder, name = os.path.split(place.rstrip("/"))
    try:
        near = get_close_matches(name, os.listdir(folder or "."), 1)
    except OSError:
        return None  # then the folder above is what is missing
    return os.path.join(folder, near[0]) if near else None
