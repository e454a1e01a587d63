"""The watcher inside an audited process: gives the run a scratch directory, saves where it is told to, writes down what it sees.

It is set up by a file that the environment names (`Spec`), so every process the script starts has its own.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from milepost.auditing.evidence import Evidence
from milepost.auditing.files import run_files
from milepost.auditing.files.writes import Writes
from milepost.auditing.records import THE_END, Batch, Head, Key, Log, Samples, Seen, digest_of, opaque_batch
from milepost.auditing.spec import EARLY, LOOPS, MOST_LOG, Spec
from milepost.auditing.taker import Taker
from milepost.core.leaves import Leaf, fingerprint, leaves
from milepost.core.paths import escape
from milepost.errors import MilepostError
from milepost.folder.retention import Keep
from milepost.folder.run import Listed
from milepost.ops.redirected import VARIABLE, on_read, scratch_name
from milepost.pipeline.persist import Pending
from milepost.training.session import Session
from milepost.training.watching import Opening

_TOO_MUCH = f"the script was ended since more than {MOST_LOG >> 20} MiB were written down about it"
LAST = 3
"""Checkpoints that an audited run keeps at least, beside those that are put aside."""
LARGE = 1 << 16
"""Bytes above which a tensor of the script (not of the state) is compared by parts."""


class Ended(SystemExit):
    """The script is ended here: what was to be seen was seen."""


class Unsaved(Pending):
    """A save that was asked for while saving is switched off."""

    def __init__(self, step: int, on_read: Callable[[], None]) -> None:
        super().__init__(step)
        self._on_read = on_read

    def done(self) -> bool:
        """It is as good as done."""
        return True

    def result(self, timeout: float | None = None) -> Listed:
        """There is nothing to look at."""
        self._on_read()
        raise TimeoutError(
            f"step {self.step} is not saved: `milepost audit` runs this process with saving switched off"
        )


class Observer:
    """See `milepost.training.watching.Watcher`."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self.saves = spec.saved is not None
        self._until = None if spec.seconds is None else time.monotonic() + spec.seconds
        self._wrote = 0
        self._runs: dict[str, Watched] = {}
        self._beside: list[tuple[str, Any]] = []
        self._ended = False
        self._watched: set[str] = set()
        """Frameworks whose loaders are watched."""
        self._loops: set[str] = set()
        on_read.append(self._read)
        Writes(spec.log, os.path.dirname(spec.runs))

    def open(self, asked: Opening) -> Opening:
        """Redirect the run into scratch; the script's own policy is put aside."""
        place = os.path.realpath(asked.directory)
        scratch = os.path.join(self._spec.runs, scratch_name(place, self._spec.cwd))
        os.makedirs(os.path.dirname(scratch), exist_ok=True)
        run_files.opens(place, scratch)
        keep = asked.keep or Keep()
        elsewhere = "/" in asked.resume or "@" in asked.resume
        if elsewhere and os.path.realpath(asked.resume.partition("@")[0]) == place:
            elsewhere = False
        if place not in self._runs:
            self._runs[place] = Watched(self._spec, place, scratch, self._open_runs)
        return Opening(
            scratch,
            None,
            Keep(last=max(keep.last or LAST, LAST), best=keep.best),
            asked.resume if elsewhere else "latest",
        )

    def began(self, session: Session) -> None:
        """An attempt was opened."""
        self._of(session).began(session)
        self._watch_loaders()

    def handed(self, session: Session, loop: str, batch: Any) -> None:
        """A batch is handed out."""
        self._of(session).handed(loop, batch)
        if self._spec.workers is not None and loop not in self._loops:
            self._loops.add(loop)
            kind = "workers" if _has_workers(session.loops.loader(loop)) else "others"
            told = Path(self._spec.log, LOOPS, kind)
            told.mkdir(parents=True, exist_ok=True)
            told.joinpath(escape(loop)).touch()

    def observe(self, session: Session, asker: str) -> None:
        """Write down what is here, and end the script where it is to end."""
        if self._ended:  # it caught our exit and went on
            os._exit(0)
        self._watch_loaders()
        for place, batch in self._beside:
            self._of(session).handed(place, batch)
        self._beside.clear()
        key = self._of(session).observe(session, asker)
        spec = self._spec
        if key is None or not self._of(session).audited:
            return
        over = key == spec.end or (spec.steps is not None and key.step >= spec.steps)
        late = self._too_late or (spec.seconds is not None and self._of(session).written > MOST_LOG)
        if over or late:
            self._of(session).taker.collect()
            self._end("" if over else f"the script was ended after {spec.seconds:g} s" if self._too_late else _TOO_MUCH)

    def saved(self, session: Session, pending: Pending) -> None:
        """A checkpoint is taken where the script was seen last."""
        self._of(session).taker.saved(pending)

    def unsaved(self, session: Session, step: int) -> Pending:
        """A checkpoint would be taken: as long as the script does not look at it, it has it."""
        return Unsaved(step, self._read)

    def goes_back(self, session: Session) -> None:
        """Without checkpoints there is nothing to go back to: what comes after that is not compared."""
        self._read()

    def _read(self) -> None:
        """The script reads what it has saved: the same."""
        if not self.saves and any(one.begun for one in self._runs.values()):
            self._end("the script reads a checkpoint of its own run")

    @property
    def _too_late(self) -> bool:
        return self._until is not None and time.monotonic() > self._until

    def _end(self, early: str) -> None:
        """End the script; `early` says why, if that is before its time."""
        if early:
            Path(self._spec.log, EARLY).write_text(early, "utf-8")
        self._ended = True
        raise Ended(0)

    def ended(self, session: Session, how: str) -> None:
        """An attempt ends. What a complete run ends with is seen: a process that is started again may have nothing else to do."""
        if how == "complete":
            self.observe(session, THE_END)
        self._of(session).taker.collect()
        self._of(session).session = None

    def _open_runs(self) -> dict[str, Session]:
        return {one.scratch: one.session for one in self._runs.values() if one.session is not None}

    def _of(self, session: Session) -> Watched:
        scratch = os.path.realpath(session.opened.run.where)
        return next(one for one in self._runs.values() if os.path.realpath(one.scratch) == scratch)

    def _watch_loaders(self) -> None:
        if "torch" in sys.modules and "torch" not in self._watched:
            from milepost.torch.scripts import redirect_files
            from milepost.torch.watching import set_workers, watch_loaders

            self._watched.add("torch")
            redirect_files(run_files.where)
            if self._spec.workers is not None:
                set_workers(self._spec.workers)
            watch_loaders(lambda place, batch: self._beside.append((place, batch)))
        if "tensorflow" in sys.modules and "tensorflow" not in self._watched:
            from milepost.tensorflow.watching import watch_iterators

            self._watched.add("tensorflow")
            watch_iterators(lambda place, batch: self._beside.append((place, batch)))


class Watched:
    """One run of this process."""

    def __init__(self, spec: Spec, place: str, scratch: str, open_runs: Callable[[], dict[str, Session]]) -> None:
        self._spec, self.scratch = spec, scratch
        self._path = Path(spec.log, f"{os.path.basename(scratch)}.{time.time_ns()}-{os.getpid()}.jsonl")
        self._log = Log(self._path, Head(place, scratch, os.getpid(), sys.argv))
        self._samples = Samples(self._path)
        self._session = -1
        self._seen: set[Key] = set()
        self._batches: list[Batch] = []
        self._under_way: dict[str, dict[str, str]] = {}
        self._opaque: list[str] = []
        self._evidence: Evidence | None = None
        self.audited = spec.run in ("", os.path.basename(scratch))
        """Whether this is the run that is audited, as far as that is known."""
        self.session: Session | None = None
        """Of the attempt under way."""
        self._open_runs = open_runs
        self.taker = Taker(spec, scratch, open_runs)

    @property
    def begun(self) -> bool:
        """Whether it was seen at some moment."""
        return bool(self._seen)

    @property
    def written(self) -> int:
        """Bytes that were written down."""
        return self._log.size

    def began(self, session: Session) -> None:
        self.session = session
        self._session += 1
        self._evidence = None

    def handed(self, loop: str, batch: Any) -> None:
        found = {}
        for leaf in leaves(batch, "", _own_objects):
            found[leaf.path or "."] = self._digest(leaf)
            if leaf.opaque:
                self._opaque.append(opaque_batch(loop, leaf))
        self._batches.append(Batch(loop, found))
        self._under_way[loop] = found

    def observe(self, session: Session, asker: str) -> Key | None:
        where = session.progress
        key = Key(self._session, where.step, where.epoch, where.batch, str(where.phase), asker)
        if key in self._seen:
            return None
        first = not self._seen
        self._seen.add(key)
        if first:  # batches before the place where the state was captured is reached are read again, not new
            self._batches.clear()
        evidence = self._evidence = self._evidence or Evidence()
        state = list(
            self._state(session)
        )  # first: where variables are elsewhere meanwhile (JAX in fit), they are now here
        script = {
            leaf.path: self._digest(leaf, whole=False) for leaf in evidence.look(self._items()) if not leaf.opaque
        }
        seen = Seen(
            key,
            state=self._digests(state),
            rng=self._digests(leaves(self._random(session), "rng")),
            gradients=self._digests(leaves(session.gathered(), "gradients")),
            metrics={name: repr(value) for name, value in session.metrics.read().items()},
            script=script,
            batches=self._batches,
            under_way=dict(self._under_way),
            opaque=self._opaque,
            kinds=evidence.new_kinds(),
            size=sum(leaf.info.nbytes for leaf in state if leaf.info is not None),
        )
        self._samples.flush()
        self._log.write(seen)
        self._batches, self._opaque = [], []
        if self._spec.saved is not None and self.audited:
            self.taker.passed(session, key, seen.size)
        return key

    def _items(self) -> list[Any]:
        """What is in the state of any run."""
        return [item.object for session in self._open_runs().values() for item in session.items.values()]

    def _random(self, session: Session) -> dict[str, Any]:
        apart = {name for item in session.items.values() for name in getattr(item, "unsteady", tuple)()}
        return {name: state for name, state in session.rng.capture().items() if name not in apart}

    def _state(self, session: Session) -> Any:
        for item in session.items.values():
            # Where an item says so, only part of it is compared: a position in data is, by the batches that come.
            yield from leaves(getattr(item, "compared", item.capture)(), item.name)
        yield from leaves(session.vars, "run.vars")
        yield from leaves(session.best.capture(), "best")

    def _digests(self, found: Any) -> dict[str, str]:
        digests = {}
        for leaf in found:
            digests[leaf.path] = self._digest(leaf)
            if leaf.opaque:
                self._opaque.append(f"{leaf.path} ({leaf.kind})")
        return digests

    def _digest(self, leaf: Leaf, *, whole: bool = True) -> str:
        if not whole and leaf.info is not None and leaf.info.nbytes > LARGE:
            return fingerprint(leaf.value)
        digest = digest_of(leaf)
        self._samples.put(digest, leaf)
        return digest


def _has_workers(loader: object) -> bool:
    if "torch" not in sys.modules:
        return False
    from milepost.torch.watching import is_loader

    return is_loader(loader)


def _own_objects(value: Any, path: str) -> Mapping[str, Any] | None:
    """The attributes of a batch that is an object of a class of its own."""
    held = getattr(value, "__dict__", None)
    return held if held and not callable(value) else None


@functools.cache
def watcher() -> Observer:
    """The watcher of this process."""
    path = os.environ[VARIABLE]
    try:
        return Observer(msgspec.json.decode(Path(path).read_bytes(), type=Spec))
    except (OSError, msgspec.DecodeError) as error:
        raise MilepostError(
            "this process is told to be audited, but what to do cannot be read",
            where=path,
            found=error,
            hint=f"unset {VARIABLE}, which only `milepost audit` sets",
        ) from error
