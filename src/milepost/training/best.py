"""The best value so far of the metric by which checkpoints are kept (``Keep(best=...)``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from milepost.errors import MetricError
from milepost.folder.run import BestBy


class Best:
    """Remembers the best value, which is part of the state.

    Args:
        by: the metric and which end of it is good; None where nothing is to be best.
        warn: tells people.
    """

    def __init__(self, by: BestBy | None, warn: Callable[[str], None]) -> None:
        self._by, self._warn = by, warn
        self._seen: set[str] = set()
        self.value: float | None = None

    def capture(self) -> list[object] | None:
        """The state."""
        return None if self._by is None else [self._by.metric, self.value]

    def restore(self, saved: list[object] | None) -> None:
        """Put back what `capture` gave, unless another metric decides now."""
        if saved is not None and self._by is not None and saved[0] == self._by.metric:
            self.value = saved[1]  # type: ignore[assignment]

    def came(self, names: Collection[str]) -> None:
        """Metrics of these names were given."""
        self._seen.update(names)

    def improves(self, names: Collection[str], read: Callable[[str], float], step: int) -> bool:
        """At the end of an epoch that `names` came with, read by `read`: whether there is a new best."""
        by = self._by
        if by is None:
            return False
        if by.metric not in names:
            if by.metric not in self._seen:
                self._warn(f"Keep(best={by.metric!r}): no metric of that name has come yet")
            return False
        value = read(by.metric)
        if math.isnan(value):
            self._warn(f"{by.metric} is NaN at step {step}: this checkpoint cannot be the best")
            return False
        better = self.value is None or (value < self.value if by.mode == "min" else value > self.value)
        if better:
            self.value = value
        return better

    def check_came(self) -> None:
        """`MetricError` if the metric that decides never came."""
        by = self._by
        if by is not None and by.metric not in self._seen and self.value is None:
            raise MetricError(
                f"Keep(best={by.metric!r}): no metric of that name ever came",
                found=", ".join(sorted(self._seen)) or "no metric at all",
                hint=f"pass it where it is known: run.epoch_end({by.metric}=...)",
            )
