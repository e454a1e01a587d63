"""Files of TensorFlow checkpoints put in their place: whole, and named in the folder's list of checkpoints."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

import tensorflow as tf
from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

from milepost.ops.refs import wording


def publish(made: str, prefix: str) -> None:
    """Sync the files of the checkpoint `made`, and rename them to `prefix`, which has the old content or the new at any moment: the
    index makes it a checkpoint, so it comes last.

    Args:
        made: what the names of its files begin with, in a folder of its own on the same file system.
        prefix: what they shall begin with.

    Raises:
        StorageError: the storage refused.
    """
    folder, name = os.path.dirname(prefix) or ".", os.path.basename(prefix)
    with wording("write the checkpoint", prefix):
        begins = os.path.basename(made)
        files = [
            file for file in Path(made).parent.iterdir() if file.name.startswith((f"{begins}.index", f"{begins}.data-"))
        ]
        for file in sorted(files, key=lambda file: file.suffix == ".index"):
            _sync(file)
            os.replace(file, os.path.join(folder, name + file.name.removeprefix(begins)))
        _sync(folder)


def enter(prefix: str) -> None:
    """Make the checkpoint `prefix` the latest in its folder's list, ``checkpoint``, as `tf.train.latest_checkpoint` reads it. Those
    that are gone are no longer named; the times of the others stay.

    Raises:
        StorageError: the storage refused.
    """
    folder, name = os.path.abspath(os.path.dirname(prefix)), os.path.basename(prefix)
    before = tf.train.get_checkpoint_state(folder)
    paths = list(before.all_model_checkpoint_paths) if before else []
    times = list(before.all_model_checkpoint_timestamps) if before else []
    known = {
        os.path.relpath(path, folder): at
        for path, at in zip(paths, times if len(times) == len(paths) else map(_written, paths), strict=True)
        if os.path.exists(f"{path}.index")
    }
    known.pop(name, None)
    known[name] = time.time()
    state = CheckpointState(
        model_checkpoint_path=name, all_model_checkpoint_paths=known, all_model_checkpoint_timestamps=known.values(),
        last_preserved_timestamp=before.last_preserved_timestamp if before else None,
    )  # fmt: skip
    beside = os.path.join(folder, f".checkpoint.{secrets.token_hex(4)}")
    with wording("write the list of checkpoints", folder):
        Path(beside).write_text(str(state))  # as protocol buffers write text
        _sync(beside)
        os.replace(beside, os.path.join(folder, "checkpoint"))
        _sync(folder)


def _written(path: str) -> float:
    return os.path.getmtime(f"{path}.index") if os.path.exists(f"{path}.index") else 0.0


def _sync(path: str | os.PathLike[str]) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
