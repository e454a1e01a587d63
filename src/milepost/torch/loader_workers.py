"""Worker processes that outlive the signals meant for the trainer, and end when the trainer wants them to.

A job that is preempted gets SIGTERM (or SIGUSR1, as Slurm is told) in *all* its processes. The trainer notes it and
saves at the next boundary, for which it needs its workers; PyTorch's would die at once, and the trainer with them. So
workers ignore SIGTERM, SIGINT, SIGUSR1 and SIGUSR2, by handlers that do nothing: a signal that is ignored outright
would stay so in the programs a worker starts.

They still end. PyTorch asks them to through a queue, and a worker whose parent is gone leaves by itself within 5 s.
Where PyTorch or `multiprocessing` would insist with SIGTERM (a worker that is stuck, an iterator in a reference cycle,
the end of the interpreter), they are sent SIGURG, which any process that does not expect it disregards.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing import context, util
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import torch.multiprocessing
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import worker as torch_worker

SHIELDED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2})
"""Signals that do not reach workers."""
_LEAVE = signal.SIGURG


# -- in the worker -----------------------------------------------------------------------------------------------------


class WorkerInit:
    """Stands in for `worker_init_fn`: shields the worker, shows it the user's dataset, and calls the user's function."""

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
    os._exit(0)  # as PyTorch's own handler of SIGTERM does: any other status is reported as a failure


# -- in the trainer ----------------------------------------------------------------------------------------------------


class _Shielded(BaseProcess):
    """A worker process: born with the signals blocked, until it ignores them, and told to leave by SIGURG."""

    def start(self) -> None:
        method = getattr(self, "_start_method", None) or multiprocessing.get_start_method()
        if method == "forkserver":  # the server may start now, and would hand the mask on to whatever it forks
            super().start()
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def terminate(self) -> None:
        tell_to_leave(self)


class _DefaultWorker(_Shielded, context.Process):
    pass


class _ForkWorker(_Shielded, context.ForkProcess):
    pass


class _SpawnWorker(_Shielded, context.SpawnProcess):
    pass


class _ForkServerWorker(_Shielded, context.ForkServerProcess):
    pass


_WORKERS: dict[type, type] = {
    context.Process: _DefaultWorker,
    context.ForkProcess: _ForkWorker,
    context.SpawnProcess: _SpawnWorker,
    context.ForkServerProcess: _ForkServerWorker,
}


class _Context:
    """A multiprocessing context whose processes are shielded."""

    def __init__(self, base: Any) -> None:
        self._base = base

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._base, name)
        return _WORKERS.get(found, found) if name == "Process" else found


def copy_of(loader: DataLoader[Any], cls: type, **changes: Any) -> Any:
    """A `cls` like `loader` but for `changes`, past `DataLoader.__setattr__`; its workers, all its own, are shielded."""
    copy: Any = object.__new__(cls)
    copy.__dict__.update({**loader.__dict__, "_iterator": None, **changes})
    if loader.num_workers:
        _release_at_exit()
        copy.worker_init_fn = WorkerInit(loader.worker_init_fn, loader.dataset)
        base = loader.multiprocessing_context or torch.multiprocessing
        copy.__dict__["_DataLoader__multiprocessing_context"] = _Context(base)  # its setter takes real contexts only
    return copy


def shield(loader: Any) -> Any:
    """The same loader, its workers shielded; what has no workers as it is."""
    return copy_of(loader, type(loader)) if isinstance(loader, DataLoader) and loader.num_workers else loader


def stop(iterator: Any) -> None:
    """End the workers of `iterator` (nothing to do where it has none), also one that is stuck in a batch."""
    workers = list(getattr(iterator, "_workers", ()))
    if workers:
        iterator._shutdown_workers()
    for process in workers:
        if process.is_alive():
            process.kill()
            process.join()


def tell_to_leave(process: BaseProcess) -> None:
    """What SIGTERM is to other processes."""
    if process.pid is not None:
        with contextlib.suppress(ProcessLookupError):  # gone meanwhile
            os.kill(process.pid, _LEAVE)


@functools.cache
def _release_at_exit() -> None:
    util.Finalize(None, _release, exitpriority=100)  # just before multiprocessing sends SIGTERM and waits for ever


def _release() -> None:
    workers = [process for process in multiprocessing.active_children() if isinstance(process, _Shielded)]
    for process in workers:
        tell_to_leave(process)
    for process in workers:
        # A SIGTERM right behind could wake another thread of the worker, which takes both while the main one sleeps on.
        process.join(timeout=1)
