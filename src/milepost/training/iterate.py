"""The loops that a script runs: epochs, batches and steps, from where the run stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from milepost.errors import StepError
from milepost.training.feeds import Feed, check_iterable
from milepost.training.loops import Batches
from milepost.training.session import Session

T = TypeVar("T")


def epochs(session: Session, count: int) -> Iterator[int]:
    """See `Checkpointer.epochs`."""
    if session.nothing_left("epochs", count):
        return
    session.loops.in_epochs = True
    try:
        while (epoch := session.progress.epoch) < count:
            if session.arriving and session.loops.asker is None:
                session.arrived()
            session.epoch = epoch
            session.loops.begin_epoch()
            yield epoch
            session.check_current()
            if session.progress.epoch == epoch:
                session.end_epoch({})
            session.boundary(None, between=True)
    finally:
        session.loops.in_epochs = False


def steps(session: Session, count: int) -> Iterator[int]:
    """See `Checkpointer.steps`."""
    if session.nothing_left("steps", count):
        return
    if session.arriving and session.loops.asker is None:
        session.arrived()
    session.loops.in_steps = True
    try:
        while (step := session.progress.step) < count:
            called = session.calls
            yield step
            if session.calls == called:
                raise StepError(
                    "run.step was not called in the body of run.steps",
                    where="run.steps",
                    hint="call run.step() once per turn",
                )
            session.boundary(None)
    finally:
        session.loops.in_steps = False


def batches(session: Session, loader: Iterable[T], name: str, *, train: bool, replay: bool) -> Iterable[T]:
    """See `Checkpointer.batches`."""
    if not train:
        check_iterable(loader)
        return Batches(_length(loader), lambda: _validate(session, loader))
    feed, new = session.loops.feed(name, loader, replay=replay)
    for line in feed.notes if new else ():
        session.display.note(line)
    return Batches(feed.length, lambda: _pass(session, name, feed))


def _pass(session: Session, name: str, feed: Feed) -> Iterator[Any]:
    """One pass. It begins here, not when it is first asked."""
    loop, asking = session.loops.begin(name, feed, inside_epoch=session.loops.in_epochs)
    if asking and session.arriving:
        session.arrived()

    def ask() -> Iterator[Any]:
        try:
            while True:
                session.check_current()
                session.ask(loop)
                try:
                    batch = None if loop.over else feed.next()
                except StopIteration:
                    loop.finished = True
                if loop.over:
                    session.loop_ended(loop)
                    return
                session.handed(loop, batch)
                yield batch
        finally:
            session.loop_left(loop)

    return ask()


def _validate(session: Session, loader: Iterable[Any]) -> Iterator[Any]:
    for batch in session.loops.untracked(loader):
        session.validating()
        yield batch
    session.validating()


def _length(loader: object) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None
