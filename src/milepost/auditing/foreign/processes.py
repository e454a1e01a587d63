"""Runs the person's commands with the start-up module in front, and reads what the processes wrote down."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from milepost.auditing.foreign.overlay import family
from milepost.auditing.foreign.records import Line, Log, Save, Spec, read
from milepost.auditing.processes import GRACE, TIMED_OUT, Bench, last_words
from milepost.auditing.records import Seen
from milepost.errors import AuditError
from milepost.ops.redirected import SCRIPT_VARIABLE


class Played(NamedTuple):
    """What one command left behind. `logs` are those of its processes, the one that is compared first; `frameworks` were
    imported somewhere; `started` says whether any Python process was seen."""

    name: str
    code: int
    logs: list[Log]
    output: Path
    frameworks: frozenset[str]
    started: bool

    @property
    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self.code not in (0, TIMED_OUT)

    @property
    def seen(self) -> list[Seen]:
        """The moments of the process that is compared."""
        return self.logs[0].seen if self.logs else []

    @property
    def saves(self) -> list[Save]:
        """What that process saved."""
        return self.logs[0].saves if self.logs else []

    @property
    def ranks(self) -> list[str]:
        """Of distributed processes that make steps; else there is one."""
        return list(dict.fromkeys(log.head.run for log in self.logs if log.seen)) or ["0"]

    def of_rank(self, rank: str) -> Played:
        """With the process of one rank first."""
        return self._replace(logs=sorted(self.logs, key=lambda one: one.head.run != rank))

    def error(self) -> str:
        """The error it ended with, as far as it was printed."""
        return last_words(self.output)

    def told(self, what: str) -> list[str]:
        """What processes told of one kind (``made``, ``family``, ``folder``, ``other``), each once."""
        found = (getattr(line, what) for log in self.logs for line in log.lines)
        return list(dict.fromkeys(one for one in found if one is not None))

    def loads(self) -> list[tuple[str, bool]]:
        """The files that ``torch.load`` read, and whether they are the person's own."""
        return [line.load for log in self.logs for line in log.lines if line.load is not None]


class ScriptBench(Bench):
    """Where the processes of an audit run; see `Bench`."""

    families: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    """What is known of the files that the script saves."""
    saver = "torch"
    """The library that saves."""
    given: tuple[str, ...] = ()
    """Files of the person's of which every process has a copy in scratch at first."""

    def mirror(self, name: str) -> Path:
        """Where the files are that the processes called `name` saved."""
        return self.folder(name) / "files"

    def play(
        self,
        name: str,
        seed: int,
        *,
        command: Sequence[str] | None = None,
        moments: int | None = None,
        kill: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Played:
        """Run a command to its end.

        Args:
            name: a folder of scratch; the files it holds already are seen by the command.
            seed: of all libraries at first.
            command: what to run; the person's first command by default.
            moments: see `Spec`.
            kill: see `Spec`.
            environment: changes to the person's.
        """
        here = self.folder(name)
        log, mirror = here / f"log-{seed}", self.mirror(name)
        log.mkdir(parents=True)
        if not mirror.exists():
            self._begin(mirror)
        cwd = self._own_cwd(here)
        spec = Spec(str(mirror), str(log), str(cwd), seed, list(self.families), list(self.folders),
                    moments=moments, seconds=self.seconds, kill=kill, saver=self.saver)  # fmt: skip
        path = here / f"spec-{seed}.json"
        path.write_bytes(msgspec.json.encode(spec))
        variables = self._variables(SCRIPT_VARIABLE, path, environment)
        output = here / "output.txt"
        code = self._launch(self.command if command is None else command, variables, cwd, output, self.seconds + GRACE)
        return self._played(name, code, log, output)

    def _begin(self, mirror: Path) -> None:
        mirror.mkdir()
        for path in self.given:
            copy = Path(f"{mirror}{path}")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)

    def _played(self, name: str, code: int, log: Path, output: Path) -> Played:
        for problem in log.glob("*.problem"):
            where, text = problem.read_text("utf-8").split("\n", 1)
            raise AuditError(
                "the script's Python cannot load what watches it",
                where=where,
                found=text.strip().splitlines()[-1],
                hint="install milepost for that Python too",
            )
        logs = sorted(
            (read(path) for path in log.glob("*.jsonl")), key=lambda one: (not one.seen, one.head.run, -len(one.seen))
        )
        processes = [json.loads(path.read_text("utf-8")) for path in log.glob("*.process")]
        frameworks = frozenset(one for process in processes for one in process["frameworks"])
        return Played(name, code, logs, output, frameworks, bool(logs or processes))

    def drop_files(self, name: str) -> None:
        """Remove what was saved in the processes called `name`, since nobody resumes from that."""
        if not self._keep:
            shutil.rmtree(self.mirror(name))

    def learn(self, played: Played) -> None:
        """From now on, files that `played` kept in scratch are there from the beginning."""
        self.families = tuple(dict.fromkeys((*self.families, *played.told("family"))))
        self.folders = tuple(dict.fromkeys((*self.folders, *played.told("folder"))))

    def checkpoint(self, played: Played, saves: Sequence[Save]) -> Path | None:
        """The file to resume from: of those that were saved last, the one that holds most, under the name it has now."""
        found: list[tuple[int, int, Path]] = []
        lines = played.logs[0].lines if played.logs else []
        for number, save in enumerate(saves):
            here = _renamed(save.path, [line.moved for line in lines[_index(lines, save) :] if line.moved is not None])
            path = Path(f"{self.mirror(played.name)}{here}")
            if path.exists():
                found.append((-len(save.leaves), number, path))
        return min(found)[2] if found else None

    def reads_own(self, played: Played) -> list[str]:
        """The person's own files that the process went on from: it loaded them, and saves to files of their families, or saves
        nothing any more."""
        saved = set(played.told("family"))
        return [path for path, own in played.loads() if own and (family(path) in saved or not played.saves)]

    def give(self, paths: Sequence[str]) -> None:
        """From now on, every process begins with copies of these."""
        self.given = tuple(dict.fromkeys(paths))

    def hide(self, paths: Sequence[str]) -> None:
        """From now on, these and others of their families are not seen."""
        self.families = tuple(dict.fromkeys((*self.families, *map(family, paths))))


def _index(lines: Sequence[Line], save: Save) -> int:
    return next(number for number, line in enumerate(lines) if line.save is save)


def _renamed(path: str, moves: Sequence[tuple[str, str, bool]]) -> str:
    """What a file is called after it, or a folder that it is in, got other names."""
    for source, target, copied in moves:
        if not copied and (path == source or path.startswith(source + os.sep)):
            path = target + path[len(source) :]
    return path
