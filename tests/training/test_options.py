"""Mistakes in calls: one error each, which names the argument, what was expected, what was found; and nothing was touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import milepost
from milepost.errors import ScriptError

Run = milepost.Checkpointer


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("every", 100, "every=milepost.Every(steps=200)"),
        ("keep", 5, "keep=milepost.Keep(last=5)"),
        ("keep", "best", "keep=milepost.Keep(last=3)"),
        ("resume", 3, 'resume="step=3"'),
        ("resume", None, None),
        ("resume", Path("runs/old"), None),
        ("state", [("w", 1)], "state={'model': model}"),
        ("state", {3: 1}, "state={'model': model}"),
        ("override", "x", "override={"),
        ("override", [1], "override={"),
        ("stage", "fast", None),
        ("stage", ["copy"], None),
        ("max_memory", "1G", None),
        ("max_memory", 1 << 20, None),
        ("max_memory", True, None),
        ("on_error", "ignore", None),
        ("on_busy", None, None),
        ("on_mismatch", "fail", None),
        ("signals", "TERM", "signals=[signal.SIGTERM]"),
        ("signals", 15, "signals=[signal.SIGTERM]"),
        ("signals", None, "[] for none"),
        ("signals", ["TERM"], "signals=[signal.SIGTERM"),
        ("time_limit", "soon", None),
        ("requeue", True, None),
        ("max_requeues", -1, None),
        ("takeover", "no", None),
        ("progress", 1, None),
        ("evry", milepost.Every(steps=5), "did you mean every=?"),
        ("k", milepost.Keep(last=2), "did you mean keep=?"),
        ("resum", "never", "did you mean resume=?"),
        ("max_memry", 1 << 30, "did you mean max_memory=?"),
        ("take_over", True, "state={'take_over': ...}"),
    ],
)
def test_options(option: str, value: Any, hint: str | None, tmp_path: Path) -> None:
    with pytest.raises(ScriptError) as caught:
        Run(tmp_path / "run", **{"w": np.zeros(2), option: value})
    said = str(caught.value)
    assert f"{option}=" in said
    assert "expected:" in said or "did you mean" in said or hint is not None
    assert "found:" in said
    assert (hint or "") in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [5, None, b"runs", "", "a\0b", ["runs"]])
def test_directories(value: Any) -> None:
    with pytest.raises(ScriptError, match="the run directory cannot be that") as caught:
        Run(value, w=np.zeros(2))
    assert caught.value.found == repr(value)


CALLS: dict[str, Callable[[Run], object]] = {
    "run.step(step=)": lambda run: run.step(step=1.5),  # type: ignore[arg-type]
    "run.step(step=) ": lambda run: run.step(step=True),
    "run.epochs(count)": lambda run: run.epochs("3"),  # type: ignore[arg-type]
    "run.epochs(count) ": lambda run: run.epochs(2.5),  # type: ignore[arg-type]
    "run.epochs(count)  ": lambda run: run.epochs(-1),
    "run.steps(count)": lambda run: run.steps(None),  # type: ignore[arg-type]
    "run.restore(which=)": lambda run: run.restore(3),  # type: ignore[arg-type]
    "run.batches(name=)": lambda run: run.batches([1], name=3),  # type: ignore[arg-type]
    "run.batches(train=)": lambda run: run.batches([1], train="no"),  # type: ignore[arg-type]
    "run.batches(replay=)": lambda run: run.batches([1], replay=1),  # type: ignore[arg-type]
    "run.batches": lambda run: run.batches(5),  # type: ignore[arg-type]
    "run.batches ": lambda run: run.batches(None, train=False),  # type: ignore[arg-type]
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with Run(tmp_path_factory.mktemp("runs") / "run", w=np.zeros(2), progress=False) as run:
        yield run


@pytest.mark.parametrize("call", CALLS)
def test_calls(call: str, run: Run) -> None:
    with pytest.raises(ScriptError) as caught:
        CALLS[call](run)
    assert call.strip() in str(caught.value)
    assert caught.value.expected is not None
    assert caught.value.found is not None
    assert run.progress.step == 0


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    keep = milepost.Keep(last=np.int64(1))  # type: ignore[arg-type]
    with Run(tmp_path / "run", w=np.zeros(2), keep=keep, progress=False) as run:
        for _ in run.epochs(np.int64(1)):  # type: ignore[arg-type]
            for _ in run.batches([1, 2, 3]):
                run.step(step=np.int32(run.progress.step + 2), w=np.ones(2))  # type: ignore[arg-type]
    assert run.progress.step == 6
    assert isinstance(run.progress.step, int)


def test_items_whose_names_are_near_an_option_are_items(tmp_path: Path) -> None:
    with Run(tmp_path / "run", states=np.zeros(2), state={"signal": 3}, progress=False) as run:
        run.step(states=np.ones(2), signal=4)
    again = Run(tmp_path / "run", states=np.zeros(2), state={"signal": 3}, progress=False)
    assert again["signal"] == 4
    again.close()


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with Run("~/runs/mnist", w=np.zeros(2), progress=False) as run:
        run.step(w=np.ones(2))
    assert (tmp_path / "runs/mnist/step-00000001/manifest.json").exists()
    assert milepost.open("~/runs/mnist@latest")["w"].tolist() == [1, 1]
    with Run("~/fork", w=np.zeros(2), resume="~/runs/mnist@step=1", progress=False) as run:
        assert run["w"].tolist() == [1, 1]
