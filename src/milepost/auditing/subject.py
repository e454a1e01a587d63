"""Which of the runs that a script opens is audited, and what a process saw of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from milepost.auditing.processes import Ran
from milepost.auditing.records import Seen
from milepost.errors import AuditError


class Subject:
    """The run that is audited: the one that the first process made most of.

    Args:
        command: what starts the script, for errors.
        remark: is told what a person should know.
    """

    def __init__(self, command: Sequence[str], remark: Callable[[str], None]) -> None:
        self._command, self._remark = " ".join(command), remark
        self.name = ""
        """That of its scratch directory, the same in all processes."""

    def seen_by(self, ran: Ran, *, may_fail: bool = False) -> list[Seen]:
        """What the process saw of the run.

        Raises:
            AuditError: it failed (unless it may), or did not open the run.
        """
        if ran.failed and not may_fail:
            how = "by itself, without saving" if ran.name == "control" else f"when it is run again ({ran.name})"
            raise AuditError(
                f"the script fails {how}, with exit code {ran.code}",
                where=self._command,
                found=ran.error() or "no output",
                hint="run it by hand first; --scratch DIR keeps what every process printed",
            )
        self._choose(ran)
        runs = {os.path.basename(head.scratch): head.run for head, _ in ran.logs}
        if len(runs) > 1:
            self._remark(f"the script opens {len(runs)} runs; {runs.get(self.name, self.name)} was audited")
        found = [seen for head, seen in ran.logs if os.path.basename(head.scratch) == self.name and seen]
        if not found:
            raise AuditError(
                f"the run is not opened any more ({ran.name}{': ' + ran.cut if ran.timed_out else ''})",
                where=self.name,
                found=ran.error() or "no output",
            )
        if len(found) > 1:
            self._remark(f"{len(found)} processes open the run; the one that does most was compared")
        return max(found, key=len)

    def beside(self, ran: Ran) -> dict[str, list[Seen]]:
        """What the process saw of the other runs, by their names in scratch."""
        found: dict[str, list[Seen]] = {}
        for head, seen in ran.logs:
            name = os.path.basename(head.scratch)
            if name != self.name and len(seen) > len(found.get(name, ())):
                found[name] = seen
        return found

    def _choose(self, ran: Ran) -> None:
        if self.name:
            return
        longest = max(ran.logs, key=lambda log: len(log[1]), default=None)
        if longest is None or not longest[1]:
            raise AuditError(
                "the script made no run that can be observed",
                where=self._command,
                found=ran.error() or "no output",
                expected="milepost.Checkpointer(...) and run.step(...)",
                hint="milepost audit looks at scripts that use milepost.Checkpointer",
            )
        self.name = os.path.basename(longest[0].scratch)
