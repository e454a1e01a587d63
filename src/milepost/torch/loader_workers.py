"""Worker processes that survive the signals meant for the trainer, and end when the trainer wants them to.

A job that is preempted gets SIGTERM (or SIGUSR1, as Slurm is told) in *all* its processes. The trainer notes it and
saves at the next boundary, for which it needs its workers: PyTorch's would die at once, and the trainer with them. So
workers ignore SIGTERM, SIGINT, SIGUSR1 and SIGUSR2, by handlers that do nothing: an ignored signal would stay ignored
in programs a worker starts.

They still end: PyTorch asks them to through a queue, and a worker whose parent is gone leaves by itself within 5 s.
Only `multiprocessing` insists on SIGTERM, when the interpreter exits with workers alive; just before that, they are
told by SIGURG, which any other process ignores by default.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import worker as torch_worker

SHIELDED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2})
"""Signals that do not reach workers."""
_LEAVE = signal.SIGURG


class WorkerInit:
    """Stands in for `worker_init_fn`: shields the worker, shows it the user's own dataset, then calls the user's
    function.
    """

    def __init__(self, function: Callable[[int], Any] | None, dataset: Any) -> None:
        self.function, self.dataset = function, dataset

    def __call__(self, worker: int) -> None:
        """Called by PyTorch in the new worker, before its first batch."""
        for number in SHIELDED:
            signal.signal(number, _ignore)
        signal.signal(_LEAVE, _leave)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SHIELDED)
        info = get_worker_info()
        assert info is not None
        torch_worker._worker_info = type(info)(
            id=info.id, num_workers=info.num_workers, seed=info.seed, dataset=self.dataset
        )
        if self.function is not None:
            self.function(worker)


def _ignore(number: int, frame: FrameType | None) -> None:
    return


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(
        0
    )  # as PyTorch's own handler does for a SIGTERM from the parent: any other status is reported as a failure


def copy_of(loader: DataLoader[Any], cls: type, **changes: Any) -> Any:
    """A `cls` like `loader` but for `changes`, past `DataLoader.__setattr__`, and with no workers yet."""
    copy: Any = object.__new__(cls)
    copy.__dict__.update({**loader.__dict__, "_iterator": None, **changes})
    return copy


def shield(loader: Any) -> Any:
    """The same loader, its workers shielded; what has no workers as it is."""
    if not isinstance(loader, DataLoader) or loader.num_workers == 0:
        return loader
    release_at_exit()
    return copy_of(loader, type(loader), worker_init_fn=WorkerInit(loader.worker_init_fn, loader.dataset))


@functools.cache
def release_at_exit() -> None:
    """Have workers that are alive when the interpreter exits told to leave, before `multiprocessing` waits for them."""
    util.Finalize(None, _release, exitpriority=100)


def _release() -> None:
    for process in multiprocessing.active_children():
        if process.daemon:
            _tell_to_leave(process)


def _tell_to_leave(process: BaseProcess) -> None:
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError):  # gone meanwhile
            os.kill(process.pid, _LEAVE)


def start(loader: DataLoader[Any]) -> Any:
    """The iterator of `loader`, whose workers are shielded from the moment they are born.

    They start with the signals blocked and unblock them once they ignore them; here the signals wait meanwhile.
    """
    if loader.num_workers == 0 or loader._iterator is not None:
        return iter(loader)
    release_at_exit()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
    try:
        iterator: Any = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for process in getattr(iterator, "_workers", ()):
        process.terminate = functools.partial(_tell_to_leave, process)  # PyTorch's last resort for one that is stuck
    return iterator


def stop(iterator: Any) -> None:
    """End the workers of `iterator` (nothing to do where it has none), also one that is stuck in a batch."""
    workers = list(getattr(iterator, "_workers", ()))
    if workers:
        iterator._shutdown_workers()
    for process in workers:
        if process.is_alive():
            process.kill()
            process.join()
