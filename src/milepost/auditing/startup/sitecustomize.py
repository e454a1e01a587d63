"""Comes first on PYTHONPATH in the processes of ``milepost audit``, so Python imports it before the script.

Of a script that uses milepost, files below its run directories are redirected from here on. With ``--saver``, nothing but the
standard library is used, and it waits: nothing else is imported before the script itself has imported torch, or Keras. What a
library's global random state is at first is chosen here, so that uninterrupted processes of a script that does not seed are the
same.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import json
import os
import random
import sys
import traceback
from collections.abc import Callable
from typing import Any

RUNS_VARIABLE, VARIABLE = "MILEPOST_AUDIT", "MILEPOST_AUDIT_SCRIPT"
"""Name the file that says what to do with a script that uses milepost, and with another."""
SAVERS = ("safetensors.torch", "torch.distributed.checkpoint")
FRAMEWORKS = (
    "torch",
    "jax",
    "tensorflow",
    "keras",
    "lightning",
    "pytorch_lightning",
    "transformers",
    "paddle",
    "mxnet",
)


class _Waiter:
    """Finds modules as the finders after it do, and calls back when one of those it waits for has been executed."""

    def __init__(self, waiting: dict[str, Callable[[], None]]) -> None:
        self._waiting = waiting

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in self._waiting:
            return None
        others = (one.find_spec(name, path, target) for one in list(sys.meta_path) if one is not self)
        spec = next((one for one in others if one is not None), None)
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: Any) -> None:
                del loader.exec_module
                execute(module)
                self._waiting.pop(name, _nothing)()

            loader.exec_module = exec_module
        return spec


def _nothing() -> None:
    """Another import of the module was first."""


def _start(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        told = json.load(file)
    seed, log, saver = told["seed"], told["log"], told.get("saver", "torch")  # defaults are left out

    def numpy() -> None:
        sys.modules["numpy.random"].seed(seed)

    def torch() -> None:
        sys.modules["torch"].manual_seed(seed)
        if saver == "torch":
            arm("milepost.auditing.foreign.observer")

    def tensorflow() -> None:
        sys.modules["tensorflow"].random.set_seed(seed)
        watcher: Any = sys.modules.get("milepost.auditing.foreign.fits")
        if watcher is not None:
            watcher.tensorflow_imported()

    def keras() -> None:
        if saver == "keras":
            arm("milepost.auditing.foreign.fits")

    def arm(watcher: str) -> None:
        try:
            importlib.import_module(watcher).arm(path)
        except Exception:  # noqa: BLE001 - the script goes on, and the audit says what is the matter
            with open(os.path.join(log, f"{os.getpid()}.problem"), "w", encoding="utf-8") as file:
                file.write(f"{sys.executable}\n{traceback.format_exc()}")

    random.seed(seed)
    waiting: dict[str, Callable[[], None]] = {
        "numpy.random": numpy,
        "torch": torch,
        "tensorflow": tensorflow,
        "keras": keras,
        **{name: functools.partial(_saver, name) for name in SAVERS},
    }
    for name in [name for name in waiting if name in sys.modules]:
        waiting.pop(name)()
    sys.meta_path.insert(0, _Waiter(waiting))
    atexit.register(_tell, os.path.join(log, f"{os.getpid()}.process"), os.getpid())


def _saver(name: str) -> None:
    """Another module that saves was imported; if torch was not yet, what watches will see it."""
    watcher: Any = sys.modules.get("milepost.auditing.foreign.observer")
    if watcher is not None:
        watcher.saver_imported(name)


def _tell(path: str, pid: int) -> None:
    """That this process was here, and with which frameworks."""
    if os.getpid() == pid:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(
                {"command": sys.orig_argv, "frameworks": [name for name in FRAMEWORKS if name in sys.modules]}, file
            )


def _chain() -> None:
    """Take this module's folder off the path, and run the ``sitecustomize`` that would have been run without it."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [one for one in sys.path if not one or os.path.abspath(one) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _redirect(path: str) -> None:
    """Lead what Python does with files of audited runs to scratch. A Python without milepost can open no run."""
    with contextlib.suppress(ImportError):
        importlib.import_module("milepost.auditing.files.run_files").redirect_runs(path)


if os.environ.get(VARIABLE):
    _start(os.environ[VARIABLE])
elif os.environ.get(RUNS_VARIABLE):
    _redirect(os.environ[RUNS_VARIABLE])
_chain()
