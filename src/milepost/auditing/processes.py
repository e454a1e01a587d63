"""Runs a person's command in fresh processes, each with scratch of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from milepost.auditing.records import Head, Seen, read_log
from milepost.auditing.spec import EARLY, LOOPS, Spec
from milepost.auditing.taker import Taken
from milepost.errors import AuditError, ScriptError
from milepost.folder import names
from milepost.ops.redirected import ASKED, MADE, OWN, SCRIPT_VARIABLE, STARTED, VARIABLE, read_told, scratch_name

STARTUP = Path(__file__).parent / "startup"
TIMED_OUT = 124
"""What `launch` returns for a process that took too long, as timeout(1) does."""
GRACE = 60.0
"""Seconds beyond its limit after which a process is killed: it ends by itself at the first moment that is observed."""
SLOWER, SPARE = 5.0, 120.0
"""How much slower than the first process, and how many seconds more, another one may be before it is killed."""
OF_FREE = 0.8
"""The part of the free space that is used."""
MOST_FILES, LARGEST_COPY = 50_000, 1 << 30
_PASSED_BY = {".git", "__pycache__", ".venv", "node_modules", ".mypy_cache", ".ruff_cache", ".pytest_cache"}

Launch = Callable[[Sequence[str], Mapping[str, str], Path, Path, float | None], int]
"""(command, environment, working directory, file for what it prints, seconds) -> exit code, that of a signal negative."""


def launch(
    command: Sequence[str], environment: Mapping[str, str], cwd: Path, output: Path, seconds: float | None
) -> int:
    """See `Launch`. Nothing that the process started outlives it."""
    with output.open("ab") as file:
        try:
            process = subprocess.Popen(  # noqa: S603 - it is the person's own command
                command, env=dict(environment), cwd=cwd, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise AuditError("the command cannot be started", where=command[0], found=error) from error
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        _kill_offspring(environment)
        process.wait()


def _kill_offspring(environment: Mapping[str, str]) -> None:
    """Kill what the process that was given `environment` has left running, also outside its group: it is known by the variable that
    names what is to be done, which no other process has. Where there is no /proc, that is not done."""
    marks = {f"{name}={environment[name]}".encode() for name in (VARIABLE, SCRIPT_VARIABLE) if name in environment}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if not marks.isdisjoint((folder / "environ").read_bytes().split(b"\0")):
                os.kill(int(folder.name), signal.SIGKILL)
        except OSError:  # it has ended, or belongs to somebody else
            continue


class Ran(NamedTuple):
    """What one process left behind."""

    name: str
    code: int
    limit: float
    """Seconds that it was given."""
    logs: list[tuple[Head, list[Seen]]]
    output: Path
    runs: Path
    saved: Path

    @property
    def early(self) -> str:
        """Why it was ended before the script had, if it was."""
        told = self.runs.with_name("log") / EARLY
        return told.read_text("utf-8") if told.exists() else self.cut if self.timed_out else ""

    @property
    def reads_own(self) -> bool:
        """Whether saving was off, and the script read what it would have saved."""
        return self.runs.with_name(OWN).exists()

    def loops(self, kind: str) -> list[str]:
        """Names of loops that read a loader with workers ("workers"), or something else ("others")."""
        folder = self.runs.with_name("log") / LOOPS / kind
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    @property
    def asked(self) -> list[tuple[str, str]]:
        """What of the person's the script asked for and did not see; see `milepost.ops.redirected.ASKED`."""
        return read_told(self.runs.with_name(ASKED))

    @property
    def timed_out(self) -> bool:
        """Whether it was killed since it took too long."""
        return self.code == TIMED_OUT

    @property
    def failed(self) -> bool:
        """Whether it ended with an error. Where saving was off and a child of the script read what is not there, it may."""
        return self.code not in (0, TIMED_OUT) and not (self.reads_own and any(seen for _, seen in self.logs))

    @property
    def cut(self) -> str:
        """That it was killed, in words."""
        return f"the process was ended after {self.limit:.0f} s"

    def error(self) -> str:
        """The error it ended with, as far as it was printed."""
        return last_words(self.output)


def last_words(output: Path) -> str:
    """The error that a process ended with, in one line: the last lines that it printed, from one on that is not indented."""
    lines = output.read_text("utf-8", "replace").splitlines()
    begin = next((number for number, line in reversed(list(enumerate(lines))) if line[:1].strip()), 0)
    return " ".join(" ".join(lines[begin:]).split())


class Bench:
    """Where the processes of an audit run, and a folder of scratch for each.

    Args:
        command: the person's.
        cwd: where they would have started it.
        copy_cwd: give every process a copy of that.
        environment: theirs.
        seconds: that the first process may take.
        space: bytes that all scratch may take; None for most of what is free.
        keep: remove nothing of it.
        launch: starts one.
    """

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        scratch: Path,
        *,
        copy_cwd: bool,
        environment: Mapping[str, str],
        seconds: float,
        space: int | None,
        keep: bool,
        launch: Launch,
    ) -> None:
        self.command, self.cwd, self.scratch = list(command), cwd, scratch
        self._copy_cwd, self._environment, self._launch = copy_cwd, environment, launch
        self.seconds = seconds
        self._keep = keep
        self.space = int(OF_FREE * shutil.disk_usage(scratch).free) if space is None else space
        """Bytes that all scratch may take."""
        self._limit = seconds + GRACE
        self.audited = ""
        """The name of the run that is audited, once it is known."""
        self.opened: dict[str, str] = {}
        """The runs that the script opens: name in scratch -> run directory."""
        self.inputs: set[str] = set()
        """Names of runs that it reads, and does not open."""
        self.needed: set[str] = set()
        """Files of the person's in runs that it does open, and cannot do without."""

    def folder(self, name: str) -> Path:
        """The scratch folder of process `name`."""
        return self.scratch / name

    def clear(self, name: str, *, always: bool = False) -> None:
        """Remove the scratch of process `name`, which is not needed any more; if all is kept, only with `always`."""
        if always or not self._keep:
            shutil.rmtree(self.folder(name), ignore_errors=True)

    def run(self, name: str, spec: Spec | None = None, environment: Mapping[str, str] | None = None) -> Ran:
        """Run the command once, to its end or to where `spec` ends it. How long the others may take follows from how long the
        one with ``spec.seconds`` took.

        Args:
            name: a folder of scratch; what it holds already (a run directory to continue) is left there.
            spec: what the watcher is to do; where it keeps things is filled in here.
            environment: changes to the person's.
        """
        here = self.folder(name)
        cwd = self._own_cwd(here).resolve()
        spec = msgspec.structs.replace(
            spec or Spec("", "", ""), runs=str(here / "runs"), log=str(here / "log"), cwd=str(cwd)
        )
        spec.home, spec.opened, spec.run = str(self.cwd), self.opened, self.audited
        spec.inputs, spec.given = sorted(self.inputs), sorted(self.needed)
        if spec.saved is not None:
            spec.saved = str(here / "saved")
        (here / "runs").mkdir(parents=True, exist_ok=True)
        (here / "spec.json").write_bytes(msgspec.json.encode(spec))
        output = here / "output.txt"
        variables = self._variables(VARIABLE, here / "spec.json", environment)
        limit, started = self._limit, time.monotonic()
        code = self._launch(self.command, variables, cwd, output, limit)
        if spec.seconds is not None:
            self._limit = SLOWER * (time.monotonic() - started) + SPARE
        logs = [
            read_log(path) for path in sorted((here / "log").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
        ]
        for head, _ in logs:
            self.opened.setdefault(os.path.basename(head.scratch), self._at_home(head.run, cwd))
        return Ran(name, code, limit, logs, output, here / "runs", here / "saved")

    def started(self) -> list[tuple[str, str]]:
        """Programs that are no Python, and the paths of runs that the script gave them."""
        return list(dict.fromkeys(one for told in self.scratch.glob(f"*/{STARTED}") for one in read_told(told)))

    def clear_up(self) -> None:
        """Remove the folders above runs that the script made, and that are empty since these runs stand in scratch."""
        above = {str(folder) for run in self.opened.values() for folder in Path(run).parents}
        made = {path for told in self.scratch.glob(f"*/{MADE}") for _, path in read_told(told)}
        for path in sorted(made & above, key=len, reverse=True):
            with suppress(OSError):
                os.rmdir(path)

    def _variables(self, name: str, told: Path, changes: Mapping[str, str] | None) -> dict[str, str]:
        """The environment of a process, in which `name` names the file `told`, and what watches comes first."""
        variables = {**self._environment, **(changes or {}), name: str(told)}
        before = variables.get("PYTHONPATH")
        return {**variables, "PYTHONPATH": os.pathsep.join([str(STARTUP), *([before] if before else [])])}

    def _at_home(self, place: str, cwd: Path) -> str:
        """A path in a copy of the working directory as the person knows it."""
        return f"{self.cwd}{place[len(str(cwd)) :]}" if place.startswith(f"{cwd}{os.sep}") else place

    def prepare(self, name: str, taken: Taken) -> None:
        """Make scratch for process `name` in which the runs stand as they did when `taken` was put aside."""
        shutil.copytree(taken.folder, self.folder(name) / "runs", copy_function=os.link)

    def _own_cwd(self, here: Path) -> Path:
        if not self._copy_cwd:
            return self.cwd
        target = here / "cwd"
        if not target.exists():
            size = sum(one.size for one in files_in(self.cwd).values())
            if size > LARGEST_COPY:
                raise AuditError(
                    "the working directory is too large to be copied for every process",
                    where=self.cwd,
                    found=f"{size >> 20} MiB",
                    hint="start the script from a smaller directory, or leave --copy-cwd out",
                )
            shutil.copytree(self.cwd, target, symlinks=True, ignore=self._left_behind)
            for path in self.needed:
                copy = Path(f"{target}{path[len(str(self.cwd)) :]}")
                if path.startswith(f"{self.cwd}{os.sep}"):
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, copy)
        return target

    def _left_behind(self, folder: str, found: Sequence[str]) -> set[str]:
        """What of a folder is not copied: caches, and runs but for those that the script reads without opening them."""
        runs = {
            name
            for name in found
            if os.path.isfile(os.path.join(folder, name, names.RUN))
            and scratch_name(os.path.realpath(os.path.join(folder, name)), str(self.cwd)) not in self.inputs
        }
        return _PASSED_BY & set(found) | runs


class Stamp(NamedTuple):
    """What tells whether a file was changed."""

    size: int
    changed: int


def files_in(folder: Path) -> dict[str, Stamp]:
    """The files below `folder`, by path; those of version control, caches and environments are passed by."""
    found: dict[str, Stamp] = {}
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _PASSED_BY]
        for name in files:
            path = os.path.join(here, name)
            try:
                stamp = os.lstat(path)
            except FileNotFoundError:
                continue
            found[os.path.relpath(path, folder)] = Stamp(stamp.st_size, stamp.st_mtime_ns)
            if len(found) >= MOST_FILES:
                return found
    return found


@contextmanager
def scratch_folder(keep: Path | None) -> Iterator[Path]:
    """A new folder for scratch, without links in its path, removed at the end unless it is to be kept under a name."""
    if keep is not None:
        try:
            keep.mkdir(parents=True)
        except OSError as error:
            raise ScriptError(
                "the folder for scratch cannot be made", where=keep, found=error, hint="name one that is not there yet"
            ) from error
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="milepost-audit-") as folder:
        yield Path(folder).resolve()
