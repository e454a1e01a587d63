"""Keras 3 on its TensorFlow, JAX and PyTorch backends: `Checkpoint`, a callback of ``model.fit``; models as items."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milepost.keras.checkpoint import Checkpoint

__all__ = ["Checkpoint"]


def __getattr__(name: str) -> Any:
    # Not imported at once: the registries of the layers below load single modules of this folder.
    if name != "Checkpoint":
        raise AttributeError(f"module 'milepost.keras' has no attribute {name!r}")
    return importlib.import_module("milepost.keras.checkpoint").Checkpoint
