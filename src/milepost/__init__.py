"""Checkpointing for training jobs: the same command continues the run bit for bit, and every checkpoint is open to look into.

Names are loaded when first used, so that importing milepost imports no framework and costs little.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Checkpointer": "milepost.training.checkpointer",
    "Stopped": "milepost.training.session",
    "STOPPED": "milepost.training.ending",
    "STUCK": "milepost.training.ending",
    "Every": "milepost.training.policy",
    "Keep": "milepost.folder.retention",
    "Pending": "milepost.pipeline.persist",
    "Progress": "milepost.training.progress",
    "ResumeReport": "milepost.training.restore",
    "TensorSource": "milepost.core.source",
    "Diff": "milepost.ops.diff",
    "Stats": "milepost.ops.stats",
    "diff": "milepost.ops.diff",
    "Exported": "milepost.ops.export",
    "export": "milepost.ops.export",
    "open": "milepost.ops.refs",
    "TransferReport": "milepost.ops.transfer",
    "transfer": "milepost.ops.transfer",
    "stats": "milepost.ops.stats",
    "audit": "milepost.auditing.audit",
    "errors": "milepost.errors",
}

__all__ = [
    "STOPPED",
    "STUCK",
    "Checkpointer",
    "Diff",
    "Every",
    "Exported",
    "Keep",
    "Pending",
    "Progress",
    "ResumeReport",
    "Stats",
    "Stopped",
    "TensorSource",
    "TransferReport",
    "__version__",
    "audit",
    "diff",
    "errors",
    "export",
    "open",
    "stats",
    "transfer",
]

if TYPE_CHECKING:
    from milepost import errors
    from milepost.auditing.audit import audit
    from milepost.core.source import TensorSource
    from milepost.folder.retention import Keep
    from milepost.ops.diff import Diff, diff
    from milepost.ops.export import Exported, export
    from milepost.ops.refs import open  # noqa: A004
    from milepost.ops.stats import Stats, stats
    from milepost.ops.transfer import TransferReport, transfer
    from milepost.pipeline.persist import Pending
    from milepost.training.checkpointer import Checkpointer
    from milepost.training.ending import STOPPED, STUCK
    from milepost.training.policy import Every
    from milepost.training.progress import Progress
    from milepost.training.restore import ResumeReport
    from milepost.training.session import Stopped


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'milepost' has no attribute {name!r}")
    module = importlib.import_module(home)
    value = module if name == "errors" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
