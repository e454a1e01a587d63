"""Whether there is time for another step."""

from __future__ import annotations

import pytest

from milepost.training.deadline import MARGIN_PART, MARGIN_SECONDS, Deadline, p95


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def margin(seconds: float) -> float:
    return seconds + MARGIN_SECONDS + MARGIN_PART * seconds


def test_percentile() -> None:
    assert p95([]) == 0
    assert p95([5.0]) == 5.0
    assert p95([1.0] * 95 + [9.0] * 5) == 1.0
    assert p95([1.0] * 94 + [9.0] * 6) == 9.0


def test_without_an_end_it_is_never_reached(clock: Clock) -> None:
    deadline = Deadline(lambda: None, clock)
    clock.now = 1e12
    assert not deadline.reached(1 << 40)
    assert deadline.left is None


def test_there_must_be_time_for_a_step_a_save_and_the_margin(clock: Clock) -> None:
    deadline = Deadline(lambda: 2000.0, clock)
    for _ in range(20):
        deadline.passed("step")
        clock.now += 7.0
    deadline.passed("step")
    deadline.saved(30.0)
    needed = margin(7.0 + 30.0)
    assert deadline.needed(0) == needed
    clock.now = 2000.0 - needed
    assert not deadline.reached(0)
    clock.now += 0.001
    assert deadline.reached(0)


def test_the_last_batch_of_an_epoch_is_followed_by_more_than_a_step(clock: Clock) -> None:
    deadline = Deadline(lambda: 1e9, clock)
    for _ in range(3):
        for _ in range(5):
            deadline.passed("step")
            clock.now += 1.0
        deadline.passed("between")
        clock.now += 100.0  # validation
    deadline.passed("step")
    deadline.saved(2.0)
    assert deadline.needed(0) == margin(1.0 + 2.0)
    deadline.passed("between")
    assert deadline.needed(0) == margin(100.0 + 2.0)


def test_the_first_save_is_guessed_from_the_size_of_the_state(clock: Clock) -> None:
    deadline = Deadline(lambda: 2000.0, clock)
    assert deadline.needed(10**10) == margin(101.0)
    deadline.saved(3.0)
    assert deadline.needed(10**10) == margin(3.0)


def test_a_limit_that_moves_is_followed(clock: Clock) -> None:
    ends = [1005.0]
    deadline = Deadline(lambda: ends[0], clock)
    assert deadline.reached(0)
    ends[0] = 5000.0
    assert not deadline.reached(0)


def test_what_was_slow_in_the_beginning_is_forgotten(clock: Clock) -> None:
    deadline = Deadline(lambda: 1e9, clock)
    deadline.passed("step")
    clock.now += 600.0  # compiling
    for _ in range(80):
        deadline.passed("step")
        clock.now += 1.0
    deadline.saved(1.0)
    assert deadline.needed(0) == margin(1.0 + 1.0)
