"""Folders of the Hugging Face libraries and DeepSpeed: a model, or all that Trainer or Accelerate needs to go on, with a file for
each part: ``model.safetensors``, ``optimizer.pt``, ``trainer_state.json`` ... What is in ``optimizer.pt`` is below ``optimizer``.
"""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from typing import Any

from milepost.core.foreign import Foreign
from milepost.core.paths import escape
from milepost.core.source import TensorSource
from milepost.formats import bounds, distributed, sharded
from milepost.formats.detect import open_place
from milepost.formats.joined import Joined, read_object
from milepost.formats.place import File, Folder

NAME = "a folder of weights"
MOST_PARTS = 5_000
_PARTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_INDEX = re.compile(r"(?P<stem>.+)\.(safetensors|bin)\.index(?P<variant>\.\w+)?\.json")
_PLAIN = ("config.json", "*_config.json", "trainer_state.json", "model_index.json")
_DEEPSPEED = "*mp_rank_*_model_states.pt"
_WEIGHTS = ("pytorch_model", "diffusion_pytorch_model")
"""Names of weights that are called ``model`` here, as they are in every newer folder."""

_KINDS = {
    "trainer_state.json": "a checkpoint of the Hugging Face Trainer",
    "random_states_*.pkl": "a checkpoint of Accelerate",
    _DEEPSPEED: "a checkpoint of DeepSpeed",
    "adapter_config.json": "an adapter of PEFT",
    "config.json": "a model of the Hugging Face libraries",
}


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    return isinstance(place, Folder)  # by the names that `milepost.formats.detect` has


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, Folder)
    return _joined(place, _items(place))


def _joined(place: Folder, items: dict[str, str]) -> TensorSource:
    if len(items) > bounds.most(MOST_PARTS):
        raise bounds.too_much("more files than are read", place.where, bound=MOST_PARTS, found=len(items))
    texts = {name: read_object(place.file(name)) for name in items.values() if _like(name, *_PLAIN)}
    made = Joined(place.where, _told(place, texts))
    for item, name in items.items():
        if name in texts:
            made.tell_all(escape(item), texts[name])
        elif (part := _open(place, name)) is not None:
            made.add(part, escape(item))
        else:
            made.tell(escape(item), Foreign("file", {"name": name}, "of a format that is not read"))
    return made


def _items(place: Folder, *, folders: bool = True) -> dict[str, str]:
    """What each part is called here -> the name of its file (or, if asked for, folder)."""
    indexes = [name for name in place.names if _INDEX.fullmatch(name)]
    shards = {shard for index in indexes for shard in sharded.files_named(place.file(index))}
    found: dict[str, str] = {}
    for name in place.names:
        index = _INDEX.fullmatch(name)
        if index is not None:
            item = index["stem"] + (index["variant"] or "")
        elif name not in shards and (_like(name, *_PARTS, *_PLAIN) or (folders and _is_part(place, name))):
            item = os.path.splitext(name)[0]
        else:
            continue
        item = "model" if item in _WEIGHTS and "model" not in found else item
        found[name if item in found else item] = name
    return found


def _is_part(place: Folder, name: str) -> bool:
    """Whether `name` is a folder in which a part of the checkpoint is: what is sharded over processes."""
    if not os.path.isdir(os.path.join(place.where, name)):
        return False
    inner = place.folder(name)
    return distributed.recognises(inner) or any(_like(file, _DEEPSPEED) for file in inner.names)


def _open(place: Folder, name: str) -> TensorSource | None:
    if os.path.isdir(os.path.join(place.where, name)):
        inner = place.folder(name)
        return (
            distributed.open_source(inner)
            if distributed.recognises(inner)
            else _joined(inner, _items(inner, folders=False))
        )
    file = place.file(name)
    return sharded.open_source(file) if _INDEX.fullmatch(name) else open_place(file)


def _told(place: Folder, texts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    kinds = (kind for mark, kind in _KINDS.items() if any(_like(name, mark) for name in place.names))
    told: dict[str, Any] = {"format": next(kinds, NAME)}
    version = texts.get("config.json", {}).get("transformers_version")
    if isinstance(version, str):
        told["written_by"] = {"transformers": version}
    state = texts.get("trainer_state.json", {})
    for word, name in (("step", "global_step"), ("epoch", "epoch")):
        if type(state.get(name)) in (int, float):
            told[word] = state[name]
    return told


def _like(name: str, *patterns: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
