"""Every error milepost raises, grouped by what a person would do next.

    MilepostError
    ├── ScriptError            mend the script or the call
    │   ├── UnknownItemError       a misspelt item, or one not handed over
    │   ├── NotStorableError       a value that cannot be stored plainly
    │   ├── StepError              a step that goes backwards
    │   ├── MetricError            a metric that never came, or is NaN where it decides
    │   ├── LoaderError            data whose position cannot be restored
    │   └── ReferenceSyntaxError   a REF that cannot be read
    ├── MismatchError          the saved state does not fit the live objects
    ├── NotExactError          find out what the checkpoint lacks: `milepost audit`
    ├── NotFoundError          name another run, checkpoint or path
    ├── DamagedError           use another checkpoint; this one's bytes are wrong
    ├── FormatError            update milepost, or this was never a checkpoint
    │   └── UnsafeContentError     keep away from the file: it was made to do harm
    ├── StorageError           make room or get permission
    │   └── DiskFullError
    ├── BusyError              wait, or take over
    │   ├── RunBusy           another attempt is alive
    │   └── RunFenced         a newer attempt has taken over: this one must stop
    ├── SaveFailedError        the newest save is not on disk
    ├── AuditError             `milepost audit` could not answer
    └── SlurmError             Slurm refused, or cannot be asked

Each class has a stable `kind` (shown in ``--json``) and an `exit_code` for the command line.
Foreign exceptions never leak: they are the `__cause__`.
"""

from __future__ import annotations


class MilepostWarning(UserWarning):
    """Something was not as asked for, and training goes on."""


class MilepostError(Exception):
    """Base of all errors: what is wrong, where, what was expected, what was found, what to try next.

    Example:
        >>> print(MilepostError("the file is truncated", where="a.safetensors", expected="64 bytes", found="60 bytes",
        ...                     hint="run milepost verify"))
        the file is truncated
          where:    a.safetensors
          expected: 64 bytes
          found:    60 bytes
          next:     run milepost verify
    """

    kind = "error"
    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = None if where is None else str(where)
        self.expected = None if expected is None else str(expected)
        self.found = None if found is None else str(found)
        self.hint = hint

    def fields(self) -> dict[str, str]:
        """What is known, in the order it is shown (for ``--json``)."""
        named = {
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "next": self.hint,
        }
        return {name: value for name, value in named.items() if value is not None}

    def __str__(self) -> str:
        lines = [self.message]
        lines += [f"  {name + ':':9} {value}" for name, value in self.fields().items()]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries by pickle, which knows nothing of keyword-only arguments.
        return (_rebuild, (type(self), self.message, self.where, self.expected, self.found, self.hint), self.__dict__)


def _rebuild(
    cls: type[MilepostError], message: str, where: str | None, expected: str | None, found: str | None, hint: str | None
) -> MilepostError:
    error = cls.__new__(cls)
    MilepostError.__init__(error, message, where=where, expected=expected, found=found, hint=hint)
    return error


class ScriptError(MilepostError):
    """The training script or the call must change."""

    kind = "script"
    exit_code = 2


class UnknownItemError(ScriptError):
    """A name that is no item of the run, or an item that was not handed over."""

    kind = "unknown-item"


class NotStorableError(ScriptError):
    """A value that cannot be stored plainly; the message names its path."""

    kind = "not-storable"


class StepError(ScriptError):
    """A step that goes backwards."""

    kind = "step"


class MetricError(ScriptError):
    """A metric that never came, is not a scalar, or is NaN where it decides."""

    kind = "metric"


class LoaderError(ScriptError):
    """Data whose position cannot be saved or restored."""

    kind = "loader"


class ReferenceSyntaxError(ScriptError):
    """A REF (``PLACE[@WHICH]``) that cannot be read."""

    kind = "reference"


class MismatchError(MilepostError):
    """The saved state does not fit the live objects; `rows` has one line for each difference."""

    kind = "mismatch"
    exit_code = 2

    def __init__(self, message: str, *, rows: tuple[Mismatch, ...] = (), where: object = None, hint: str | None = None):
        super().__init__(message, where=where, hint=hint)
        self.rows = rows

    def __str__(self) -> str:
        if not self.rows:
            return super().__str__()
        width = max(len(row.path) for row in self.rows)
        shown = [f"  {row.path:{width}}  saved {row.saved}, here {row.here}" for row in self.rows[:40]]
        if len(self.rows) > 40:
            shown.append(f"  ... and {len(self.rows) - 40} more")
        return "\n".join([super().__str__(), *shown])


class Mismatch:
    """One difference between a saved state and the object it should go into."""

    __slots__ = ("here", "path", "saved")

    def __init__(self, path: str, saved: str, here: str) -> None:
        self.path, self.saved, self.here = path, saved, here

    def __repr__(self) -> str:
        return f"Mismatch({self.path!r}, saved={self.saved!r}, here={self.here!r})"


class NotExactError(MilepostError):
    """Training does not continue as it did before."""

    kind = "not-exact"
    exit_code = 1


class NotFoundError(MilepostError):
    """No such run, checkpoint, item or path."""

    kind = "not-found"
    exit_code = 4


class DamagedError(MilepostError):
    """Bytes that differ from their digest, or a file cut short."""

    kind = "damaged"
    exit_code = 5


class FormatError(MilepostError):
    """Not a checkpoint milepost can read: another format, or one from a newer milepost."""

    kind = "format"
    exit_code = 6


class UnsafeContentError(FormatError):
    """A file that asks for what none needs: to leave its folder, to fill the memory, to mislead its reader."""

    kind = "unsafe-content"


class StorageError(MilepostError):
    """The storage refused: permission, a file in the way, an input/output error."""

    kind = "storage"
    exit_code = 7


class DiskFullError(StorageError):
    """No space or quota left."""

    kind = "disk-full"


class BusyError(MilepostError):
    """Another process has, or took, the run."""

    kind = "busy"
    exit_code = 8


class RunBusy(BusyError):  # noqa: N818 - as one says it
    """Another attempt of this run is alive."""

    kind = "run-busy"


class RunFenced(BusyError):  # noqa: N818 - as one says it
    """A newer attempt has taken over; nothing this one writes becomes visible any more."""

    kind = "run-fenced"


class SaveFailedError(MilepostError):
    """A checkpoint could not be made durable."""

    kind = "save-failed"
    exit_code = 9


class AuditError(MilepostError):
    """An audit could not answer: the script fails, or does nothing that can be observed."""

    kind = "audit"


class SlurmError(MilepostError):
    """A command of Slurm is not here, refused, or did not answer."""

    kind = "slurm"
    exit_code = 10
