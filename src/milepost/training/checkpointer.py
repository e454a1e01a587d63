"""`Checkpointer`: what a training script talks to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from milepost.errors import ScriptError
from milepost.folder.retention import Keep
from milepost.pipeline.persist import Pending
from milepost.pipeline.stage import Stager
from milepost.storage.local import LocalStorage
from milepost.training import iterate, opening, options, provenance, watching
from milepost.training.capture import Capturer
from milepost.training.display import Display
from milepost.training.ending import Ending
from milepost.training.items import Item, aim, check_handed, make_item, unknown_name
from milepost.training.metrics import is_scalar
from milepost.training.policy import Policy, start
from milepost.training.progress import Progress
from milepost.training.restore import ResumeReport
from milepost.training.saver import Saver, SavingOptions, failure
from milepost.training.session import Session, Stopped
from milepost.training.signals import DEFAULT, SignalWatch

T = TypeVar("T")


class Checkpointer:
    """Saves the state of a training job while it runs, and continues it after a restart.

    Args:
        directory: the run directory, made if missing; the same for every restart of the job.
        every: when to save: `Every(...)`, or any ``callable(progress) -> bool``; None saves only at the end, on signals, when a
            best value comes, and on `save`.
        keep: which checkpoints stay.
        resume: "latest" (default), "never", or a checkpoint: "best", "step=1200", a tag, or one of another run, "runs/old@best".
        state: items whose names clash with an option, as a mapping.
        override: plain values to change on resume, by path: ``{"optimizer/param_groups/*/lr": 1e-4}``. Applied once, where the
            branch begins, and recorded.
        stage: "overlap" copies what only an optimizer step changes during the next forward and backward pass; "copy" copies
            everything while training waits, for code that changes weights outside of ``optimizer.step()``.
        max_memory: bytes of host memory for staging, at least 48 MiB; a larger state is written piece by piece while
            training waits. A restore reads modules into memory first, whatever this is.
        stage_dir: a folder on the disk of this node, as in "$TMPDIR": saves are written there first and brought to the run
            directory in the background. What is only there is not durable; a restart on the same node finds it all the same.
        drain_bandwidth: bytes a second at most on that way.
        on_error: "warn" when a save fails and train on, or "raise" at the next call.
        on_busy: "wait" for a save in flight before the next, or "skip" the next.
        on_mismatch: what to do when training goes on otherwise than an earlier attempt did after the same checkpoint: "warn", or
            "stop" by a `NotExactError` from `step` or `epoch_end`. Where code, arguments or versions have changed since, it is
            said and no more.
        signals: numbers of signals that are answered by a save and a clean exit.
        time_limit: how long this process may live, in seconds or as in "4h"; the run saves and exits before. In a Slurm job the
            end is known without it.
        requeue: "auto" puts the Slurm job back into the queue after such an exit, "never" does not.
        max_requeues: how often at most in the life of a job.
        takeover: fence an earlier attempt even if it seems alive.
        progress: show progress on stderr; None does so live on a terminal and in plain lines elsewhere.
        items: the state, by name: anything with ``state_dict`` and ``load_state_dict``, random generators, and values.

    Raises:
        RunBusy: another attempt of this run is alive.
        MismatchError: the checkpoint does not fit these objects; none was changed.
        DamagedError: there are checkpoints, and none is good.
        StorageError: the directory cannot be made or written.

    Example:
        >>> with milepost.Checkpointer("runs/mnist", model=model, optimizer=optimizer,
        ...                            every=milepost.Every(steps=200)) as run:
        ...     for epoch in run.epochs(8):
        ...         for images, labels in run.batches(loader):
        ...             loss = train_step(images, labels)
        ...             run.step(loss=loss)
        ...         run.epoch_end(val_loss=validate())
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        every: Policy | Callable[[Progress], bool] | None = None,
        keep: Keep | None = None,
        resume: str = "latest",
        state: Mapping[str, Any] | None = None,
        override: Mapping[str, Any] | None = None,
        stage: Literal["overlap", "copy"] = "overlap",
        max_memory: int | None = None,
        stage_dir: str | os.PathLike[str] | None = None,
        drain_bandwidth: float | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        on_busy: Literal["wait", "skip"] = "wait",
        on_mismatch: Literal["warn", "stop"] = "warn",
        signals: Sequence[int] = DEFAULT,
        time_limit: float | str | None = None,
        requeue: Literal["auto", "never"] = "auto",
        max_requeues: int | None = None,
        takeover: bool = False,
        progress: bool | None = None,
        **items: Any,
    ) -> None:
        directory = options.directory(directory)
        options.keep(keep)
        options.which("resume=", resume)
        override = options.mapping("override=", override, "{'optimizer/param_groups/*/lr': 1e-4}")
        options.choice("stage=", stage, ("overlap", "copy"))
        options.memory(max_memory)
        node = options.node_folder(stage_dir)
        options.bandwidth(drain_bandwidth)
        options.choice("on_error=", on_error, ("warn", "raise"))
        options.choice("on_busy=", on_busy, ("wait", "skip"))
        options.choice("on_mismatch=", on_mismatch, ("warn", "stop"))
        signals = options.signals(signals)
        options.flag("takeover=", takeover)
        options.flag("progress=", progress, unset=True)
        given = options.items(items, state, Checkpointer)
        self._watcher = watching.find()
        if self._watcher is not None:
            asked = watching.Opening(directory, every, keep, resume)
            directory, every, keep, resume = self._watcher.open(asked)
            requeue, time_limit = "never", None  # the job, and its time, are those of whoever watches
            node = None  # a run that is watched is thrown away: nothing of it is left on the node
        self._items: dict[str, Item] = {name: make_item(name, one) for name, one in given.items()}
        # What cannot be stored is said now, not at the first save; a mere description of what will be there has time.
        Capturer().items([item for item in self._items.values() if not getattr(item, "abstract", False)], ())
        self._storage = LocalStorage(directory)
        self._keep = keep or Keep()
        self._every = every
        self._on_mismatch = on_mismatch
        self._saving: SavingOptions = {
            "stage": stage, "on_error": on_error, "on_busy": on_busy, "drain_bandwidth": drain_bandwidth,
        }  # fmt: skip
        self._max_memory = max_memory
        self._display = Display(progress)
        self._stage_dir = None if node is None else opening.node_storage(node, self._display.note)
        self._written_by = provenance.written_by()
        self._ending = Ending(
            SignalWatch(signals, self._display.warn),
            time_limit=time_limit,
            requeue=requeue,
            max_requeues=max_requeues,
            display=self._display,
        )
        self._closed = False
        self._now = self._open(resume, takeover, override, anew=False)
        self._ending.begin()

    def _open(self, resume: str, takeover: bool, overrides: Mapping[str, Any], *, anew: bool) -> Session:
        """Claim the next attempt of the run, restore what `resume` names, and get ready to train. `anew`: go back to that very
        checkpoint, even if a branch from it was begun before."""
        due = start(self._every)
        stager = Stager(self._max_memory)
        opened = opening.open_run(
            self._storage,
            self._items,
            stager,
            resume=resume,
            keep=self._keep,
            takeover=takeover,
            overrides=overrides,
            written_by=self._written_by,
            anew=anew,
            stage_dir=self._stage_dir,
        )
        try:
            saver = Saver(
                opened.run,
                opened.attempt,
                self._keep,
                self._items,
                opened.base,
                stager,
                opened.home,
                display=self._display,
                written_by=self._written_by,
                **self._saving,
            )
            session = Session(
                opened,
                self._items,
                saver,
                due,
                self._keep,
                self._ending,
                self._display,
                self._watcher,
                on_mismatch=self._on_mismatch,
            )
        except BaseException:
            opened.attempt.end("failed")
            raise
        for line in opened.said():
            self._display.note(line)
        if opened.left is not None:
            saver.bring(*opened.left)
        return session

    @property
    def _session(self) -> Session:
        """The attempt under way."""
        if self._closed:
            raise ScriptError("this run is closed", where=self.directory, hint="open it again: Checkpointer(...)")
        return self._now

    # -- where the run is -------------------------------------------------------------------------------------------------
    @property
    def directory(self) -> str:
        """The run directory."""
        return self._now.opened.run.where

    @property
    def progress(self) -> Progress:
        """Where the run is: ``.step``, ``.epoch``, ``.batch`` (done so far), ``.attempt``."""
        return self._now.progress

    @property
    def vars(self) -> dict[str, Any]:
        """A saved dict for running sums and counters of one's own."""
        return self._now.vars

    @property
    def resume_report(self) -> ResumeReport:
        """What was restored, what was passed over and why."""
        return self._now.opened.report

    @property
    def resumed_from(self) -> str | None:
        """The folder of the checkpoint this attempt continues, or None."""
        checkpoint = self.resume_report.checkpoint
        return checkpoint.folder if checkpoint is not None else None

    @property
    def complete(self) -> bool:
        """Whether the run had ended cleanly before this attempt began."""
        return self._now.opened.complete

    def __getitem__(self, name: str) -> Any:
        """The value of an item: restored, or as given."""
        item = self._items.get(name)
        if item is None:
            raise unknown_name(name, self._items)
        return item.object

    # -- loops ----------------------------------------------------------------------------------------------------------------
    def epochs(self, count: int) -> Iterator[int]:
        """The numbers of the epochs that are left to do, up to `count`; the first may be one that was begun before."""
        return iterate.epochs(self._session, options.count("run.epochs(count)", count))

    def batches(
        self, loader: Iterable[T], *, name: str = "batches", train: bool = True, replay: bool = False
    ) -> Iterable[T]:
        """The batches of `loader` that are left to do in this pass, in the same order as if it had never been interrupted.

        After a restart the first one is not the first of the pass: ``enumerate`` counts from 0 all the same, and
        ``itertools.islice`` takes as many as ever. ``run.progress.batch`` is how many of the pass were done before:
        ``enumerate(run.batches(loader), run.progress.batch)``.

        A loop inside a batch of another loop: to continue there, a restart hands the outer batch out again, so what is done with it
        before the inner loop is done again. If an optimizer steps there, or between two loops of an epoch, checkpoints wait for the
        next outer batch, or epoch.

        Args:
            loader: a `torch.utils.data.DataLoader`, a sequence, or anything whose position can be saved.
            name: tells several loaders apart; each has a position of its own.
            train: False for validation: no position is kept, and training's is not moved.
            replay: accept an iterable whose position cannot be restored, and draw again on a restart what was done.

        Raises:
            LoaderError: the position of `loader` cannot be restored, or the loader is not what it was when it was saved.
        """
        options.name("run.batches(name=)", name)
        options.flag("run.batches(train=)", train)
        options.flag("run.batches(replay=)", replay)
        return iterate.batches(self._session, loader, name, train=train, replay=replay)

    def steps(self, count: int) -> Iterator[int]:
        """The numbers of the steps that are left to do, up to `count`, for loops without a loader."""
        return iterate.steps(self._session, options.count("run.steps(count)", count, "endless: run.steps(sys.maxsize)"))

    def step(self, *, step: int | None = None, **values: Any) -> None:
        """One optimizer step is done: count it, and take a save if one is due.

        Call it once per batch. Where several batches make one optimizer step it counts the steps, not the calls.

        Args:
            step: the number of this step, for scripts that count themselves.
            values: by the name of an item, the value that replaces it; any other name is a metric, a scalar.

        Raises:
            UnknownItemError: a name that is no item, with a value that is no scalar.
            StepError: `step` is not more than the last.
        """
        check_handed(values, self._items)
        self._session.step(values, None if step is None else options.whole("run.step(step=)", step))

    def epoch_end(self, **metrics: Any) -> None:
        """An epoch is done, and these are its metrics; the checkpoint is taken when the loop goes on, so that what follows in the
        body of the loop (``scheduler.step()``) is in it."""
        for name, value in metrics.items():
            if name in self._items or not is_scalar(value):
                raise unknown_name(name, self._items)
        self._session.end_epoch(metrics)
        if not self._session.loops.in_epochs:
            self._session.boundary(None, between=True)

    # -- saving and restoring by hand -------------------------------------------------------------------------------------------
    def save(self) -> Pending | None:
        """Save now, whatever the policy; best as the last statement of a step. None if skipped (``on_busy="skip"``), or put off to
        the next boundary: after an optimizer step that ``run.step`` does not know, or one that a restart would make twice."""
        return self._session.save_now()

    def wait(self) -> None:
        """Block until all that was saved is durable.

        Raises:
            RunFenced: a newer attempt has taken over.
            SaveFailedError: a save failed and ``on_error="raise"``.
        """
        self._session.saver.wait()

    def restore(
        self,
        which: str = "latest",
        *,
        target: Mapping[str, Any] | None = None,
        sharding: Mapping[str, Any] | None = None,
    ) -> None:
        """Go back to a checkpoint: put it into the live objects and open a new attempt that continues it.

        Leave the loops that are under way first; the next ones begin where that checkpoint was.

        Args:
            which: "latest", "best", "step=1200", a tag, or a checkpoint of another run, "runs/old@best".
            target: by item, a pytree of JAX like which the value comes back, of arrays or `jax.ShapeDtypeStruct`.
            sharding: by item, where its arrays go: one `jax.sharding.Sharding`, or a tree of them.

        Raises:
            NotFoundError: there is no such checkpoint.
            MismatchError: it does not fit; no object was changed.
        """
        options.which("run.restore(which=)", which)
        session = self._session
        target = options.mapping("target=", target, "{'params': abstract}")
        sharding = options.mapping("sharding=", sharding, "{'params': sharding}")
        if self._watcher is not None:
            self._watcher.goes_back(session)
        session.saver.wait()
        opening.find(session.opened.run, which)  # if there is nothing to go back to, the run goes on as it is
        aim(self._items, target, sharding)
        session.saver.close()
        session.loops.close()
        session.end("restored")
        try:
            self._now = self._open(which, False, {}, anew=True)
        except BaseException:
            self._closed = True
            self._ending.finish()
            self._display.close()
            raise

    # -- the end --------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the run cleanly: save what is not saved, wait until it is durable, mark the run complete.

        Raises:
            SaveFailedError: the newest save failed.
            MetricError: the metric of ``Keep(best=...)`` never came.
        """
        self._close(None)

    def _close(self, problem: BaseException | None) -> None:
        if self._closed:
            return
        session, self._closed = self._session, True
        how = "failed"
        try:
            if problem is None:
                session.finish()
                how = "complete"
            elif isinstance(problem, Stopped):
                how = "stopped"
        finally:
            failed = session.saver.close()
            session.loops.close()
            session.end("failed" if failed is not None else how)
            if failed is None and how == "complete":
                session.opened.leave_node()
            self._display.close()
            self._ending.finish()
        if problem is None:
            if failed is not None:
                raise failure(failed)
            if session.calls:
                session.best.check_came()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(problem)
