"""What a restart says of itself: the steps it makes again, beside those that the killed attempt had made."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import milepost
from milepost.core.leaves import fingerprint
from milepost.errors import MilepostWarning, NotExactError
from milepost.storage.local import LocalStorage
from milepost.training.continuation import Continuation
from milepost.training.trace import Line, Trace, read_after

DATA = [np.full(3, number, np.float32) for number in range(6)]


class Died(Exception):  # noqa: N818 - no error: it is meant
    """The job is killed here: nothing is saved."""


class Script:
    """Two epochs of six batches, saved every four steps, with what may be wrong with it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.options = folder, options
        self.data: list[Any] = DATA
        self.kept = True
        """Whether the momentum is in the state."""
        self.gather = 1
        self.nested = False
        self.metric: Callable[[float], float] = lambda value: value
        self.validated: Callable[[float], float] = lambda value: value

    def __call__(self, die_at: int = 0, epochs: int = 2) -> Any:
        w, momentum = np.zeros(3), np.zeros(3)
        items = {"w": w, "momentum": momentum} if self.kept else {"w": w}
        options = {"every": milepost.Every(steps=4), "progress": False, **self.options}
        try:
            with milepost.Checkpointer(self.folder, **items, **options) as run:
                w = run["w"]
                momentum = run["momentum"] if self.kept else momentum
                for _ in run.epochs(epochs):
                    for batch in self.batches(run):
                        momentum = 0.9 * momentum + batch
                        w = w + momentum
                        new = {"w": w, "momentum": momentum} if self.kept else {"w": w}
                        run.step(loss=self.metric(float(w.sum())), **new)
                        if run.progress.step == die_at:
                            raise Died
                    run.epoch_end(val_loss=self.validated(float(w[0])))
        except Died:
            return run
        return run

    def batches(self, run: Any) -> Iterator[Any]:
        for batch in run.batches(self.data):
            if not self.nested:
                yield batch
                continue
            yield from run.batches([batch, -batch, batch * 2], name="inner")


@pytest.fixture(name="script")
def _script(tmp_path: Path) -> Script:
    return Script(tmp_path / "run")


def state(run: Any) -> str:
    return str(run.resume_report.continuation.state)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("die_at", [5, 6, 7, 9, 11])
def test_a_killed_job_continues_exactly_and_says_so(script: Script, die_at: int, nested: bool, capsys: Any) -> None:
    script.nested = nested
    script(die_at=die_at)
    capsys.readouterr()
    run = script()
    said = capsys.readouterr().err
    first = die_at // 4 * 4 + 1
    assert f"up to step {die_at} it will be compared with attempt 1" in said
    steps = f"steps {first} to {die_at} are" if die_at > first else f"step {first} is"
    assert f"continues exactly: {steps} as in attempt 1 (batches and metrics)" in said
    assert state(run) == "exact"


def test_the_end_of_an_epoch_is_on_record(script: Script) -> None:
    script(die_at=7)
    lines = [json.loads(line) for line in (script.folder / "attempts/1.trace.jsonl").read_text().splitlines()]
    assert [(one["step"], one["epoch"], one["batch"], list(one["metrics"])) for one in lines if one.get("ended")] == [
        (6, 1, 0, ["val_loss"])
    ]
    assert [list(one["metrics"]) for one in lines if not one.get("ended")] == [["loss"]] * 7


def test_a_difference_in_validation_alone_is_noticed(script: Script) -> None:
    script(die_at=7)
    script.validated = lambda value: value + 1
    with pytest.warns(MilepostWarning, match="(?s)step 6, the end of epoch 0.*val_loss = "):
        script()


def test_what_is_not_in_the_state_is_noticed(script: Script, capsys: Any) -> None:
    script.kept = False
    script(die_at=7)
    with pytest.warns(MilepostWarning, match="does not continue exactly"):
        run = script()
    said = capsys.readouterr().err
    assert "warning: this attempt does not continue exactly: it differs from attempt 1" in said
    assert "where:    step 5, epoch 0, batch 4" in said
    assert "expected: loss = " in said
    assert "as in attempt 1" in said
    assert said.count("does not continue exactly") == 1
    assert state(run) == "differs"
    assert run.progress.step == 12, "training goes on"


def test_it_can_stop_instead(script: Script) -> None:
    script.kept, script.options["on_mismatch"] = False, "stop"
    script(die_at=7)
    with pytest.raises(NotExactError, match="loss") as caught:
        script()
    assert caught.value.exit_code == 1
    assert not (script.folder / "step-000000008").exists()
    with pytest.raises(NotExactError, match="attempt 1"):
        script()  # and not with attempt 2, which is as wrong


def test_other_batches_are_noticed(script: Script) -> None:
    script.metric = lambda value: 0.0
    script(die_at=7)
    script.data = [*DATA[:5], DATA[5] + 1]
    with pytest.warns(MilepostWarning, match="(?s)step 6, epoch 0, batch 5.*the batch that attempt 1 was given there"):
        script()


def test_a_step_at_another_place_is_noticed(script: Script) -> None:
    one = Line(5, 0, 4, data=["a"], metrics={"loss": 1.0})
    found = Continuation([one], 3).compare(Line(5, 1, 0, data=["a"], metrics={"loss": 1.0}))
    assert found is not None
    assert (found.expected, found.found) == ("step 5, epoch 0, batch 4", "step 5, epoch 1, batch 0")


def test_a_stop_by_a_signal_leaves_nothing_to_compare_with(script: Script, capsys: Any) -> None:
    script.metric = lambda value: os.kill(os.getpid(), signal.SIGTERM) or value
    with pytest.raises(SystemExit):
        script()
    script.metric = lambda value: value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = script()
    assert "whether it continues exactly is not checked: no later step is on record" in capsys.readouterr().err
    assert state(run) == "not checked"


def test_a_branch_is_not_compared(script: Script) -> None:
    script.options["keep"] = milepost.Keep(last=None)
    script(die_at=11)
    script.options["resume"] = "step=4"
    script.metric = lambda value: value + 1
    assert script().resume_report.continuation.why_not == "a branch begins here"


def test_an_override_is_not_compared(tmp_path: Path) -> None:
    def job(die: bool, **options: Any) -> Any:
        try:
            with milepost.Checkpointer(
                tmp_path, every=milepost.Every(steps=2), plain={"lr": 1.0}, progress=False, **options
            ) as run:
                for step in run.steps(8):
                    run.step(loss=run["plain"]["lr"] * step, plain=run["plain"])
                    if die and step == 2:
                        raise Died
        except Died:
            pass
        return run

    job(die=True)
    run = job(die=True, override={"plain/lr": 2.0})
    assert run.resume_report.continuation.why_not == "override= changes it"
    # That one died before it saved anything; it is the only one that did what this one does.
    run = job(die=False, override={"plain/lr": 2.0})
    assert (state(run), run.resume_report.continuation.attempt) == ("exact", 2)


def test_a_changed_script_is_no_reason_to_warn(script: Script, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    script.kept, script.options["on_mismatch"] = False, "stop"
    monkeypatch.setattr("milepost.training.checkpointer.provenance.written_by", lambda: {"arguments": ["--lr", "1"]})
    script(die_at=7)
    monkeypatch.setattr("milepost.training.checkpointer.provenance.written_by", lambda: {"arguments": ["--lr", "2"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert state(script()) == "differs"
    assert "(it was changed since that checkpoint: --lr: 1 -> 2)" in capsys.readouterr().err


def test_gathered_gradients_leave_batches_in_front(script: Script) -> None:
    """The killed attempt had read two batches for its step, the restart began after the first of them, say."""
    before = Line(5, 0, 4, data=["a", "b"], metrics={"loss": 1.0})
    found = Continuation([before, Line(6, 0, 6, data=["c", "d"])], 1)
    assert found.compare(Line(5, 0, 4, data=["b"], metrics={"loss": 1.0})) is None
    assert found.compare(Line(6, 0, 6, data=["d"])) is not None, "but only in front of the first step"


def test_a_metric_that_is_not_finite_is_compared(script: Script) -> None:
    script.metric = lambda value: float("nan") if value > 50 else float("inf")
    script(die_at=7)
    assert state(script()) == "exact"


def test_nothing_in_common_is_not_called_exact() -> None:
    found = Continuation([Line(1, 0, 0, metrics={"loss": 1.0})], 1)
    assert found.compare(Line(1, 0, 0, metrics={"accuracy": 1.0})) is None
    assert found.state == "not checked"
    assert "no step was made that has a batch or a metric on record" in str(found)


def test_a_run_that_ends_before_the_comparison_does(script: Script, capsys: Any) -> None:
    script(die_at=7)
    capsys.readouterr()
    run = script(die_at=6)
    assert state(run) == "exact"
    assert "continues exactly: steps 5 to 6 are" in capsys.readouterr().err


def test_a_trace_is_read_from_its_end_and_survives_a_torn_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milepost.training.trace.BLOCK", 100)
    storage = LocalStorage(tmp_path)
    (tmp_path / "attempts").mkdir()
    trace = Trace(storage, 1)
    for step in range(1, 40):
        trace.handed(np.arange(step))
        trace.write(step, 0, step, {"loss": 1 / step}, ended=False)
    with (tmp_path / "attempts/1.trace.jsonl").open("ab") as file:
        file.write(b'{"step": 40, "ep')
    found = read_after(storage, 1, 29)
    assert [line.step for line in found] == list(range(30, 40))
    assert found[0].data == [fingerprint(np.arange(30))]
    assert read_after(storage, 2, 0) == []
    assert len(read_after(storage, 1, 0)) == 39


def test_a_fingerprint_tells_batches_apart() -> None:
    large = np.zeros(1 << 20, np.uint8)
    other = large.copy()
    other[-1] = 1
    assert fingerprint({"x": large}) == fingerprint({"x": large.copy()})
    assert fingerprint({"x": large}) != fingerprint({"x": other})
    assert fingerprint({"x": large}) != fingerprint({"y": large})
    assert fingerprint([np.arange(4)]) != fingerprint([np.arange(4.0)])
    assert fingerprint(["a", 1, None]) != fingerprint(["a", 1, 0])
