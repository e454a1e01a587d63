"""Which variables of a frame that waits for a call may still be read."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from milepost.auditing.liveness import live_names


class Asks:
    """Looks at whoever calls it, or asks its iterator."""

    found: list[set[str]]

    def __init__(self) -> None:
        self.found = []

    def step(self) -> None:
        self.found.append(set(live_names(sys._getframe(1))))

    def batches(self) -> Iterator[float]:
        for number in range(2):
            self.found.append(set(live_names(sys._getframe(1))))
            yield float(number)


def test_what_is_read_later_in_the_turn_and_in_the_next() -> None:
    asks, total, unused, after = Asks(), 0.0, 1.0, 2.0
    for _ in range(2):
        leftover = total + unused
        asks.step()
        total += 1.0
    unused = leftover = 3.0
    assert asks.found[0] >= {"asks", "total", "after", "unused"}
    assert "leftover" not in asks.found[0]
    assert after + unused + leftover > 0


def test_what_a_generator_is_asked_amid() -> None:
    asks, total = Asks(), 0.0
    for batch in asks.batches():
        loss = batch * 2.0
        total += loss
    assert "total" in asks.found[0]
    assert not {"loss", "batch"} & asks.found[0]


def test_the_frame_of_a_module() -> None:
    names = {"asks": Asks()}
    exec("count = 0\nfor _ in range(2):\n    asks.step()\n    count += 1\n    left = count\nprint(count)", names)
    assert {"asks", "count"} <= names["asks"].found[0]
    assert "left" not in names["asks"].found[0]
