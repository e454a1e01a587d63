"""What others build upon: exported names, kinds of errors, exit codes. A change here is a change for users."""

from __future__ import annotations

import inspect
import subprocess
import sys

import milepost
from milepost import errors


def test_the_exported_names() -> None:
    assert sorted(milepost.__all__) == [
        "Checkpointer",
        "Diff",
        "Every",
        "Exported",
        "Keep",
        "Pending",
        "Progress",
        "ResumeReport",
        "STOPPED",
        "STUCK",
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
    for name in milepost.__all__:
        assert getattr(milepost, name) is not None
        assert name in dir(milepost)


def test_the_kinds_and_exit_codes_of_errors() -> None:
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.MilepostError)]
    assert {one.__name__: (one.kind, one.exit_code) for one in classes} == {
        "MilepostError": ("error", 3),
        "ScriptError": ("script", 2),
        "UnknownItemError": ("unknown-item", 2),
        "NotStorableError": ("not-storable", 2),
        "StepError": ("step", 2),
        "MetricError": ("metric", 2),
        "LoaderError": ("loader", 2),
        "ReferenceSyntaxError": ("reference", 2),
        "MismatchError": ("mismatch", 2),
        "AuditError": ("audit", 3),
        "NotExactError": ("not-exact", 1),
        "NotFoundError": ("not-found", 4),
        "DamagedError": ("damaged", 5),
        "FormatError": ("format", 6),
        "UnsafeContentError": ("unsafe-content", 6),
        "StorageError": ("storage", 7),
        "DiskFullError": ("disk-full", 7),
        "BusyError": ("busy", 8),
        "RunBusy": ("run-busy", 8),
        "RunFenced": ("run-fenced", 8),
        "SaveFailedError": ("save-failed", 9),
        "SlurmError": ("slurm", 10),
    }
    assert (milepost.STOPPED, milepost.STUCK) == (75, 76)


def test_importing_milepost_imports_no_framework() -> None:
    names = ["torch", "tensorflow", "keras", "jax", "flax", "rich", "typer"]
    code = (
        f"import sys, milepost; milepost.Checkpointer; milepost.open; print([n for n in {names} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
