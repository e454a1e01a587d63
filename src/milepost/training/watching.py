"""A seat inside a training job for one that watches it: `milepost audit`, which runs a person's script unchanged.

The watcher is found through the environment, so that it comes along into whatever the script starts.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from milepost.errors import ScriptError
from milepost.folder.retention import Keep
from milepost.ops.redirected import SCRIPT_VARIABLE, VARIABLE
from milepost.pipeline.persist import Pending
from milepost.training.policy import Policy
from milepost.training.progress import Progress

if TYPE_CHECKING:
    from milepost.training.session import Session

_WATCHER = "milepost.auditing.observer"


class Opening(NamedTuple):
    """What a script asked for that a watcher may have otherwise: see `milepost.Checkpointer`."""

    directory: str | os.PathLike[str]
    every: Policy | Callable[[Progress], bool] | None
    keep: Keep | None
    resume: str


class Watcher(Protocol):
    """What is told of a run. Nothing of it may change what the script computes."""

    saves: bool
    """Whether anything is saved; if not, `unsaved` takes its place."""

    def open(self, asked: Opening) -> Opening:
        """A run is about to be opened."""

    def began(self, session: Session) -> None:
        """An attempt was opened, and what it continues is restored."""

    def handed(self, session: Session, loop: str, batch: Any) -> None:
        """A loop hands out a batch."""

    def observe(self, session: Session, asker: str) -> None:
        """The script is between two batches or epochs: the loop `asker` (or, if empty, something else) asks what is next."""

    def saved(self, session: Session, pending: Pending) -> None:
        """A checkpoint is taken where the script was seen last."""

    def unsaved(self, session: Session, step: int) -> Pending:
        """What a script is given for a checkpoint that is not taken."""

    def goes_back(self, session: Session) -> None:
        """The script goes back to a checkpoint."""

    def ended(self, session: Session, how: str) -> None:
        """An attempt ends: "complete", "stopped", "failed" or "restored"."""


def find() -> Watcher | None:
    """The watcher of this process, if there is one.

    Raises:
        ScriptError: it is audited as a script that does not use milepost, so that its run is not in scratch.
    """
    if os.environ.get(SCRIPT_VARIABLE):
        raise ScriptError(
            "this script uses milepost: audit it without --saver", hint="milepost audit -- python train.py"
        )
    if not os.environ.get(VARIABLE):
        return None
    return cast("Watcher", importlib.import_module(_WATCHER).watcher())
