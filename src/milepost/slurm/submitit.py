"""Training that submitit submits: `Resumable`.

submitit answers its signal from the handler: it asks the function for its continuation (``checkpoint``), requeues the job and
exits, in the middle of a step. While a run is open milepost answers in its place, at the end of the step, and requeues the job
itself; the job then begins with the same function and arguments, and the run continues.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Resumable(Generic[P, T]):
    """A function that opens a `milepost.Checkpointer`, as one that submitit may requeue at any time.

    What it adds to the function is submitit's protocol, for a signal that comes before the run is open or after it is closed: the
    same call, once more. Without it submitit gives up a job whose time is over then.

    Example:
        >>> executor = submitit.AutoExecutor("logs")
        >>> executor.submit(Resumable(train), "runs/mnist", epochs=8)
    """

    def __init__(self, function: Callable[P, T]) -> None:
        self.function = function

    def __call__(self, *arguments: P.args, **options: P.kwargs) -> T:
        return self.function(*arguments, **options)

    def checkpoint(self, *arguments: P.args, **options: P.kwargs) -> Any:
        """The submission with which the job goes on: the same. submitit calls this."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments, **options)

    __submitit_checkpoint__ = checkpoint
    """What newer versions look for first."""


def is_of_submitit(handler: object) -> bool:
    """Whether a signal's handler is one of submitit's, which may end the process at once."""
    return type(getattr(handler, "__self__", None)).__module__.partition(".")[0] == "submitit"
