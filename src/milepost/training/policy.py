"""When to save: small values that a person writes down. `milepost.training.due` answers for one attempt.

Whether a save is due by steps or epochs depends on where the run is and where it last saved, both of which a checkpoint
knows: after a resume the saves fall on the same steps as if nothing had happened. Seconds are those of one attempt.
"""

from __future__ import annotations

import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from milepost.errors import ScriptError
from milepost.training import due

if TYPE_CHECKING:
    from milepost.training.progress import Progress

SHORTEST_SECONDS = 30.0
"""`Every.auto` saves for the first time after this, to learn the cost, and never more often: below it, a failure costs
little but the restart, while the load on a shared file system would go on growing."""
MOST_OVERHEAD = 0.25
"""`Every.auto` never spends a larger part of the time on saving, so that an mtbf that is far too short cannot stop the
training. By the model this costs less than 1 % as long as a save costs less than a fifth of the mtbf."""


class Policy(ABC):
    """When to save. Policies are joined by ``|`` with each other and with any ``callable(progress) -> bool``."""

    @abstractmethod
    def rules(self, clock: due.Clock) -> Iterator[due.Rule]:
        """What to look at; for `milepost.training.due.Due`."""

    def __or__(self, other: Policy | Callable[[Progress], bool]) -> AnyOf:
        return AnyOf((self, as_policy(other)))

    def __ror__(self, other: Callable[[Progress], bool]) -> AnyOf:
        return AnyOf((as_policy(other), self))


@dataclass(frozen=True, repr=False)
class Every(Policy):
    """Save every so many steps, seconds or epochs, whichever of those given comes first.

    Args:
        steps: at multiples of this number of optimizer steps; one that is stepped over counts when it was crossed.
        seconds: when so long has passed since the last save began, or since the attempt did.
        epochs: at the end of every so many epochs.
        durable: never let training get further than that beyond the newest checkpoint that is durable in the run directory, so that
            no more is lost whatever fails (of seconds, to within a step). Saves begin earlier by what the last ones took until they
            were durable, and where that does not suffice, training waits.

    Raises:
        ScriptError: nothing given, or something that is not positive.

    Example:
        >>> Every(steps=200) | Every(seconds=600, epochs=1) | (lambda progress: progress.step == 10)
        Every(steps=200) | Every(seconds=600, epochs=1) | <lambda>
    """

    steps: int | None = None
    seconds: float | None = None
    epochs: int | None = None
    durable: bool = False

    def __post_init__(self) -> None:
        if self.steps is self.seconds is self.epochs is None:
            raise ScriptError("Every() needs to know how often", hint="as in Every(steps=200) or Every(seconds=600)")
        if not isinstance(self.durable, bool):
            raise ScriptError("Every(durable=...) cannot be that", expected="True or False", found=repr(self.durable))
        for name, kind, expected in (
            ("steps", Integral, "a whole number of at least 1"),
            ("seconds", Real, "a number above 0"),
            ("epochs", Integral, "a whole number of at least 1"),
        ):
            value = getattr(self, name)
            if value is not None and not _positive(value, kind):
                raise ScriptError(f"Every({name}=...) cannot be that", expected=expected, found=repr(value))

    @staticmethod
    def auto(mtbf: float | str) -> Auto:
        """Save as often as pays off: see `Auto`.

        Args:
            mtbf: mean time between failures of the whole job, in seconds or as in "12h", "1h30m", "2d". On n nodes of
                which each fails once in M, it is M / n; on preemptible machines, the mean time until preemption.

        Raises:
            ScriptError: not a positive time.
        """
        return Auto(mtbf)

    def rules(self, clock: due.Clock) -> Iterator[due.Rule]:
        """See `Policy`."""
        if self.steps is not None:
            yield due.Steps(self.steps, durable=self.durable)
        if self.seconds is not None:
            yield due.Seconds(self.seconds, clock, durable=self.durable)
        if self.epochs is not None:
            yield due.Epochs(self.epochs, durable=self.durable)

    def __repr__(self) -> str:
        given = {name: getattr(self, name) for name in ("steps", "seconds", "epochs")} | {
            "durable": self.durable or None
        }
        return f"Every({', '.join(f'{name}={value}' for name, value in given.items() if value is not None)})"


@dataclass(frozen=True, repr=False)
class Auto(Policy):
    """Save at the interval that loses the least time, from the cost of a save as it is measured while training.

    The interval is `best_interval` of that cost and the mean time between failures. The cost is what training sees,
    stall and slowdown, as the median of the last saves. The time until the checkpoint is durable is no part of it: that
    passes beside training, and moves the optimum only to a higher order.

    The interval is never shorter than `SHORTEST_SECONDS`, which it is until a cost was measured, nor than what keeps
    the part of the time that goes into saving below `MOST_OVERHEAD`.
    """

    mtbf: float | str

    def __post_init__(self) -> None:
        seconds_of(self.mtbf, MTBF)

    def interval(self, cost: float) -> float:
        """Seconds from the beginning of one save to that of the next, if a save costs training `cost` seconds.

        Example:
            >>> round(Every.auto(mtbf="12h").interval(2.0))
            416
        """
        return max(best_interval(cost, seconds_of(self.mtbf, MTBF)), cost / MOST_OVERHEAD, SHORTEST_SECONDS)

    def rules(self, clock: due.Clock) -> Iterator[due.Rule]:
        """See `Policy`."""
        yield due.BestInterval(self.interval, SHORTEST_SECONDS, clock)

    def __repr__(self) -> str:
        return f"Every.auto(mtbf={self.mtbf!r})"


def best_interval(cost: float, mtbf: float) -> float:
    """The time from the beginning of one save to that of the next that loses the least, in the unit of the arguments.

    Time is lost to saving (a cost d in every interval) and to doing again what was not saved (half an interval for
    every failure, of which there is one in a time M). To first order the best interval is sqrt(2 d M) [Young 1974], to
    a higher order [Daly 2006]::

        sqrt(2 d M) * (1 + sqrt(d / 2M) / 3 + (d / 2M) / 9)      for d < 2 M, else M + d

    That is Daly's interval plus d: his runs from the end of a save to the beginning of the next.

    Young, J. W. (1974). A first order approximation to the optimum checkpoint interval. Communications of the ACM
    17 (9), 530-531. Daly, J. T. (2006). A higher order estimate of the optimum checkpoint interval for restart dumps.
    Future Generation Computer Systems 22 (3), 303-312.
    """
    ratio = cost / (2 * mtbf)
    if ratio >= 1:
        return mtbf + cost
    return math.sqrt(2 * cost * mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9)


@dataclass(frozen=True, repr=False)
class When(Policy):
    """A callable as a policy. It is asked after every step and at the end of every epoch."""

    asked: Callable[[Progress], bool]

    def rules(self, clock: due.Clock) -> Iterator[due.Rule]:
        """See `Policy`."""
        yield due.Asked(self.asked)

    def __repr__(self) -> str:
        return str(getattr(self.asked, "__name__", self.asked))


@dataclass(frozen=True, repr=False)
class AnyOf(Policy):
    """Save when any of several policies says so."""

    parts: tuple[Policy, ...]

    def rules(self, clock: due.Clock) -> Iterator[due.Rule]:
        """See `Policy`."""
        for part in self.parts:
            yield from part.rules(clock)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.parts))


def as_policy(every: Policy | Callable[[Progress], bool]) -> Policy:
    """`every` as a policy; `ScriptError` if it is neither one nor a callable."""
    if isinstance(every, Policy):
        return every
    if callable(every):
        return When(every)
    raise ScriptError(
        "that does not say when to save",
        where="every=",
        expected="Every(...), Every.auto(...), or a callable that takes the progress",
        found=repr(every),
        hint="as in every=milepost.Every(steps=200)",
    )


def start(every: Policy | Callable[[Progress], bool] | None, clock: due.Clock = time.monotonic) -> due.Due:
    """What answers for one attempt; None is never due.

    Raises:
        ScriptError: `every` is no policy and no callable.
    """
    return due.Due(iter(()) if every is None else as_policy(every).rules(clock))


UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_TIME = re.compile(r"(?:\d+(?:\.\d+)?\s*(?:s|min|m|h|d)\s*)+")


MTBF = "Every.auto(mtbf=...) is the mean time between failures"


def seconds_of(text: float | str, what: str) -> float:
    """A time in seconds, given as a number or as in "1h30m"; `ScriptError` that begins with `what` if it is not positive."""
    value: Any = text
    if isinstance(text, str) and _TIME.fullmatch(text.strip()):
        value = sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+)\s*([a-z]+)", text))
    if not _positive(value, Real):
        raise ScriptError(
            what,
            expected='seconds, or a text such as "12h", "1h30m", "2d"',
            found=repr(text),
        )
    return float(value)


def _positive(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and 0 < value < math.inf  # type: ignore[operator]
