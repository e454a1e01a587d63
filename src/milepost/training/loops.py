"""The loops of a training script: where they are, when all of them are at a point that can be continued from, and continuing there.

Several loaders may be in use at once: zipped, one after the other, or one inside a batch of another. What a loop's position
is when a checkpoint is taken depends on which loop asks for its next batch at that moment (`Loops.positions_at`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from milepost.errors import LoaderError
from milepost.training.feeds import Feed, feed_for, shield


@dataclass(eq=False)
class Loop:
    """One pass over a loader. Times are counts of events (created, asked, handed out, stepped), which order them."""

    name: str
    feed: Feed
    created: int
    handed: int = 0
    last_handed: int = -1
    first_asked: int = -1
    last_asked: int = -1
    asked_before: int = -1
    last_change: int = -1
    """When the state was last changed, by a step, in a batch of this loop itself rather than of a loop inside it."""
    finished: bool = False
    left: bool = False
    """Whether its iterator is gone before it had given everything: by a ``break``, say."""
    current: bool = True
    """Whether it belongs to the epoch, or to the batch of an outer loop, that is under way."""
    spans: bool = False
    """Whether it goes on from one epoch, or outer batch, to the next, as ``iter(run.batches(...))`` kept in a variable does."""

    @property
    def over(self) -> bool:
        """Whether it hands out no more."""
        return self.finished or self.left

    @property
    def under_way(self) -> bool:
        """Whether it handed out a batch that may still be in progress."""
        return self.current and not self.over and self.handed > 0

    def holds(self, other: Loop) -> bool:
        """Whether `other` began inside the batch this loop handed out last."""
        return other is not self and self.under_way and 0 <= self.last_handed < other.created

    @property
    def changed(self) -> bool:
        """Whether the state was changed since it handed out its last batch: that cannot be handed out again."""
        return self.last_change > self.last_handed

    def leads(self, other: Loop) -> bool:
        """Whether it comes before `other` where both are asked in turn, as the first loader of a ``zip`` does."""
        return (self.spans, self.first_asked) < (other.spans, other.first_asked)


class Loops:
    """All loops over training data of one run.

    Args:
        optimizer_steps: how often an optimizer of the run has stepped, whether or not ``run.step`` was told.
    """

    def __init__(self, optimizer_steps: Callable[[], int] = lambda: 0) -> None:
        self.in_epochs = self.in_steps = False
        """Whether the script is in ``run.epochs``, and in ``run.steps``."""
        self._optimizer_steps, self._steps_noticed = optimizer_steps, 0
        self._feeds: dict[str, tuple[object, Feed]] = {}
        self._loops: dict[str, Loop] = {}
        self._untracked: dict[int, tuple[object, Iterable[Any]]] = {}
        self._clock = 0
        self._last_step = self._epoch_began = 0
        self._epoch_changed = -1
        """When the state was last changed in the body of an epoch, outside of all loops."""
        self._renewed: set[str] = set()
        """Names of passes that were given up, alive, for a new one: their iterators do not go on."""
        self._saved: dict[str, Mapping[str, Any]] = {}
        self._asker: str | None = None
        """The loop that asked for its next batch when the state that was restored was captured."""

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    # -- beginning ------------------------------------------------------------------------------------------------------------

    def feed(self, name: str, loader: object, *, replay: bool) -> tuple[Feed, bool]:
        """The feed that reads `loader` under `name`, kept from pass to pass; and whether it is new."""
        known = self._feeds.get(name)
        if known is not None and known[0] is loader:
            return known[1], False
        if known is not None:
            known[1].close()
        made = feed_for(loader, replay=replay)
        self._feeds[name] = (loader, made)
        return made, True

    def loader(self, name: str) -> object:
        """What is read under `name`, as the script gave it."""
        known = self._feeds.get(name)
        return known[0] if known is not None else None

    def untracked(self, loader: Iterable[Any]) -> Iterable[Any]:
        """`loader` as it is to be iterated over where no position is kept; the same from pass to pass."""
        known = self._untracked.get(id(loader))
        if known is None:
            known = self._untracked[id(loader)] = (loader, shield(loader))
        return known[1]

    def begin(self, name: str, feed: Feed, *, inside_epoch: bool) -> tuple[Loop, bool]:
        """Start a pass, or continue the saved one.

        Returns:
            The loop, and whether it is the one that was asking when the restored state was captured: the random
            state belongs there.

        Raises:
            LoaderError: a pass of that name is under way or was made in this epoch; or the loader is not what it was.
        """
        self._notice_steps()
        loop = Loop(name, feed, self._tick())
        before = self._loops.get(name)
        inner = any(other.holds(loop) for other in self._loops.values() if other is not before)
        if before is not None and before.current and inside_epoch and not inner:
            raise LoaderError(
                f"run.batches was called twice for {name!r} in one epoch",
                where=f"run.batches(..., name={name!r})",
                hint="give the second pass a name of its own: run.batches(loader, name='second')",
            )
        if before is not None and not before.over:
            self._renewed.add(name)
        saved = self._saved.pop(name, None)
        if saved is not None:
            feed.begin(saved["position"])
            if saved["current"]:
                loop.handed, loop.finished = saved["done"], saved["finished"]
                loop.spans = saved.get("spans", False)
                self._loops[name] = loop
                return loop, self._asker == name
        feed.begin(None)
        self._loops[name] = loop
        return loop, False

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Begin from saved positions: each is claimed by the first pass of its name."""
        self._loops.clear()
        self._saved, self._asker = dict(saved["loops"]), saved["asker"]

    @property
    def asker(self) -> str | None:
        """The loop at which the restored random state belongs, if it belongs to one."""
        return self._asker

    # -- what happens -----------------------------------------------------------------------------------------------------------

    def asked(self, loop: Loop) -> None:
        """`loop` is asked for its next batch: what was inside its last one is over."""
        self._notice_steps()
        self._end_batch(loop)
        if not loop.current:
            loop.current = loop.spans = True
        loop.asked_before, loop.last_asked = loop.last_asked, self._tick()
        if loop.first_asked < 0:
            loop.first_asked = loop.last_asked

    def _end_batch(self, loop: Loop) -> None:
        for other in self._loops.values():
            if loop.holds(other):
                other.current = False

    def left(self, loop: Loop) -> None:
        """The iterator of `loop` is gone, and what was inside its last batch is over."""
        self._notice_steps()
        self._end_batch(loop)
        loop.left = True

    def handed(self, loop: Loop) -> None:
        """`loop` hands out a batch."""
        loop.handed += 1
        loop.last_handed = self._tick()

    def since_step(self, loop: Loop) -> bool:
        """Whether `loop` handed out a batch after the last step."""
        return loop.last_handed > self._last_step

    def stepped(self) -> None:
        """A step was made."""
        self._last_step = self._tick()
        self._steps_noticed = self._optimizer_steps()
        self._changed()

    def _notice_steps(self) -> None:
        """Steps that ``run.step`` is not told change the state too: those of a critic, say."""
        before, self._steps_noticed = self._steps_noticed, self._optimizer_steps()
        if self._steps_noticed != before:
            self._changed()

    def _changed(self) -> None:
        """The state was changed: in the batch under way, or, where there is none, in the body of an epoch."""
        inner = self.innermost()
        if inner is not None:
            inner.last_change = self._tick()
        elif self.in_epochs and not self.in_steps:
            self._epoch_changed = self._tick()

    def uncounted(self) -> bool:
        """Whether an optimizer has stepped in the batch under way, and ``run.step`` was not called since."""
        self._notice_steps()
        inner = self.innermost()
        return inner is not None and inner.changed and self.since_step(inner)

    def begin_epoch(self) -> None:
        """An epoch begins: a pass that began before does not end with it."""
        self._epoch_began = self._tick()

    def end_epoch(self) -> None:
        """The next passes start from the beginning."""
        for loop in self._loops.values():
            loop.spans |= loop.created < self._epoch_began
            if loop.current and not loop.finished and not loop.spans:
                loop.feed.close()  # it was left by break, for good
            loop.current = False
        self.begin_epoch()

    @property
    def open(self) -> bool:
        """Whether a pass of this epoch is under way."""
        return any(loop.current and not loop.over and not loop.spans for loop in self._loops.values())

    @property
    def any(self) -> bool:
        """Whether there was a pass in this epoch."""
        return any(loop.current for loop in self._loops.values())

    @property
    def length(self) -> int | None:
        """Batches in the pass that is under way, where that is known."""
        inner = self.innermost()
        return inner.feed.length if inner is not None else None

    def innermost(self) -> Loop | None:
        """The pass under way that handed out a batch last."""
        under_way = [loop for loop in self._loops.values() if loop.under_way]
        return max(under_way, key=lambda loop: (not loop.spans, loop.last_handed), default=None)

    # -- positions ----------------------------------------------------------------------------------------------------------------

    def changed_around(self, inner: Loop | None) -> str | None:
        """What would have to be done again to come back to `inner`, and cannot be: a step was made there before `inner` began, and
        would be made twice. None if there is no such thing."""
        if inner is None:
            return None
        outer = next((loop for loop in self._loops.values() if loop.changed and loop.holds(inner)), None)
        if outer is not None:
            return f"this batch of {outer.name!r}"
        return "the epoch" if self._epoch_began < self._epoch_changed < inner.created else None

    def _done(self, asker: Loop) -> dict[str, int] | None:
        """How many batches of each loop are done when `asker` asks for its next one; None if no checkpoint can be taken here.

        A loop that does not ask may be in the middle of a batch. If `asker` began inside that batch, the batch is handed
        out again on resume and `asker` continues inside it, unless a step was made in between. Else both are asked in
        turn: then the batch is over only if the asker is the first of a turn, and there was a step. If `asker` is asked for
        the second time within that batch, the script is in the middle of something that no position can describe. Nor can
        it be while nobody knows whether an iterator that began inside the asker's last batch, and is still held, goes on.
        """
        if self.changed_around(asker) is not None:
            return None
        done = {}
        for name, loop in self._loops.items():
            in_progress = loop is not asker and loop.under_way
            nested = in_progress and loop.holds(asker)
            over = asker.leads(loop) and asker.asked_before <= loop.last_handed <= self._last_step
            if in_progress and not nested and not over:
                return None
            held = not loop.current and not loop.over and not loop.spans and 0 <= asker.last_handed < loop.created
            if held and name not in self._renewed:
                return None
            done[name] = loop.handed - 1 if nested else loop.handed
        return done

    def _done_now(self) -> dict[str, int] | None:
        """The same in the middle of a loop's body: a batch is done if a step was made since it was handed out."""
        inner = self.innermost()
        if self.changed_around(inner) is not None:
            return None
        done = {}
        for name, loop in self._loops.items():
            in_progress = loop.last_handed > self._last_step or (inner is not None and loop.holds(inner))
            done[name] = loop.handed - 1 if loop.under_way and in_progress else loop.handed
        return done

    def positions_at(self, asker: Loop) -> dict[str, Any] | None:
        """The state to save when `asker` asks for its next batch; None if none can be saved here."""
        return self._positions(self._done(asker), asker)

    def positions_now(self, asker: Loop | None) -> dict[str, Any] | None:
        """The same in the middle of a loop's body; `asker` is where the random state belongs."""
        return self._positions(self._done_now(), asker)

    def _positions(self, done: Mapping[str, int] | None, asker: Loop | None) -> dict[str, Any] | None:
        # Positions that no loop has claimed since the last resume are still true, and handed on.
        if done is None:
            return None
        loops: dict[str, Any] = {name: dict(saved) for name, saved in self._saved.items()}
        for name, loop in self._loops.items():
            loops[name] = {
                "done": done[name],
                "finished": loop.over,
                "current": loop.current or (loop.spans and not loop.over),
                "spans": loop.spans,
                "position": loop.feed.position(done[name]),
            }
        return {"loops": loops, "asker": asker.name if asker is not None else None}

    def leave(self) -> None:
        """The script has come to its end, and there is no next boundary: loops that cannot be come back to are over."""
        while self.changed_around(inner := self.innermost()) is not None and inner is not None:
            inner.left, inner.current = True, False

    def close(self) -> None:
        """Stop the workers of all loaders."""
        for _, feed in self._feeds.values():
            feed.close()


class Batches:
    """What ``run.batches(loader)`` returns. Each iteration is a pass; `len` is the number of batches of a whole one."""

    def __init__(self, length: int | None, iterate: Any) -> None:
        self._length, self._iterate = length, iterate

    def __iter__(self) -> Iterator[Any]:
        # Not a generator: the pass begins here, so that zip(run.batches(a), run.batches(b)) begins both before either is asked.
        iterator: Iterator[Any] = self._iterate()
        return iterator

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("the number of batches is not known")
        return self._length
