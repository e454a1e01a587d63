"""Folders that hold a model or a state of training in files side by side: of transformers (also its Trainer), diffusers, PEFT and
Accelerate.

Each file is a source of its own and appears below its name without the ending; of a model in several files, below the name of the
model. JSON files that are known are plain values. Other files are not looked at.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from milepost.core.paths import below, escape
from milepost.core.readjson import Unreadable, read_json
from milepost.core.source import TensorSource
from milepost.errors import FormatError
from milepost.formats.detect import MODEL_FILES, open_place
from milepost.formats.place import File, Folder
from milepost.formats.sharded import SUFFIX, Joined, open_index

NAME = "a folder of model files"
_TENSORS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_JSON = (
    "trainer_state.json", "config.json", "generation_config.json", "adapter_config.json", "scheduler_config.json",
    "model_index.json",
)  # fmt: skip
LARGEST_JSON = 16 * 1024 * 1024
MOST_FILES = 1000
MOST_LEVELS = 50


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    return isinstance(place, Folder) and any(_like(name, MODEL_FILES) for name in place.names if place.has(name))


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, Folder)
    # A link in a folder that leads elsewhere is an error only for files that are needed.
    names = [name for name in place.names if _like(name, (*_TENSORS, *_JSON, f"*{SUFFIX}")) and place.has(name)]
    if len(names) > MOST_FILES:
        raise FormatError("more files than are looked at", where=place.where, found=f"{len(names)}")
    parts: dict[str, tuple[TensorSource, str]] = {}
    plain: dict[str, Any] = {}
    notes: dict[str, dict[str, Any]] = {}
    shards: set[str] = set()
    stems: set[str] = set()
    for name in sorted(names, key=lambda name: not name.endswith(SUFFIX)):
        if name in shards:
            continue
        file = place.file(name)
        if name in _JSON:
            notes[name] = _read_json(file)
            _flatten(notes[name], escape(name.removesuffix(".json")), plain, file.where)
            continue
        if name.endswith(SUFFIX):
            source, used = open_index(file)
            shards |= used
            stem = name.removesuffix(SUFFIX).rpartition(".")[0]
        else:
            opened = None if name.endswith(".json") else open_place(file)
            if opened is None:
                continue
            source, stem = opened, name.rpartition(".")[0]
        stem = name if stem in stems else stem
        stems.add(stem)
        parts |= {below(escape(stem)) + path: (source, path) for path in source.specs}
        plain |= {below(escape(stem)) + path: value for path, value in source.plain.items()}
    return Joined(place.where, parts, plain, _metadata(place, notes))


def _like(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _metadata(place: Folder, notes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What kind of folder it is, and what its JSON files say of step, epoch and writer."""
    trainer = notes.get("trainer_state.json")
    accelerate = any(_like(name, ("random_states_*.pkl", "optimizer.bin")) for name in place.names)
    found: dict[str, Any] = {
        "format": "a checkpoint folder of the Hugging Face Trainer" if trainer is not None
        else "a checkpoint folder of Accelerate" if accelerate else NAME
    }  # fmt: skip
    version = notes.get("config.json", {}).get("transformers_version")
    if isinstance(version, str):
        found["written_by"] = {"transformers": version}
    for word, name in (("step", "global_step"), ("epoch", "epoch")):
        value = (trainer or {}).get(name)
        if type(value) in (int, float):
            found[word] = value
    return found


def _read_json(file: File) -> dict[str, Any]:
    if file.size > LARGEST_JSON:
        raise FormatError("the file is larger than its kind is", where=file.where, found=f"{file.size} bytes")
    try:
        return read_json(file.read(0, file.size), dict[str, Any])
    except Unreadable as error:
        raise FormatError("the file is no JSON", where=file.where, found=str(error)[:200]) from error


def _flatten(value: Any, path: str, plain: dict[str, Any], where: str) -> None:
    """Enter what is in `value`, by path."""
    waiting = [(path, value, 0)]
    while waiting:
        at, node, level = waiting.pop()
        if level > MOST_LEVELS:
            raise FormatError(f"values are nested more than {MOST_LEVELS} levels deep", where=where)
        if isinstance(node, dict) and node:
            inner = [(below(at) + escape(key), item, level + 1) for key, item in node.items()]
        elif isinstance(node, list) and node:
            inner = [(f"{below(at)}{index}", item, level + 1) for index, item in enumerate(node)]
        else:
            plain[at] = node
            continue
        waiting += reversed(inner)
