"""Places that hold files, behind one contract (`milepost.storage.base`).

`LocalStorage` is the one for real use. `milepost.storage.memory` keeps the same contract in memory, with a model of
power loss, and `milepost.storage.faults` wraps any storage with failures at chosen operations; import them where
needed.
"""

from milepost.storage.base import (
    BLOCK,
    FULL,
    TRANSIENT,
    Buffer,
    FileWriter,
    Kind,
    Lock,
    Stat,
    Storage,
    storage_error,
)
from milepost.storage.local import LocalStorage

__all__ = [
    "BLOCK",
    "FULL",
    "TRANSIENT",
    "Buffer",
    "FileWriter",
    "Kind",
    "LocalStorage",
    "Lock",
    "Stat",
    "Storage",
    "storage_error",
]
