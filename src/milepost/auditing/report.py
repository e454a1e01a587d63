"""What an audit found out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from milepost.auditing.causes import Cause
from milepost.auditing.records import Key

SHOWN = 6
"""Leaves that are named of those that differ."""


RESTART = "restart"
"""The aspect of a row whose process failed."""


class Verdict(StrEnum):
    """How an audit ends, or one comparison."""

    EXACT = "exact"
    NOT_EXACT = "not exact"
    INCOMPLETE = "incomplete"
    LEFT_OUT = "left out"
    """Of a point that nobody asked for by name, and that there was no room for."""


@dataclass(frozen=True)
class Difference:
    """One leaf that is not the same, and by how much."""

    path: str
    how_much: str | None = None


@dataclass(frozen=True)
class Row:
    """One comparison: the uninterrupted script against another process.

    `name` says which ("resumed after step 3", "without saving"), `at` is the point, `compared` how many moments were. Where they
    part, `where` is the first moment that differs, `aspect` what (place, batches, rng, state, gradients, metrics, objects,
    restart), `differences` which leaves, `expected` and `found` what else there is to say, `causes` the likely ones.
    """

    name: str
    label: str
    at: Key | None
    compared: int
    verdict: Verdict
    where: Key | None = None
    aspect: str = ""
    differences: tuple[Difference, ...] = ()
    expected: str | None = None
    found: str | None = None
    causes: tuple[Cause, ...] = ()
    note: str = ""

    @property
    def result(self) -> str:
        """The verdict in a table's cell."""
        match self.verdict:
            case Verdict.NOT_EXACT if self.aspect == RESTART:
                return "fails"
            case Verdict.NOT_EXACT:
                return f"differs at step {self.where.step}: {self.aspect}" if self.where is not None else "differs"
            case Verdict.EXACT if self.where is not None:
                return "differs, by chance"
            case Verdict.INCOMPLETE:
                return "not answered"
            case verdict:
                return str(verdict)


@dataclass
class Finding:
    """One kind of difference: the first row that has it, all rows that have it, and those of its causes that no finding before it
    had."""

    row: Row
    also: list[Row]
    new: list[Cause] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Which process differs, where, and in what."""
        if self.row.aspect == RESTART:
            return f"{self.row.name} the script fails"
        return f"{self.row.name} differs at {self.row.where}: {self.row.aspect}"

    def facts(self) -> list[str]:
        """What differs, a line each."""
        row = self.row
        lines = [f"likewise {', '.join(one.name for one in self.also[1:])}"] if len(self.also) > 1 else []
        if row.expected or row.found:
            lines.append(f"expected {row.expected}, found {row.found}")
        shown = () if row.aspect == "metrics" else row.differences[:SHOWN]
        lines += [f"`{one.path}`: {one.how_much or 'differs'}" for one in shown]
        if len(row.differences) > SHOWN:
            lines.append(f"and {len(row.differences) - SHOWN} more")
        return lines

    def causes(self) -> list[str]:
        """The likely ones, and what mends them."""
        return [cause.text for cause in self.new] or ["as above"] * bool(self.row.causes)

    def details(self) -> list[str]:
        """What differs, and why, a line each."""
        return [*self.facts(), *(f"cause: {text}" for text in self.causes())]


@dataclass(frozen=True)
class Report:
    """The answer of `milepost.audit`.

    Example:
        >>> report = milepost.audit(["python", "train.py"])
        >>> report.verdict, report.exit_code
        (<Verdict.EXACT: 'exact'>, 0)
    """

    command: tuple[str, ...]
    verdict: Verdict
    rows: tuple[Row, ...]
    seen: int
    """Leaves that were compared at every moment."""
    unseen: tuple[str, ...] = ()
    """What could not be observed."""
    remarks: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Files that the script wrote, those in the working directory relative to it."""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{str(self.verdict).upper()}: {' '.join(self.command)}"]
        for one in self.findings():
            lines += [one.title, *(f"  {text}" for text in one.details())]
        lines += [f"{row.name}: {row.result}: {row.note}" for row in self.rows if row.note]
        lines += [f"note: {text}" for text in self.remarks]
        lines += [f"could not be observed: {text}" for text in self.unseen]
        return "\n".join(lines)

    def findings(self) -> list[Finding]:
        """What is not exact, each kind once."""
        found: dict[Any, Finding] = {}
        for row in self.rows:
            if row.verdict is Verdict.NOT_EXACT:
                kind = (row.aspect, tuple(one.path for one in row.differences), row.causes)
                found.setdefault(kind, Finding(row, [])).also.append(row)
        told: set[Cause] = set()
        for one in found.values():
            one.new = [cause for cause in one.row.causes if cause not in told]
            told |= set(one.row.causes)
        return list(found.values())

    @property
    def moments(self) -> int:
        """How many moments were compared after restarts."""
        return sum(row.compared for row in self.rows if row.at is not None)

    @property
    def exit_code(self) -> int:
        """0 exact, 1 not exact, 3 incomplete."""
        return {Verdict.EXACT: 0, Verdict.NOT_EXACT: 1, Verdict.INCOMPLETE: 3}[self.verdict]

    @property
    def causes(self) -> tuple[Cause, ...]:
        """The likely causes of all comparisons, each once."""
        return tuple(dict.fromkeys(cause for row in self.rows for cause in row.causes))

    def as_json(self) -> dict[str, Any]:
        """With stable keys, for `milepost audit --json`."""
        return {
            "verdict": str(self.verdict),
            "command": list(self.command),
            "comparisons": [_row_as_json(row) for row in self.rows],
            "leaves": self.seen,
            "unseen": list(self.unseen),
            "remarks": list(self.remarks),
            "files": list(self.files),
            "seconds": round(self.seconds, 3),
            "versions": self.versions,
        }


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "point": row.label,
        "at": _key(row.at),
        "compared": row.compared,
        "verdict": str(row.verdict),
        "where": _key(row.where),
        "aspect": row.aspect or None,
        "expected": row.expected,
        "found": row.found,
        "differences": [{"path": one.path, "how_much": one.how_much} for one in row.differences],
        "causes": [{"path": one.path, "text": one.text} for one in row.causes],
        "note": row.note or None,
    }


def _key(key: Key | None) -> dict[str, Any] | None:
    return None if key is None else {name: one for name, one in key._asdict().items() if name != "session"}
