import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.errors import ScriptError
from milepost.training.due import REMEMBERED
from milepost.training.policy import (
    MOST_OVERHEAD,
    SHORTEST_SECONDS,
    Every,
    best_interval,
    start,
)
from milepost.training.progress import Phase, Progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Job:
    """A job of 200 calls of run.step, 10 in an epoch, where call n does ``strides[n % len(strides)]`` steps."""

    def __init__(self, every, strides=(1,)):
        self.every, self.strides = every, strides

    def run(self, place=(0, 0, 0, Phase.IN_EPOCH)):
        calls, step, epoch, phase = place
        self.saved = []
        self.due, self.progress = start(self.every), Progress(step, epoch, phase=phase)
        self.due.begin(self.progress)
        if calls % 10 == 0 and calls and phase is not Phase.EPOCH_ENDED:
            self.end_epoch(calls)
        for call in range(calls + 1, 201):
            step += self.strides[call % len(self.strides)]
            self.progress.move(step, phase=Phase.IN_EPOCH)
            self.save_if_due(call, at_epoch_end=False)
            if call % 10 == 0:
                self.end_epoch(call)
        return self.saved

    def end_epoch(self, calls):
        self.progress.move(epoch=self.progress.epoch + 1, phase=Phase.EPOCH_ENDED)
        self.save_if_due(calls, at_epoch_end=True)

    def save_if_due(self, calls, at_epoch_end):
        if self.due.due(self.progress, at_epoch_end):
            self.due.saved(self.progress)
            self.saved.append((calls, self.progress.step, self.progress.epoch, self.progress.phase))
            assert not self.due.due(self.progress, at_epoch_end)

    def steps(self):
        return [step for _, step, _, _ in self.run()]


def test_steps_are_due_at_multiples():
    assert Job(Every(steps=30)).steps() == [30, 60, 90, 120, 150, 180]


def test_a_multiple_that_is_stepped_over_is_due_when_crossed():
    assert Job(Every(steps=10), [7]).steps()[:5] == [14, 21, 35, 42, 56]


def test_epochs_are_due_at_the_end_of_every_nth_epoch_only():
    assert [(step, epoch, str(phase)) for _, step, epoch, phase in Job(Every(epochs=8)).run()] == [
        (80, 8, "epoch-ended"),
        (160, 16, "epoch-ended"),
    ]


@given(
    every=st.builds(Every, steps=st.integers(1, 40), epochs=st.none() | st.integers(1, 4)),
    strides=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    chosen=st.integers(0, 200),
)
def test_after_a_resume_saves_fall_where_they_would_have_without(every, strides, chosen):
    undisturbed = Job(every, strides).run()
    place = chosen % len(undisturbed)
    assert Job(every, strides).run(undisturbed[place]) == undisturbed[place + 1 :]


@given(
    steps=st.integers(1, 40), strides=st.lists(st.integers(1, 60), min_size=1, max_size=5), calls=st.integers(1, 199)
)
def test_a_save_for_another_reason_moves_none(steps, strides, calls):
    undisturbed = Job(Every(steps=steps), strides).run()
    at = sum(strides[call % len(strides)] for call in range(1, calls + 1))
    disturbed = Job(Every(steps=steps), strides).run((calls, at, calls // 10, Phase.EPOCH_ENDED))
    assert [step for _, step, *_ in disturbed] == [step for _, step, *_ in undisturbed if step > at]


def test_what_is_due_stays_due_until_a_save_begins():
    due = start(Every(steps=100))
    due.begin(Progress(0))
    assert [due.due(Progress(step)) for step in (99, 100, 100, 101)] == [False, True, True, True]
    due.saved(Progress(101))
    assert not due.due(Progress(101))


def test_the_checkpoint_that_is_continued_is_not_saved_again():
    due = start(Every(steps=100))
    due.begin(Progress(200))
    assert not due.due(Progress(200))
    assert not due.due(Progress(299))
    assert due.due(Progress(300))


# -- seconds -----------------------------------------------------------------------------------------------------------


def test_seconds_count_from_the_beginning_of_the_last_save():
    clock = Clock()
    due = start(Every(seconds=60), clock)
    clock.now += 500  # restoring takes its time
    due.begin(Progress())
    clock.now += 59
    assert not due.due(Progress(1))
    clock.now += 1
    assert due.due(Progress(2))
    clock.now += 5
    due.saved(Progress(2))
    clock.now += 59
    assert not due.due(Progress(3))
    clock.now += 1
    assert due.due(Progress(4))


# -- combinations and callables ----------------------------------------------------------------------------------------


def test_any_part_of_a_combination_makes_a_save_due():
    clock = Clock()
    due = start(Every(steps=100, seconds=60) | Every(epochs=2) | (lambda now: now.metrics["loss"] < 0.1), clock)
    progress = Progress(1)
    progress._metrics.update({"loss": 1.0})
    due.begin(progress)
    assert not due.due(progress)
    progress._metrics.update({"loss": 0.05})
    assert due.due(progress)
    progress._metrics.update({"loss": 1.0})
    clock.now += 60
    assert due.due(progress)
    due.saved(progress)
    assert not due.due(progress)
    progress.move(epoch=2, phase=Phase.EPOCH_ENDED)
    assert due.due(progress, at_epoch_end=True)
    assert not due.due(progress, at_epoch_end=False)
    progress.move(step=100)
    assert due.due(progress)


def test_a_callable_is_accepted_alone_and_on_either_side():
    def at_three(progress):
        return progress.step == 3

    class AtThree:
        def __call__(self, progress):
            return at_three(progress) and progress.batch == 0

    for every in (at_three, at_three | Every(steps=100), Every(steps=100) | at_three, AtThree() | Every(steps=100)):
        due = start(every)
        due.begin(Progress())
        assert [step for step in range(1, 99) if due.due(Progress(step))] == [3]
    assert repr(at_three | Every(steps=100)) == "at_three | Every(steps=100)"


def test_every_callable_is_asked_each_time():
    asked = []
    due = start(Every(steps=1) | (lambda progress: asked.append(progress.step) or False))
    due.begin(Progress(0))
    assert due.due(Progress(1))
    assert due.due(Progress(2))
    assert asked == [1, 2]


def test_none_is_never_due():
    due = start(None)
    due.begin(Progress())
    due.cost(1.0)
    assert not due.due(Progress(10**6), at_epoch_end=True)


def test_they_are_values():
    assert Every(steps=5) == Every(steps=5)
    assert len({Every(steps=5), Every(steps=5), Every(steps=6), Every.auto("1h"), Every.auto("1h")}) == 3
    assert Every(steps=5) | Every(epochs=1) == Every(steps=5) | Every(epochs=1)
    with pytest.raises(AttributeError):
        Every(steps=5).steps = 6
    assert repr(Every(seconds=0.5, epochs=2)) == "Every(seconds=0.5, epochs=2)"
    assert repr(Every(steps=np.int64(5)) | Every.auto(mtbf="12h")) == "Every(steps=5) | Every.auto(mtbf='12h')"


@pytest.mark.parametrize(
    "options",
    [
        {},
        *({"steps": wrong} for wrong in (0, -1, 1.5, True, "5", float("inf"))),
        *({"seconds": wrong} for wrong in (0, -0.5, float("nan"), float("inf"), "1h", True)),
        *({"epochs": wrong} for wrong in (0, 2.0, False)),
        {"steps": 5, "seconds": 0},
    ],
    ids=repr,
)
def test_what_makes_no_sense_is_refused(options):
    with pytest.raises(ScriptError, match="Every"):
        Every(**options)


@pytest.mark.parametrize("wrong", [5, "steps", object(), [Every(steps=1)]], ids=["number", "text", "object", "list"])
def test_what_is_no_policy_is_refused(wrong):
    with pytest.raises(ScriptError, match="when to save"):
        start(wrong)
    with pytest.raises(ScriptError, match="when to save"):
        Every(steps=1) | wrong
    with pytest.raises(ScriptError, match="when to save"):
        wrong | Every(steps=1)


# -- the best interval -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mtbf", "cost", "tau"), [(24 * 60, 5, 117), (6 * 60, 5, 57), (15, 5, 9.1)])
def test_the_interval_is_that_of_the_paper(mtbf, cost, tau):
    """Figures 3 to 5 of Daly (2006), in minutes; his interval ends where the save begins."""
    assert best_interval(cost, mtbf) - cost == pytest.approx(tau, abs=0.5 if tau > 10 else 0.05)


def wasted(interval: float, cost: float, mtbf: float) -> float:
    """Expected time per second of training, failures being Poisson: the full model of Daly (2006)."""
    return mtbf * math.expm1(interval / mtbf) / (interval - cost)


@given(mtbf=st.floats(60, 1e7), ratio=st.floats(1e-6, 0.2))
def test_no_other_interval_loses_noticeably_less(mtbf, ratio):
    cost = ratio * mtbf
    chosen = wasted(best_interval(cost, mtbf), cost, mtbf)
    bounded = wasted(max(best_interval(cost, mtbf), cost / MOST_OVERHEAD), cost, mtbf)
    least = min(wasted(interval, cost, mtbf) for interval in np.geomspace(1.01 * cost, 5 * mtbf, 4000))
    assert chosen <= 1.001 * least
    assert bounded <= 1.01 * least


@given(cost=st.floats(0, 1e9), mtbf=st.floats(1e-3, 1e9))
def test_the_interval_has_its_bounds(cost, mtbf):
    interval = Every.auto(mtbf=mtbf).interval(cost)
    assert interval >= SHORTEST_SECONDS
    assert cost <= interval * MOST_OVERHEAD * (1 + 1e-9)
    assert math.isfinite(interval)


def test_dearer_saves_are_rarer_without_a_jump_where_the_formula_changes():
    around = [best_interval(2.0 * mtbf, mtbf) / mtbf for mtbf in (0.999, 1.0, 1.001)]
    assert max(around) - min(around) < 0.2
    costs = np.geomspace(1e-3, 1e3, 200)
    intervals = [Every.auto(mtbf="1h").interval(cost) for cost in costs]
    assert intervals == sorted(intervals)


def test_auto_learns_the_cost_from_a_first_save_and_forgets_outliers():
    clock = Clock()
    due = start(Every.auto(mtbf="12h"), clock)
    due.begin(Progress())

    def next_due() -> float:
        began = clock.now
        while not due.due(Progress()):
            clock.now += 0.5
        due.saved(Progress())
        return clock.now - began

    assert next_due() == SHORTEST_SECONDS
    due.cost(2.0)
    usual = next_due()
    assert usual == pytest.approx(Every.auto(mtbf="12h").interval(2.0), abs=0.5)
    due.cost(2.0)
    due.cost(600.0)  # a disk that hung
    assert next_due() == usual
    for _ in range(REMEMBERED):
        due.cost(8.0)  # the state has grown
    assert next_due() == pytest.approx(Every.auto(mtbf="12h").interval(8.0), abs=0.5)


def test_a_cost_below_nothing_is_nothing():
    clock = Clock()
    due = start(Every.auto(mtbf="12h"), clock)
    due.cost(-0.01)
    clock.now += SHORTEST_SECONDS
    assert due.due(Progress())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("45 min", 2700),
        ("45m", 2700),
        ("12h", 43200),
        ("1h30m", 5400),
        ("1.5 h", 5400),
        ("2d 12h", 216000),
    ],
)
def test_times_are_read_with_their_units(text, seconds):
    assert Every.auto(mtbf=text).interval(100.0) == Every.auto(mtbf=seconds).interval(100.0)


@pytest.mark.parametrize(
    "wrong", [0, -5, float("nan"), float("inf"), "", "12", "h", "12 parsecs", "-1h", "0s", None, True], ids=repr
)
def test_times_that_are_none_are_refused(wrong):
    with pytest.raises(ScriptError, match="mean time between failures"):
        Every.auto(mtbf=wrong)


# -- saves that must be durable ----------------------------------------------------------------------------------------


class Durable:
    """A job in which a save is durable after so many steps, one at a time; training waits where it is held back."""

    def __init__(self, every, takes):
        self.due, self.progress = start(every), Progress()
        self.takes, self.flying, self.left = itertools.cycle(takes), None, 0
        self.safe = self.holds = self.furthest = 0
        self.due.begin(self.progress)

    def run(self, count):
        while self.progress.step < count:
            self.progress.move(self.progress.step + 1)
            self.furthest = max(self.furthest, self.progress.step - self.safe)
            self.left -= 1
            if self.flying is not None and self.left <= 0:
                self.durable()
            if self.due.due(self.progress):
                if self.flying is not None:  # one at a time
                    self.durable()
                self.due.saved(self.progress)
                self.flying, self.left = self.progress.step, next(self.takes)
            if self.due.holds(self.progress):
                self.holds += 1
                self.durable()
        return self

    def durable(self):
        self.due.durable(self.flying, self.progress, max(0, self.left))
        self.safe, self.flying = self.flying, None


@given(steps=st.integers(1, 20), takes=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_training_is_never_further_beyond_what_is_durable(steps, takes):
    assert Durable(Every(steps=steps, durable=True), takes).run(300).furthest <= steps


@pytest.mark.parametrize("takes", [1, 2, 5])
def test_saves_begin_early_enough_that_training_need_not_wait(takes):
    job = Durable(Every(steps=10, durable=True), [takes])
    first = job.run(30).holds
    assert job.run(1000).holds == first


def test_what_is_durable_in_seconds():
    clock = Clock()
    due, progress = start(Every(seconds=60, durable=True), clock), Progress()
    due.begin(progress)
    clock.now += 60
    assert due.due(progress)
    due.saved(progress)
    assert due.holds(progress)
    clock.now += 7
    due.durable(0, progress)
    assert not due.holds(progress)
    clock.now += 46 - 1
    assert not due.due(progress), "52 s after it began"
    clock.now += 1
    assert due.due(progress), "53, since the last one took 7"
    progress.move(5)
    due.saved(progress)
    clock.now += 6
    assert not due.holds(progress)
    clock.now += 1
    assert due.holds(progress)


def test_epochs_that_must_be_durable_are_waited_for():
    due, progress = start(Every(epochs=2, durable=True)), Progress()
    due.begin(progress)
    progress.move(20, 2, phase=Phase.EPOCH_ENDED)
    assert due.due(progress, at_epoch_end=True)
    due.saved(progress)
    assert due.holds(progress)
    due.durable(20, progress)
    assert not due.holds(progress)


def test_what_is_on_the_disk_of_a_node_alone_is_not_durable_at_the_start():
    due, progress = start(Every(steps=10, durable=True)), Progress(25)
    due.begin(progress, durable=False)
    assert due.holds(progress)
    due.durable(25, progress)
    assert not due.holds(progress)


def test_others_do_not_wait():
    due, progress = start(Every(steps=10) | Every.auto(mtbf="1h")), Progress()
    due.begin(progress)
    progress.move(1000)
    due.saved(progress)
    assert not due.holds(progress)


def test_durable_is_yes_or_no():
    assert repr(Every(steps=5, durable=True)) == "Every(steps=5, durable=True)"
    with pytest.raises(ScriptError, match="durable"):
        Every(steps=5, durable="yes")
