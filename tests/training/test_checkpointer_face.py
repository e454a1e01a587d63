"""The public face, word for word: a change of it breaks somebody's script, and is to be made on purpose."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import milepost
from milepost.errors import MetricError, ScriptError

CHECKPOINTER = """
Checkpointer(directory: 'str | os.PathLike[str]', *, every: 'Policy | Callable[[Progress], bool] | None' = None, \
keep: 'Keep | None' = None, resume: 'str' = 'latest', state: 'Mapping[str, Any] | None' = None, \
override: 'Mapping[str, Any] | None' = None, stage: "Literal['overlap', 'copy']" = 'overlap', \
max_memory: 'int | None' = None, stage_dir: 'str | os.PathLike[str] | None' = None, drain_bandwidth: 'float | None' = None, \
on_error: "Literal['warn', 'raise']" = 'warn', on_busy: "Literal['wait', 'skip']" = 'wait', \
on_mismatch: "Literal['warn', 'stop']" = 'warn', \
signals: 'Sequence[int]' = (<Signals.SIGTERM: 15>, <Signals.SIGUSR1: 10>, <Signals.SIGUSR2: 12>), \
time_limit: 'float | str | None' = None, requeue: "Literal['auto', 'never']" = 'auto', max_requeues: 'int | None' = None, \
takeover: 'bool' = False, progress: 'bool | None' = None, **items: 'Any') -> 'None'
__enter__() -> 'Self'
__exit__(kind: 'type[BaseException] | None', problem: 'BaseException | None', traceback: 'TracebackType | None') -> 'None'
__getitem__(name: 'str') -> 'Any'
batches(loader: 'Iterable[T]', *, name: 'str' = 'batches', train: 'bool' = True, replay: 'bool' = False) -> 'Iterable[T]'
close() -> 'None'
complete -> 'bool'
directory -> 'str'
epoch_end(**metrics: 'Any') -> 'None'
epochs(count: 'int') -> 'Iterator[int]'
progress -> 'Progress'
restore(which: 'str' = 'latest', *, target: 'Mapping[str, Any] | None' = None, \
sharding: 'Mapping[str, Any] | None' = None) -> 'None'
resume_report -> 'ResumeReport'
resumed_from -> 'str | None'
save() -> 'Pending | None'
step(*, step: 'int | None' = None, **values: 'Any') -> 'None'
steps(count: 'int') -> 'Iterator[int]'
vars -> 'dict[str, Any]'
wait() -> 'None'
"""
OTHERS = {
    "Every": "Every(steps: 'int | None' = None, seconds: 'float | None' = None, epochs: 'int | None' = None, "
    "durable: 'bool' = False) -> None",
    "Keep": "Keep(last: 'int | None' = 3, best: 'str | tuple[str, str] | None' = None, every_steps: 'int | None' = None, "
    "independent: 'int' = 1) -> None",
    "Pending": "done() -> 'bool'; problem -> 'BaseException | None'; result(timeout: 'float | None' = None) -> 'Listed'",
    "Progress": "attempt -> 'int'; batch -> 'int'; elapsed -> 'float'; epoch -> 'int'; metrics -> 'dict[str, float]'; "
    "phase -> 'Phase'; step -> 'int'",
}
SPECIAL = ("__enter__", "__exit__", "__getitem__")


def signature(name: str, function: Any) -> str:
    shown = inspect.signature(function)
    parameters = [one for one in shown.parameters.values() if one.name != "self"]
    return f"{name}{shown.replace(parameters=parameters)}"


def face(cls: type) -> list[str]:
    lines = []
    for name, member in sorted(vars(cls).items()):
        if name.startswith("_") and name not in SPECIAL:
            continue
        if isinstance(member, property):
            lines.append(f"{name} -> {inspect.signature(member.fget).return_annotation!r}")
        elif inspect.isfunction(member):
            lines.append(signature(name, member))
    return lines


def test_checkpointer() -> None:
    found = [signature("Checkpointer", milepost.Checkpointer.__init__), *face(milepost.Checkpointer)]
    assert "\n".join(found) == CHECKPOINTER.strip()


def test_small_values() -> None:
    for name in ("Every", "Keep"):
        assert signature(name, getattr(milepost, name).__init__).replace("-> None", "-> None") == OTHERS[name]
    for name in ("Pending", "Progress"):
        wanted = [
            line for line in face(getattr(milepost, name)) if not line.startswith(("move(", "again(", "resolve("))
        ]
        assert "; ".join(wanted) == OTHERS[name]


def test_everything_public_says_what_it_is() -> None:
    public = [
        milepost.Checkpointer,
        milepost.Every,
        milepost.Keep,
        milepost.Pending,
        milepost.Progress,
        milepost.Stopped,
    ]
    for cls in public:
        assert inspect.getdoc(cls)
        for name, member in vars(cls).items():
            if not name.startswith("_") and (isinstance(member, property) or inspect.isfunction(member)):
                assert inspect.getdoc(member), f"{cls.__name__}.{name}"
    described = inspect.getdoc(milepost.Checkpointer) or ""
    for option in inspect.signature(milepost.Checkpointer).parameters:
        assert f"\n    {option}: " in described, option


def test_names() -> None:
    assert all(getattr(milepost, name) is not None for name in milepost.__all__)
    assert dir(milepost) == sorted(milepost.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Chekpointer'"):
        _ = milepost.Chekpointer  # type: ignore[attr-defined]


def test_the_way_out_has_a_number() -> None:
    assert milepost.STOPPED == 75
    stopped = milepost.Stopped("SIGTERM")
    assert isinstance(stopped, SystemExit)
    assert (stopped.code, stopped.signal) == (75, "SIGTERM")


EVERY: list[dict[str, Any]] = [{}, {"steps": 0}, {"seconds": -1}, {"epochs": 1.5}]
KEEP: list[dict[str, Any]] = [{"last": 0}, {"every_steps": -5}, {"independent": True}]


@pytest.mark.parametrize(
    ("kind", "options"), [(milepost.Every, one) for one in EVERY] + [(milepost.Keep, one) for one in KEEP]
)
def test_policies_that_are_wrong(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ScriptError, match=kind.__name__):
        kind(**options)


def test_directions_that_are_wrong() -> None:
    with pytest.raises(MetricError):
        milepost.Keep(best=("loss", "smallest"))


def test_importing_loads_no_framework() -> None:
    heavy = ("torch", "rich", "typer")
    code = f"import sys, milepost; milepost.Checkpointer; print([one for one in {heavy} if one in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_run_without_a_framework(tmp_path: Path) -> None:
    code = f"""if True:
        import sys, milepost, numpy as np
        with milepost.Checkpointer({str(tmp_path / "run")!r}, w=np.zeros(3), every=milepost.Every(steps=1)) as run:
            for _ in run.steps(3):
                run.step(w=run["w"] + 1)
        print(milepost.open({str(tmp_path / "run")!r})["w"], "torch" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{np.full(3, 3.0)} False"
