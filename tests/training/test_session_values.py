"""Values that a script hands over, metrics, counters of its own, and every way to get their names or numbers wrong."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_jobs import (
    Trial,
    check_same,
    folder_fixture,  # noqa: F401
    one_thread,  # noqa: F401
)

import milepost
from milepost.errors import MetricError, NotStorableError, ScriptError, StepError, UnknownItemError

ALL = milepost.Keep(last=None)
State = namedtuple("State", "mean count")  # as optax has them


@dataclasses.dataclass
class Config:
    rate: float
    name: str = "x"


class Mode(enum.Enum):
    FAST = "fast"


def start(directory: Path, **options: Any) -> milepost.Checkpointer:
    return milepost.Checkpointer(directory, **{"progress": False, "keep": ALL, **options})


def summary(directory: Path, which: str = "latest") -> dict[str, Any]:
    found = milepost.open(f"{directory}@{which}").metadata
    return dict(found)


# -- same names in, same names out ---------------------------------------------------------------------------------------


def test_replaced_values_are_exact(folder: Path) -> None:
    def script(trial: Trial) -> None:
        params = {"w": np.zeros((3, 4), np.float32), "layers": [np.ones(2), (np.arange(3), None)]}
        moments = State(np.zeros((3, 4), np.float32), 0)
        with trial.open(params=params, moments=moments, rate=0.1, best=None) as run:
            params, moments, rate, best = (run[name] for name in ("params", "moments", "rate", "best"))
            for _ in run.epochs(3):
                for batch in run.batches(range(5)):
                    gradient = np.random.normal(size=(3, 4)).astype(np.float32) + batch
                    moments = State(0.9 * moments.mean + gradient, moments.count + 1)
                    params = {**params, "w": params["w"] - rate * moments.mean}
                    rate, best = rate * 0.9, min(best or math.inf, float(gradient.sum()))
                    trial.lost(params["w"].sum())
                    run.step(params=params, moments=moments, rate=rate, best=best, loss=best)
                    trial("stepped")

    right = Trial().play(script)
    for number in (1, 5, 6, 12):
        directory = folder / str(number)
        first = Trial(directory, ("stepped", number), every=milepost.Every(steps=1)).play(script)
        second = Trial(directory).play(script)
        check_same(second.facts, right.facts, f"killed after {number}")
        assert first.losses | second.losses == right.losses
        assert type(second.run["moments"]) is State


@pytest.mark.parametrize(
    "value",
    [
        5, 2**80, -1.5, math.inf, True, None, "text", b"bytes", 3 + 4j, (1, (2, [3])), {1: "int", "1": "text", None: 0},
        {"a/b": {"~": 1}}, {1, 2}, frozenset(["b"]), OrderedDict(z=1, a=2), Config(0.1), Mode.FAST, State(1, 2),
        np.float32(0.1), np.arange(6).reshape(2, 3), np.zeros((0, 4)), np.array(5), np.array([True]), torch.arange(3),
        torch.zeros(2, 3, dtype=torch.bfloat16), [np.ones(1), torch.ones(1)], [],
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)  # fmt: skip
def test_what_goes_in_comes_out(value: Any, folder: Path) -> None:
    with start(folder, value=value) as run:
        run.vars["mine"] = value
        run.step(value=value)
    with start(folder, value=value) as run:
        for found in (run["value"], run.vars["mine"]):
            assert type(found) is type(value)
            if isinstance(value, np.ndarray):
                assert found.dtype == value.dtype
                assert np.array_equal(found, value)
            elif isinstance(value, torch.Tensor):
                assert found.dtype == value.dtype
                assert torch.equal(found, value)
            elif isinstance(value, list) and value and isinstance(value[0], np.ndarray):
                assert [type(one) for one in found] == [type(one) for one in value]
            else:
                assert found == value


def test_what_is_saved_is_what_was_handed_over_not_what_became_of_it(folder: Path) -> None:
    with start(folder, table={"a": [1]}) as run:
        run.vars["seen"] = [1]
        table = {"a": [1, 2]}
        run.step(table=table)
        pending = run.save()
        table["a"].append(3)
        run.vars["seen"].append(2)
        pending.result(timeout=60)
        source = milepost.open(folder)
        assert source.plain["table/a/1"] == 2
        assert "table/a/2" not in source.plain
        assert "run/vars/seen/1" not in source.plain
        run.step(table=table)


def test_names_that_clash_with_options_or_files(folder: Path) -> None:
    names = ["every", "keep", "state", "State", "manifest.json", "a b", "é", ".hidden", "x" * 300, "CON"]
    items = {name: np.full(3, number) for number, name in enumerate(names)}
    with start(folder, state=items) as run:
        run.step(**items)
    with start(folder, state={name: np.zeros(3, int) for name in names}) as run:
        assert all(np.array_equal(run[name], items[name]) for name in names)
    inside = os.listdir(folder / "step-00000001")
    assert len(inside) == len(names) + 2
    assert not [name for name in inside if name.startswith(".")]


# -- names and numbers that are wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "run", "a/b", "~", 3, None])
def test_names_that_cannot_be(name: Any, folder: Path) -> None:
    with pytest.raises(ScriptError):
        start(folder / "run", state={name: 1})
    assert not (folder / "run").exists()


def test_an_item_given_twice(folder: Path) -> None:
    with pytest.raises(ScriptError, match="twice"):
        start(folder / "run", w=1, state={"w": 2})


def test_a_misspelt_item(folder: Path) -> None:
    with start(folder, params=np.zeros(2), opt_state=np.zeros(2)) as run:
        with pytest.raises(UnknownItemError) as caught:
            run.step(parms=np.ones(2), opt_state=np.ones(2))
        assert "'parms'" in caught.value.message
        assert "params, opt_state" in str(caught.value.expected)
        assert "did you mean 'params'?" in (caught.value.hint or "")
        assert run.progress.step == 0
        assert np.array_equal(run["opt_state"], np.zeros(2)), "nothing of that call counts"
        with pytest.raises(UnknownItemError):
            run.epoch_end(parms=np.ones(2))
        with pytest.raises(UnknownItemError):
            run["parms"]
        with pytest.raises(UnknownItemError):
            run[0]  # type: ignore[index]


@pytest.mark.parametrize("saves", [0, 2])
def test_an_item_that_is_not_handed_over(saves: int, folder: Path) -> None:
    def script() -> None:
        with start(folder, params=np.zeros(1), opt_state=np.zeros(1)) as run:
            for _ in range(saves):
                run.step(params=np.ones(1), opt_state=np.ones(1))
                run.save()
            run.step(params=np.ones(1))
            run.step(params=np.ones(1))

    with pytest.raises(UnknownItemError, match="opt_state") as caught:
        script()
    assert "run.step(opt_state=opt_state)" in (caught.value.hint or "")
    assert len(list(folder.glob("step-*"))) == saves, "nothing stale is saved"


def test_an_object_handed_over_as_a_metric(folder: Path) -> None:
    model = torch.nn.Linear(1, 1)
    with start(folder, model=model) as run:
        with pytest.raises(ScriptError, match="changed in place"):
            run.step(model=0.5)
        assert run.progress.step == 0


@pytest.mark.parametrize("value", [torch.ones(2), np.zeros(3), "0.5", None, [1.0], {}, 1 + 2j, object()])
def test_a_metric_that_is_no_scalar(value: Any, folder: Path) -> None:
    with start(folder, w=1) as run:
        with pytest.raises(UnknownItemError, match="'loss'"):
            run.step(loss=value, w=2)
        assert run["w"] == 1
        assert run.progress.step == 0


@pytest.mark.parametrize("to", [5, 4, 0, -1])
def test_a_step_that_goes_backwards(to: int, folder: Path) -> None:
    with start(folder, w=0) as run:
        run.step(step=5, w=5, loss=0.5)
        with pytest.raises(StepError) as caught:
            run.step(step=to, w=to, loss=9.0)
        assert caught.value.expected == "more than 5"
        assert caught.value.found == str(to)
        assert run.progress.step == 5
        assert run["w"] == 5
        assert run.progress.metrics == {"loss": 0.5}
    assert summary(folder)["step"] == 5


def test_steps_that_a_script_counts_itself(folder: Path) -> None:
    with start(folder, w=0, every=milepost.Every(steps=10)) as run:
        for step in (4, 12, 13, 40):
            run.step(step=step, w=step)
    assert sorted(int(one.name[5:]) for one in folder.glob("step-*")) == [12, 40]


# -- metrics -------------------------------------------------------------------------------------------------------------------


def test_metrics_of_every_kind(folder: Path) -> None:
    graph = (torch.ones(1, requires_grad=True) * 0.5).sum()
    metrics = {
        "a": graph, "b": torch.tensor([0.25], dtype=torch.bfloat16), "c": np.float32(2.0), "d": np.array([[3]]), "e": True,
        "f": 7, "nan": math.nan, "inf": -math.inf,
    }  # fmt: skip
    with start(folder, w=0) as run:
        run.step(w=1, **metrics)
    source = milepost.open(folder)
    found = {name: source.manifest.summary.metric(name) for name in metrics}
    assert math.isnan(found.pop("nan") or 0.0)
    assert found == {"a": 0.5, "b": 0.25, "c": 2.0, "d": 3.0, "e": 1.0, "f": 7.0, "inf": -math.inf}


def test_the_best_is_kept_and_found(folder: Path) -> None:
    keep = milepost.Keep(last=1, best="val_loss")
    with start(folder, w=0, keep=keep) as run:
        for epoch, loss in zip(run.epochs(6), (3.0, 1.0, 2.0, 1.0, math.nan, 4.0), strict=True):
            run.step(w=epoch)
            run.epoch_end(val_loss=torch.tensor(loss))
    assert summary(folder, "best")["step"] == 2, "of equals the first, and no NaN"
    assert (folder / "best").readlink() == Path("step-00000002")
    assert sorted(one.name for one in folder.glob("step-*")) == ["step-00000002", "step-00000006"]


def test_the_best_value_is_remembered_over_a_restart(folder: Path) -> None:
    keep = milepost.Keep(last=1, best=("score", "max"))
    for losses in ([1.0, 5.0, 2.0], [3.0, 4.0], [6.0, 1.0]):
        with start(folder, w=0, keep=keep, every=milepost.Every(steps=1)) as run:
            for score in losses:
                run.step(w=run.progress.step)
                run.epoch_end(score=score)
        assert summary(folder, "best")["step"] in (2, 6)
    assert summary(folder, "best")["step"] == 6


def test_nan_in_the_metric_that_decides_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start(folder, w=0, keep=milepost.Keep(last=None, best="val_loss")) as run:
        run.step(w=1)
        run.epoch_end(val_loss=math.nan)
    said = capsys.readouterr().err
    assert "val_loss is NaN at step 1" in said
    assert summary(folder)["step"] == 1, "and nothing is lost"


@pytest.mark.parametrize("epochs", [True, False])
def test_a_metric_that_never_comes(epochs: bool, folder: Path) -> None:
    def script() -> None:
        with start(folder, w=0, keep=milepost.Keep(last=None, best="val_loss")) as run:
            if epochs:
                for _ in run.epochs(2):
                    run.step(w=1, loss=0.5)
                    run.epoch_end(val_los=0.5)
            else:
                for _ in run.steps(2):
                    run.step(w=1, loss=0.5)

    with pytest.raises(MetricError) as caught:
        script()
    assert "'val_loss'" in caught.value.message
    assert caught.value.found == ("loss, val_los" if epochs else "loss")
    assert "val_loss=" in (caught.value.hint or "")
    assert summary(folder)["step"] == 2, "and nothing is lost"
    with start(folder, w=0, keep=milepost.Keep(last=None, best="loss")) as run:
        assert run.complete


def test_a_direction_that_is_not_known(folder: Path) -> None:
    with pytest.raises(MetricError, match="smaller or a larger"):
        milepost.Keep(best="elo")


# -- counters of one's own -------------------------------------------------------------------------------------------------------


def test_vars_that_cannot_be_stored_are_named(folder: Path) -> None:
    def script() -> None:
        with start(folder, w=0) as run:
            run.vars["deep"] = {"inner": [object()]}
            run.step(w=1)

    with pytest.raises(NotStorableError) as caught:
        script()
    assert caught.value.where == "run/vars/deep/inner/0"


def test_progress_can_be_read(folder: Path) -> None:
    with start(folder, w=0) as run:
        assert (run.progress.step, run.progress.epoch, run.progress.batch, run.progress.attempt) == (0, 0, 0, 1)
        for epoch in run.epochs(2):
            for number, _ in enumerate(run.batches([1, 2, 3])):
                assert (run.progress.epoch, run.progress.batch) == (epoch, number)
                run.step(w=1, loss=number)
                assert run.progress.step == epoch * 3 + number + 1
                assert run.progress.metrics["loss"] == number
        assert (run.progress.epoch, run.progress.batch) == (2, 0)
    for name in ("step", "epoch", "batch", "attempt"):
        with pytest.raises(AttributeError):
            setattr(run.progress, name, 5)


def test_run_steps_wants_a_step_in_every_turn(folder: Path) -> None:
    with start(folder, w=0) as run:
        turns = iter(run.steps(3))
        next(turns)
        with pytest.raises(StepError, match=r"run\.step was not called"):
            next(turns)


def test_two_passes_of_one_name_in_an_epoch(folder: Path) -> None:
    def script() -> None:
        with start(folder, w=0) as run:
            for _ in run.epochs(1):
                for _ in range(2):
                    for _ in run.batches([1, 2]):
                        run.step(w=1)

    with pytest.raises(milepost.errors.LoaderError, match="twice") as caught:
        script()
    assert "name='second'" in (caught.value.hint or "")


def test_two_epoch_ends_in_an_epoch(folder: Path) -> None:
    with start(folder, w=0) as run:
        for _ in run.epochs(1):
            run.epoch_end()
            with pytest.raises(StepError, match="twice"):
                run.epoch_end()
