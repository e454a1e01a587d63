"""Whether a restart continues exactly: its first steps beside those that an earlier attempt made after the same checkpoint.

A killed attempt got further than its last checkpoint; its trace says what batches it was given there and what metrics came
of them. This costs nothing and proves nothing about what was not recorded: `milepost audit` compares everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from milepost.errors import NotExactError
from milepost.folder.attempts import Parent, Record
from milepost.storage.base import Storage
from milepost.training.trace import Line, read_after

MOST = 1000
"""Lines that are compared at most."""

State = Literal["not checked", "checking", "exact", "differs"]


class Continuation:
    """Compares what this attempt does with what an earlier one did. `state` says what came of it so far.

    Args:
        lines: what the earlier one did after the checkpoint, in order.
        attempt: its number.
        why_not: why nothing is compared, where there are no `lines`.

    Example:
        >>> print(run.resume_report.continuation)
        continues exactly: steps 101 to 150 are as in attempt 1 (batches and metrics)
    """

    def __init__(self, lines: Sequence[Line] = (), attempt: int = 0, why_not: str = "nothing is continued") -> None:
        self._expected = deque(lines[:MOST])
        self.attempt = attempt
        self.state: State = "checking" if self._expected else "not checked"
        self.why_not = why_not
        self.first = self.last = 0
        """The first and the last step that were compared."""
        self._begin = lines[0].step if lines else 0
        self._end = self._expected[-1].step if lines else 0
        self._compared: set[str] = set()

    def __repr__(self) -> str:
        return f"<Continuation: {self}>"

    def __str__(self) -> str:
        match self.state:
            case "not checked":
                return f"whether it continues exactly is not checked: {self.why_not}"
            case "checking":
                return f"up to step {self._end} it will be compared with attempt {self.attempt}"
            case "differs":
                return f"does not continue exactly: differs from attempt {self.attempt} at step {self.last}"
            case "exact":
                steps = f"steps {self.first} to {self.last} are" if self.last > self.first else f"step {self.first} is"
                what = " and ".join(sorted(self._compared))
                return f"continues exactly: {steps} as in attempt {self.attempt} ({what})"

    def compare(self, line: Line) -> NotExactError | None:
        """Compare a step or the end of an epoch; returns how it differs. The comparison ends with the first that does."""
        if (
            self.state != "checking" or line.step < self._begin
        ):  # the end of an epoch whose last step is in the checkpoint
            return None
        found = self._difference(self._expected.popleft(), line, first=not self.first)
        self.first, self.last = self.first or line.step, line.step
        if found is not None:
            self.state = "differs"
        elif not self._expected:
            self.close()
        return found

    def give_up(self, why: str) -> None:
        """It cannot continue exactly: compare no more."""
        if self.state == "checking":
            self.state, self.why_not = "not checked", why

    def close(self) -> None:
        """No more steps come."""
        if self.state == "checking":
            self.state = "exact" if self._compared else "not checked"
            self.why_not = (
                "no step was made that has a batch or a metric on record" if self.first else "no step was made"
            )

    def _difference(self, before: Line, now: Line, *, first: bool) -> NotExactError | None:
        if (before.step, before.epoch, before.batch, before.ended) != (now.step, now.epoch, now.batch, now.ended):
            return self._error(now, _place(before), _place(now), _DATA)
        old, new = before.data, now.data
        if first:
            # At a restart amid gathered gradients, or amid an outer loop's batch, one of them has some batches more in front.
            length = min(len(old), len(new))
            old, new = old[len(old) - length :], new[len(new) - length :]
        if old or new:
            self._compared.add("batches")
            if old != new:
                return self._error(now, f"the batch that attempt {self.attempt} was given there", "another one", _DATA)
        for name in now.metrics:
            if name in before.metrics:
                self._compared.add("metrics")
                if before.metrics[name] != now.metrics[name]:
                    there, here = (f"{name} = {line.metrics[name]!r}" for line in (before, now))
                    return self._error(now, f"{there}, as in attempt {self.attempt}", here, _STATE)
        return None

    def _error(self, now: Line, expected: str, found: str, hint: str) -> NotExactError:
        return NotExactError(
            f"this attempt does not continue exactly: it differs from attempt {self.attempt}",
            where=_place(now),
            expected=expected,
            found=found,
            hint=hint,
        )


def what_came_after(
    run: Storage, records: Mapping[int, Record], checkpoint: Parent, overrides: Mapping[str, Any]
) -> Continuation:
    """What is to be compared after `checkpoint`: the steps of the attempt that made it, if that went on, else those of the first
    attempt that continued it and got further.

    Args:
        run: the run directory.
        records: of all attempts before this one.
        checkpoint: who made it, at which step.
        overrides: in force in this attempt; one that had others is no witness.
    """
    direct = [number for number, record in records.items() if record.parent == checkpoint]
    for number in [checkpoint.attempt, *sorted(direct)]:
        lines = read_after(run, number, checkpoint.step)
        if lines and (number not in records or records[number].overrides == overrides):
            return Continuation(lines, number)
    changed = checkpoint.attempt in records and records[checkpoint.attempt].overrides != overrides
    return Continuation(why_not="override= changes it" if changed else "no later step is on record")


def _place(line: Line) -> str:
    where = f"the end of epoch {line.epoch - 1}" if line.ended else f"epoch {line.epoch}, batch {line.batch}"
    return f"step {line.step}, {where}"


_DATA = "read the data through run.batches, and seed what shuffles it; `milepost audit` finds the cause"
_STATE = (
    "something that training depends on is not in the checkpoint, or is computed otherwise here (another processor, other "
    "versions, kernels that are not deterministic); `milepost audit` finds the cause"
)
