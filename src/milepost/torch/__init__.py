"""PyTorch: its tensors, modules, optimizers, random state and loaders; `StorageWriter` and `StorageReader` for
torch.distributed.checkpoint. The only place that imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milepost.torch.distributed.reader import StorageReader
    from milepost.torch.distributed.writer import StorageWriter

__all__ = ["StorageReader", "StorageWriter"]

_HOME = {"StorageReader": "milepost.torch.distributed.reader", "StorageWriter": "milepost.torch.distributed.writer"}


def __getattr__(name: str) -> Any:
    # Not imported at once: torch.distributed takes its time, and few scripts need it.
    if name not in _HOME:
        raise AttributeError(f"module 'milepost.torch' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
