"""Whether a save is due: `Due`, which answers for one attempt, and the rules that policies are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from milepost.training.progress import Progress

Clock = Callable[[], float]
REMEMBERED = 9
"""Saves whose cost, and whose time until they were durable, is remembered."""


class Due:
    """Answers for one attempt whether a save is due. Asking changes nothing: what is due stays so until a save begins.

    Example:
        >>> due = start(Every(steps=100))
        >>> due.begin(Progress(step=250))
        >>> due.due(Progress(step=299)), due.due(Progress(step=301))
        (False, True)
    """

    def __init__(self, rules: Iterator[Rule]) -> None:
        self._rules = tuple(rules)

    def begin(self, progress: Progress, *, durable: bool = True) -> None:
        """The attempt begins here: at the start, or at the checkpoint it continues, which may be on the disk of this node alone."""
        self.saved(progress)
        if durable:
            self.durable(progress.step, progress)

    def due(self, progress: Progress, at_epoch_end: bool = False) -> bool:
        """Whether to save now. `at_epoch_end`: an epoch has just been counted in ``progress.epoch``."""
        answers = [rule.due(progress, at_epoch_end) for rule in self._rules]  # all: a callable may keep count
        return any(answers)

    def saved(self, progress: Progress) -> None:
        """A save of this progress began, whoever asked for it."""
        for rule in self._rules:
            rule.saved(progress)

    def durable(self, step: int, progress: Progress, missed: float = 0.0) -> None:
        """The save that began at `step` is durable, and the run is at `progress` by now; it would be so many steps further, had it
        not waited for that."""
        for rule in self._rules:
            rule.durable(step, progress, missed)

    def holds(self, progress: Progress) -> bool:
        """Whether training must wait here until more is durable."""
        return any(rule.holds(progress) for rule in self._rules)

    def cost(self, seconds: float) -> None:
        """What the last save cost training: stall and slowdown, in seconds. Once per save."""
        for rule in self._rules:
            rule.cost(max(0.0, seconds))  # a measured slowdown can come out below nothing


class Rule(ABC):
    """One reason to save, with what it remembers during one attempt."""

    @abstractmethod
    def due(self, progress: Progress, at_epoch_end: bool) -> bool:
        """See `Due`."""

    def saved(self, progress: Progress) -> None:  # noqa: B027 - not all remember something
        """See `Due`."""

    def durable(self, step: int, progress: Progress, missed: float) -> None:  # noqa: B027
        """See `Due`."""

    def holds(self, progress: Progress) -> bool:
        """See `Due`."""
        return False

    def cost(self, seconds: float) -> None:  # noqa: B027
        """See `Due`."""


class Interval(Rule):
    """So many of something after the last save; with `durable`, at most so many beyond the last one that is durable."""

    def __init__(self, length: float, *, durable: bool) -> None:
        self._length, self._strict = length, durable
        self._saved = 0.0
        self._safe = 0.0
        self._begun: deque[tuple[int, float]] = deque()
        """The step and place of each save that is not durable yet."""
        self._took: deque[float] = deque(maxlen=REMEMBERED)

    @abstractmethod
    def place(self, progress: Progress, missed: float = 0.0) -> float:
        """Where the run is in the unit of this rule, or would be with so many more steps."""

    @property
    def apart(self) -> float:
        """How far from one save to the next: less by what the last ones took, so that training need not wait for them."""
        return self._length - max(self._took, default=0.0)

    def due(self, progress: Progress, at_epoch_end: bool) -> bool:
        return self.place(progress) - self._saved >= self.apart

    def saved(self, progress: Progress) -> None:
        self._saved = self.place(progress)
        if self._strict:
            self._begun.append((progress.step, self._saved))

    def durable(self, step: int, progress: Progress, missed: float) -> None:
        began = None
        while self._begun and self._begun[0][0] <= step:  # those before it failed, or it overtook them
            _, began = self._begun.popleft()
        if began is not None:
            self._safe = began
            self._took.append(self.place(progress, missed) - began)

    def holds(self, progress: Progress) -> bool:
        return self._strict and self.place(progress) - self._safe >= self._length


class Steps(Interval):
    """Steps: at multiples of that number, unless they must be durable."""

    def place(self, progress: Progress, missed: float = 0.0) -> float:
        return progress.step + missed

    def due(self, progress: Progress, at_epoch_end: bool) -> bool:
        if self._strict:
            return progress.step > self._saved and super().due(progress, at_epoch_end)
        return progress.step // self._length > self._saved // self._length


class Epochs(Interval):
    """Epochs: at the end of every so many."""

    def place(self, progress: Progress, missed: float = 0.0) -> float:
        return progress.epoch

    def due(self, progress: Progress, at_epoch_end: bool) -> bool:
        return at_epoch_end and progress.epoch > self._saved and progress.epoch % self._length == 0


class Seconds(Interval):
    """Seconds since the last save began, or since the attempt did."""

    def __init__(self, seconds: float, clock: Clock, *, durable: bool = False) -> None:
        super().__init__(seconds, durable=durable)
        self._clock = clock
        self._saved = clock()

    def place(self, progress: Progress, missed: float = 0.0) -> float:
        return self._clock()


class BestInterval(Seconds):
    """`interval` gives the seconds from one save to the next from what a save costs; before one was measured they are `first`."""

    def __init__(self, interval: Callable[[float], float], first: float, clock: Clock) -> None:
        super().__init__(first, clock)
        self._interval = interval
        self._costs: deque[float] = deque(maxlen=REMEMBERED)

    def cost(self, seconds: float) -> None:
        self._costs.append(seconds)
        self._length = self._interval(median(self._costs))


class Asked(Rule):
    """What somebody else answers."""

    def __init__(self, asked: Callable[[Progress], bool]) -> None:
        self._asked = asked

    def due(self, progress: Progress, at_epoch_end: bool) -> bool:
        return bool(self._asked(progress))
