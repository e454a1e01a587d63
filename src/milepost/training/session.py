"""The machine behind `Checkpointer`: what the run knows of itself, and what happens at a boundary.

A *boundary* is a moment at which everything that belongs to a step has happened and nothing of the next has: when a
loop is asked for its next batch, when it ends, between two epochs. Saves are asked for anywhere (a policy, a signal, a torn
snapshot) and happen at the next boundary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from milepost.errors import LoaderError, ScriptError, StepError
from milepost.folder.retention import Keep
from milepost.folder.snapshot import Position
from milepost.pipeline.persist import Pending
from milepost.pipeline.stage import Captured
from milepost.training.arrival import Arrival
from milepost.training.best import Best
from milepost.training.cost import SaveCost
from milepost.training.display import Display
from milepost.training.due import Due
from milepost.training.ending import STOPPED, Ending
from milepost.training.holding import Hold
from milepost.training.items import Item, ValueItem, not_handed
from milepost.training.loops import Loop, Loops
from milepost.training.metrics import Metrics
from milepost.training.opening import Opened
from milepost.training.progress import Phase, Progress
from milepost.training.recording import Recording
from milepost.training.rng import GlobalRng
from milepost.training.saver import Marked, Saver
from milepost.training.watching import Watcher


class Stopped(SystemExit):
    """Raised at a boundary after a signal or before the time limit, once the state is saved. Uncaught, it ends the process with
    code 75, or 76 where starting again would not help."""

    def __init__(self, signal: str, code: int = STOPPED) -> None:
        super().__init__(code)
        self.signal = signal


class Session:
    """One attempt at work."""

    def __init__(
        self,
        opened: Opened,
        items: Mapping[str, Item],
        saver: Saver,
        due: Due,
        keep: Keep,
        ending: Ending,
        display: Display,
        watcher: Watcher | None,
        *,
        on_mismatch: Literal["warn", "stop"],
    ) -> None:
        self.opened, self.items, self.saver, self.keep = opened, items, saver, keep
        self.ending, self.display, self._watcher = ending, display, watcher
        ending.state_bytes = lambda: saver.state_bytes
        self.current = True
        """Whether the run is in this session, and was not taken back to a checkpoint by ``run.restore``."""
        self.metrics = Metrics()
        self.progress = Progress(attempt=opened.attempt.number, metrics=self.metrics)
        self.loops = Loops(lambda: saver.optimizer_steps)
        self.vars: dict[str, Any] = {}
        self.limits: dict[str, int] = {}
        self.calls = 0
        """How often ``run.step`` was called."""
        self.epoch = 0
        """The epoch that ``run.epochs`` is in."""
        self._warned = False
        self.rng = GlobalRng()
        self._arrival = Arrival(self.rng, display.note)
        self._due = due
        self._cost = SaveCost(lambda: saver.stall_seconds)
        self._recording = Recording(opened, display, on_mismatch)
        self._wanted = False
        self._unsaved = False
        self._said_waiting = False
        self._accumulating = False
        """Whether gradients are being gathered: a micro-batch was done, its optimizer step was not. Saves wait until it is;
        those at the end of a pass or an epoch do not, and take the gradients along."""
        self._stale = {name for name, item in items.items() if item.replaced}
        """Values that were not handed over since the last save, or since the start."""
        self._loop_end: Marked | None = None
        """The state at the end of the batch loop, for a signal that comes during validation."""
        self._epoch_metrics: set[str] = set()
        """Those that came at the end of an epoch, and so belong to no other step."""
        self.best = Best(keep.best_by, display.warn)
        if opened.own is not None:
            self._take_own(opened.own)
        self._due.begin(self.progress, durable=opened.left is None)
        self._hold = Hold(due, saver, ending, display)
        self._steps_at_save = self.progress.step
        if watcher is not None:
            watcher.began(self)

    # -- the own state ------------------------------------------------------------------------------------------------------

    def _own_state(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "progress": {"step": self.progress.step, "epoch": self.progress.epoch, "batch": self.progress.batch},
            "phase": str(self.progress.phase),
            "rng": self.rng.capture(),
            "data": dict(data),
            "vars": self.vars,
            "gradients": self.gathered(),
            "best": self.best.capture(),
        }

    def gathered(self) -> dict[str, Any]:
        """The gradients that wait for an optimizer step, by item; those of a step that was made mean nothing."""
        return self.saver.gradients() if self._accumulating else {}

    def _take_own(self, own: Mapping[str, Any]) -> None:
        where = own["progress"]
        self.progress.move(where["step"], where["epoch"], where["batch"], Phase(own["phase"]))
        self.vars = own["vars"]
        self.best.restore(own.get("best"))
        self.loops.resume(own["data"])
        self.saver.put_gradients(own.get("gradients", {}))
        self._accumulating = any(own.get("gradients", {}).values())
        self._arrival.begin(own["rng"])

    def arrived(self) -> None:
        """The place where the restored state was captured is reached."""
        self._arrival.reached()
        self._observe(self.loops.asker or "")

    @property
    def arriving(self) -> bool:
        """Whether that place is still to be reached."""
        return self._arrival.under_way

    # -- steps and epochs -----------------------------------------------------------------------------------------------------

    def step(self, values: Mapping[str, Any], to: int | None) -> None:
        """Take what ``run.step`` was given, and count."""
        if to is not None and to <= self.progress.step:
            raise StepError(
                "a step goes backwards",
                where="run.step(step=...)",
                expected=f"more than {self.progress.step}",
                found=to,
                hint="a script that counts itself goes on from run.progress.step",
            )
        self.calls += 1
        self.saver.poll()
        if self.arriving and self.loops.asker is not None:
            raise LoaderError(
                f"the checkpoint was taken inside run.batches(..., name={self.loops.asker!r}), which this script did not reach",
                where="run.step",
                hint="read the data through run.batches under the same name as before, or start again with resume='never'",
            )
        if self.loops.in_epochs and not self.loops.any and not self.loops.in_steps and not self._warned:
            self._warned = True
            self.display.warn("data is not read through run.batches: after a restart an interrupted epoch begins again")
        for name, value in values.items():
            item = self.items.get(name)
            if isinstance(item, ValueItem):
                item.hand_over(value)
                self._stale.discard(name)
        self.metrics.update({name: value for name, value in values.items() if name not in self.items})
        self.best.came(values.keys() - self.items.keys())
        counted = self.saver.stepped()
        self._accumulating = not counted
        if counted or to is not None:
            self.progress.move(step=self.progress.step + 1 if to is None else to, phase=Phase.IN_EPOCH)
            self._unsaved = True
            if self._due.due(self.progress, at_epoch_end=False):
                self._wanted = True
        self._loop_end = None
        self.loops.stepped()
        self._cost.stepped(busy=self.saver.busy)
        self.display.update(self.progress, self.loops.length)
        if counted or to is not None:
            self._recording.step(self.progress, self.metrics, values)
        if not (self.loops.open or self.loops.in_steps or (self.loops.in_epochs and self.loops.any)):
            self.boundary(None)

    def end_epoch(self, values: Mapping[str, Any]) -> None:
        """One more epoch is done. Asks for a save if the policy or a new best value wants one."""
        if self.loops.in_epochs and self.progress.epoch != self.epoch:
            raise StepError("run.epoch_end was called twice in one epoch", where=f"epoch {self.epoch}")
        self.metrics.update(values)
        self.best.came(values)
        self._epoch_metrics |= values.keys()
        self.loops.end_epoch()
        self._loop_end = None
        self._cost.pause()
        self._unsaved = True
        self.progress.move(epoch=self.progress.epoch + 1, batch=0, phase=Phase.EPOCH_ENDED)
        self.display.update(self.progress)
        self._recording.step(self.progress, self.metrics, values, ended=True)
        new_best = self.best.improves(values, lambda name: self.metrics.read()[name], self.progress.step)
        if self._due.due(self.progress, at_epoch_end=True) or new_best:
            self._wanted = True

    def handed(self, loop: Loop, batch: object) -> None:
        """`loop` hands out `batch`."""
        self.loops.handed(loop)
        self._recording.handed(batch)
        if self._watcher is not None:
            self._watcher.handed(self, loop.name, batch)

    @property
    def watched(self) -> bool:
        """Whether somebody looks at what is handed out."""
        return self._watcher is not None

    def handed_beside(self, place: str, batch: object) -> None:
        """A batch is handed out by something that is no loop of the run; only who watches is told."""
        if self._watcher is not None:
            self._watcher.handed(self, place, batch)

    def nothing_left(self, loop: str, count: int) -> bool:
        """Whether a run that is complete was asked for no more than before (it may have stopped early)."""
        before = self.opened.before
        self.limits[loop] = count
        return self.opened.complete and before is not None and count <= before.limits.get(loop, 0)

    def check_current(self) -> None:
        """A loop of this session goes on: `ScriptError` if the run does not stand here any more."""
        if not self.current:
            raise ScriptError(
                "a loop went on after run.restore", where="run.batches", hint="leave the loop (break) after run.restore"
            )

    # -- boundaries -----------------------------------------------------------------------------------------------------------

    def ask(self, loop: Loop) -> None:
        """`loop` is asked for its next batch."""
        ready = loop.handed == 0 or not self.loops.since_step(loop)
        self.loops.asked(loop)
        self.progress.move(batch=loop.handed)
        self._observe(loop.name)
        if ready:
            self.boundary(loop)

    def loop_ended(self, loop: Loop) -> None:
        """`loop` has no more batches."""
        loop.finished = True
        self._accumulating |= self.loops.since_step(loop)
        self.progress.move(batch=loop.handed)
        if not self.loops.open:
            self.mark_batches_done(loop)
        self._observe(loop.name)
        self.boundary(loop, between=True)

    def mark_batches_done(self, loop: Loop | None = None) -> None:
        """All batches of the epoch are done, and validation may follow; `loop` was the last of the run's own."""
        self.progress.move(phase=Phase.BATCHES_DONE)
        data = self.loops.positions_now(loop)
        if data is not None:
            position = self.position()
            self._loop_end = self.saver.mark(position, self._metrics_at(position), self._own_state(data))

    def loop_left(self, loop: Loop) -> None:
        """The iterator of `loop` is gone, maybe before it had no more batches."""
        self._accumulating |= not loop.finished and self.loops.since_step(loop)
        self.loops.left(loop)

    def validating(self) -> None:
        """A loop over validation data is asked for its next batch: answer a signal from the state at the end of the batch loop."""
        if self._loop_end is not None:
            self.ending.passed("validation")
        if self.ending.received is None or self._loop_end is None:
            return
        marked, self._loop_end = self._loop_end, None
        if not self._unsaved:
            self._stop()
        # If something was changed since (averaged weights are being validated, say), the end of the epoch is the next chance.
        if marked.intact():
            self._save(marked.captured.position, {}, marked=marked.captured, must=True)
            self._stop()

    def boundary(self, asker: Loop | None, *, between: bool = False) -> None:
        """Save if that was asked for and is possible here, stop if a signal came, wait if too little is durable. `between`: a pass
        or an epoch has just ended."""
        self._save_or_stop(asker, between)
        if not self._hold.keep(self.progress):
            self._save_or_stop(asker, between)

    def _save_or_stop(self, asker: Loop | None, between: bool) -> None:
        if asker is None:
            self._observe("")
        torn = self.saver.check_torn()
        if between or not self._accumulating:
            self.ending.passed("between" if between else "step")
        signalled = self.ending.received is not None
        if not (self._wanted or torn or signalled):
            self.saver.poll()
            return
        if self._accumulating and not between:
            return
        data = self.loops.positions_now(None) if asker is None else self.loops.positions_at(asker)
        if data is None:
            if signalled:
                self._say_waiting(asker)
            return
        if self._unsaved or torn:
            pending = self._save(self.position(), self._own_state(data), must=signalled)
            if pending is not None and self._watcher is not None:
                self._watcher.saved(self, pending)
        if signalled:
            self._stop()

    def want_save(self) -> None:
        """Save at this boundary, or the next that can be saved at, whether or not anything is new."""
        self._wanted = self._unsaved = True

    def _observe(self, asker: str) -> None:
        if self._watcher is not None and not (self.arriving and self.loops.asker is not None):
            self._watcher.observe(self, asker)

    def save_now(self) -> Pending | None:
        """A save that the script asked for, wherever it stands; None if it has to wait for the next boundary."""
        inner = self.loops.innermost()
        if self.loops.uncounted() or self.loops.changed_around(inner) is not None:
            self.want_save()
            self._say_waiting(inner)
            return None
        return self._save_here()

    def _save_here(self) -> Pending | None:
        inner = self.loops.innermost()
        data = self.loops.positions_now(inner)
        if data is None:
            return None
        asked = self.progress.batch
        if inner is not None:  # its batch is over, though the next has not been asked for
            self.progress.move(batch=data["loops"][inner.name]["done"])
        try:
            return self._save(self.position(), self._own_state(data))
        finally:
            self.progress.move(batch=asked)

    def _say_waiting(self, inner: Loop | None) -> None:
        outer = self.loops.changed_around(inner)
        if outer is not None and not self._said_waiting:
            self._said_waiting = True
            what = "a step was made in it before the loop inside it began, and would be made again after a restart"
            self.display.note(f"the save waits for the end of {outer}: {what}")

    def position(self) -> Position:
        """Where the run is."""
        where = self.progress
        return Position(where.step, where.epoch, where.batch, str(where.phase))

    def _metrics_at(self, position: Position) -> dict[str, float]:
        """The metrics of this very state: those of the last epoch's end are not those of the steps after it."""
        ended = position.phase == Phase.EPOCH_ENDED
        return {name: value for name, value in self.metrics.read().items() if ended or name not in self._epoch_metrics}

    def _save(
        self, position: Position, own: dict[str, Any], *, marked: Captured | None = None, must: bool = False
    ) -> Pending | None:
        if self._stale and self.progress.step > self._steps_at_save:
            raise not_handed(self._stale)
        if self._watcher is not None and not self._watcher.saves:
            return self._watcher.unsaved(self, position.step)
        cost = self._cost.save_begins()
        if cost is not None:
            self._due.cost(cost)
        pending = self.saver.save(position, self._metrics_at(position), own, marked=marked, must=must)
        if pending is not None:
            self.ending.saving(pending)
            self._wanted = self._unsaved = False
            self._due.saved(self.progress)
            self._stale = {name for name, item in self.items.items() if item.replaced}
            self._steps_at_save = self.progress.step
        return pending

    def _stop(self) -> None:
        self.saver.hurry()
        brought = self.saver.wait(self.ending.patience)
        received = self.ending.received
        assert received is not None
        newest = self.saver.newest
        what = f"step {self.progress.step} is saved"
        if newest is not None and not brought:
            durable = self.saver.durable
            last = "nothing new" if durable is None else f"step {durable.step}"
            what = f"step {newest.step} is on the disk of this node alone, {last} in the run directory"
            self.saver.abandon()
        elif newest is not None and newest.problem is not None:
            what = f"step {newest.step} could not be saved, the one before it stands"
        code, next_ = self.ending.parting(self.opened.run, self.opened.attempt.number)
        self.display.note(f"{received.name}: {what}; {next_}")
        raise Stopped(received.name, code)

    def finish(self) -> None:
        """The clean end: save what is not saved."""
        self.saver.hurry()
        self.saver.wait()
        self.loops.leave()
        if self._unsaved or self.saver.check_torn():
            self._save_here()
        self.saver.wait()
        if self.saver.check_torn():
            self._save_here()
            self.saver.wait()

    def end(self, how: str) -> None:
        """Record how the attempt ended and let go of the run."""
        self.current = False
        if self._watcher is not None:
            self._watcher.ended(self, how)
        self._recording.end()
        attempt = self.opened.attempt
        attempt.record.step, attempt.record.limits = self.progress.step, self.limits
        try:
            attempt.end(how)
        except OSError as error:
            self.display.warn(f"the end of the attempt could not be recorded: {error}")
