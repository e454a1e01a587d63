"""Which checkpoint is continued: the newest, a named one, one of another run; going back; other hyperparameters; the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_jobs import (
    Job,
    Killed,
    Trial,
    check_same,
    facts,
    folder_fixture,  # noqa: F401
    loader,
    network,
    one_thread,  # noqa: F401
    script_of,
    simple,
    validation,
)

import milepost
from milepost.errors import (
    MismatchError,
    NotFoundError,
    NotStorableError,
    ReferenceSyntaxError,
    ScriptError,
    UnknownItemError,
)

ALL = milepost.Keep(last=None)


def job() -> Job:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    return Job(
        {"model": model, "optimizer": optimizer, "scheduler": scheduler},
        simple(model, optimizer),
        validate=validation(model),
        after_epoch=lambda metrics: scheduler.step(),
    )


def count(directory: Path, to: int, *, die: bool = False, **options: Any) -> milepost.Checkpointer:
    """Count `w` up to `to`, saving at every step; `run.vars` remembers the attempt of each step."""
    options = {"every": milepost.Every(steps=1), "keep": ALL, "progress": False, **options}
    try:
        with milepost.Checkpointer(directory, w=np.zeros(2), plain={"lr": 0.1, "list": [1, 2]}, **options) as run:
            w = run["w"]
            for _ in run.steps(to):
                w = w + 1
                run.vars.setdefault("by", []).append(run.progress.attempt)
                run.step(w=w, plain=run["plain"], loss=float(-w[0]))
            if die:
                raise Killed
    except Killed:
        pass
    return run


def steps(directory: Path) -> list[str]:
    return sorted(one.name for one in directory.glob("step-*"))


def record(directory: Path, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "attempts" / f"{number}.json").read_text())
    return found


# -- named checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["step=2", "best", "~2", "mine", "step-00000002"])
def test_a_branch_is_opened_once_then_the_same_command_continues_it(which: str, folder: Path) -> None:
    keep = milepost.Keep(last=None, best=("loss", "max")) if which == "best" else ALL
    count(folder, 2, die=True, keep=keep)
    tag = {"attempt": 1, "step": 2}
    (folder / "tags" / "mine.json").write_text(json.dumps(tag))
    with milepost.Checkpointer(folder, w=np.zeros(2), plain={"lr": 0.1, "list": [1, 2]}, keep=keep) as run:
        for _ in range(2):
            run.step(w=run["w"] + 1, plain=run["plain"], loss=-99.0)
            run.save()
    if which == "best":
        assert milepost.open(f"{folder}@best").metadata["step"] == 1
    branch = count(folder, 5, die=True, resume=which, keep=keep)
    at = 1 if which == "best" else 2
    assert branch.resumed_from == f"step-{at:08}"
    assert branch.vars["by"] == [1] * at + [3] * (5 - at)
    again = count(folder, 7, resume=which, keep=keep)
    assert again.resumed_from == "step-00000005", "the same command goes on where it was"
    assert again.vars["by"] == [1] * at + [3] * (5 - at) + [4] * 2
    latest = count(folder, 8, keep=keep)
    assert latest.resumed_from == "step-00000007"
    assert np.array_equal(latest["w"], np.full(2, 8.0))


def test_never_begins_anew_and_keeps_what_is_there(folder: Path) -> None:
    count(folder, 3)
    fresh = count(folder, 2, resume="never")
    assert fresh.resumed_from is None
    assert fresh.vars["by"] == [2, 2]
    assert set(steps(folder)) == {
        "step-00000001", "step-00000002", "step-00000003", "step-00000001.superseded-1", "step-00000002.superseded-1",
    }  # fmt: skip
    latest = count(folder, 4)
    assert latest.vars["by"] == [2, 2, 3, 3]


@pytest.mark.parametrize(
    ("which", "at"), [("@step=2", 2), ("@best", 1), ("@latest", 3), ("", 3), ("/step-00000002", 2)]
)
def test_a_fork_into_a_new_directory(which: str, at: int, folder: Path) -> None:
    old, new = folder / "old", folder / "new"
    count(old, 3, keep=milepost.Keep(last=None, best=("loss", "max")))
    before = {path: path.stat().st_mtime_ns for path in old.rglob("*")}
    forked = count(new, 5, resume=f"{old}{which}")
    assert forked.resumed_from == f"step-{at:08}"
    assert forked.vars["by"] == [1] * at + [1] * (5 - at)
    assert np.array_equal(forked["w"], np.full(2, 5.0))
    assert steps(new) == [f"step-{step:08}" for step in range(at + 1, 6)]
    assert record(new, 1)["parent"] == {"attempt": 1, "step": at, "run": str(old)}
    assert {path: path.stat().st_mtime_ns for path in old.rglob("*")} == before, "the old run is only read"
    again = count(new, 6, resume=f"{old}{which}")
    assert again.resumed_from == "step-00000005"
    assert count(new, 7).resumed_from == "step-00000006"


@pytest.mark.parametrize("command", ["same", "latest"])
def test_a_fork_that_dies_before_its_first_save_is_still_a_fork(command: str, folder: Path) -> None:
    old, new = folder / "old", folder / "new"
    count(old, 3)
    count(new, 2, die=True, resume=f"{old}@step=2")
    assert steps(new) == []
    again = count(new, 4, resume=f"{old}@step=2" if command == "same" else "latest")
    assert again.resumed_from == "step-00000002"
    assert np.array_equal(again["w"], np.full(2, 4.0))


def test_a_fork_is_exact(folder: Path) -> None:
    script = script_of(job)
    right = Trial().play(script)
    Trial(folder / "old", ("trained", 9), keep=ALL).play(script)
    forked = Trial(folder / "new", resume=f"{folder}/old@step=4").play(script)
    assert forked.seen == list(range(5, 22))
    check_same(forked.facts, right.facts)


@pytest.mark.parametrize(
    ("resume", "error", "said"),
    [
        ("step=9", NotFoundError, "step=9"),
        ("lastest", NotFoundError, "latest"),
        ("best", milepost.errors.MetricError, "best"),
        ("nowhere@latest", NotFoundError, "nowhere"),
        ("@latest", ReferenceSyntaxError, "place"),
    ],
)
def test_what_is_not_there(resume: str, error: type[Exception], said: str, folder: Path) -> None:
    count(folder, 2)
    with pytest.raises(error) as caught:
        count(folder, 3, resume=resume)
    assert said in str(caught.value)
    assert count(folder, 3).resumed_from == "step-00000002", "nothing was lost by asking"


# -- going back ----------------------------------------------------------------------------------------------------------


def test_restore_and_go_on(folder: Path) -> None:
    torch.manual_seed(0)
    made = job()
    items = made.items
    with milepost.Checkpointer(folder, **items, every=milepost.Every(steps=1), keep=ALL, progress=False) as run:
        right: dict[int, Any] = {}
        for epoch in run.epochs(2):
            for batch in run.batches(made.data):
                made.train(batch)
                run.step()
                right[run.progress.step] = facts(items) | facts(torch.get_rng_state(), "rng")
            if epoch == 1:
                break
        run.restore("step=3")
        assert (run.progress.step, run.progress.epoch, run.progress.attempt) == (3, 0, 2)
        assert run.resumed_from == "step-00000003"
        check_same(facts(items), {path: fact for path, fact in right[3].items() if path != "rng"})
        for _ in run.epochs(1):
            for batch in run.batches(made.data):
                made.train(batch)
                run.step()
                check_same(
                    facts(items) | facts(torch.get_rng_state(), "rng"), right[run.progress.step], "the same again"
                )
    assert run.progress.step == 7
    assert milepost.open(folder).metadata["attempt"] == 2
    assert {name for name in steps(folder) if "superseded" in name} == {
        f"step-{step:08}.superseded-1" for step in range(4, 8)
    }


def test_restore_the_best_twice(folder: Path) -> None:
    keep = milepost.Keep(last=None, best="loss")
    options: dict[str, Any] = {"every": milepost.Every(steps=1), "keep": keep, "progress": False}
    with milepost.Checkpointer(folder, w=np.zeros(1), **options) as run:
        losses = iter([3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
        for attempt in (1, 2, 3):
            assert run.progress.attempt == attempt
            for _ in range(2):
                run.step(w=run["w"] + 1, loss=next(losses))
            if attempt < 3:
                run.restore("best")
                assert run["w"][0] == run.progress.step == 2, "back to the best each time, not to the newest"
    assert run.vars == {}


def test_restore_of_what_is_not_there_leaves_the_run_as_it_is(folder: Path) -> None:
    with milepost.Checkpointer(folder, w=np.zeros(1), keep=ALL, progress=False) as run:
        for _ in run.steps(3):
            run.step(w=run["w"] + 1)
            run.save()
        for which in ("step=77", "nonsense"):
            with pytest.raises(NotFoundError):
                run.restore(which)
        assert run.progress.attempt == 1
        run.step(w=run["w"] + 1)
        run.save()
        run.wait()
    assert steps(folder)[-1] == "step-00000004"
    assert run.complete is False
    assert record(folder, 1)["ended"] == "complete"


def test_a_loop_does_not_go_on_after_a_restore(folder: Path) -> None:
    with milepost.Checkpointer(folder, w=np.zeros(1), keep=ALL, progress=False) as run:
        run.step(w=np.ones(1))
        run.save()
        with pytest.raises(ScriptError, match=r"after run\.restore"):  # noqa: PT012 - the loop is what is tested
            for _ in run.batches([1, 2, 3]):
                run.restore("latest")
        assert run.progress.step == 1


# -- hyperparameters -------------------------------------------------------------------------------------------------------


def test_override_by_pattern_once_and_recorded(folder: Path) -> None:
    script = script_of(job)
    Trial(folder, ("trained", 9)).play(script)
    options = {"override": {"optimizer/param_groups/*/lr": 0.5, "scheduler/gamma": 0.25}}

    def lrs(trial: Trial) -> list[float]:
        optimizer = trial.items["optimizer"]
        return [group["lr"] for group in optimizer.param_groups]

    class Look(Trial):
        seen_lr: Any = None

        def __call__(self, point: str) -> None:
            if point == "asked" and self.seen_lr is None:
                self.seen_lr = lrs(self)
            super().__call__(point)

    first = Look(folder, ("trained", 3), **options)
    first.play(script)
    assert first.seen_lr == [0.5]
    assert first.run.resume_report.overridden == options["override"]
    assert record(folder, 2)["overrides"] == options["override"]
    second = Look(folder, ("looped", 2), **options)
    second.play(script)
    assert second.seen_lr == [0.5], "it lives on in the state"
    assert second.run.resume_report.overridden == {}, "and is not applied again"
    third = Look(folder, **options)
    third.play(script)
    assert third.items["scheduler"].gamma == 0.25
    assert third.items["optimizer"].param_groups[0]["lr"] == 0.5 * 0.25 * 0.25
    changed = Look(folder, override={"scheduler/gamma": 0.75}).play(script).run
    assert changed.resume_report.overridden == {"scheduler/gamma": 0.75}


def test_an_override_is_not_lost_by_dying_before_the_first_save(folder: Path) -> None:
    count(folder, 2)
    override = {"plain/lr": 0.9}
    count(folder, 2, die=True, override=override)  # restores, changes, and dies
    third = count(folder, 3, override=override)
    assert third["plain"] == {"lr": 0.9, "list": [1, 2]}
    assert count(folder, 4, override=override).resume_report.overridden == {}
    assert count(folder, 4)["plain"]["lr"] == 0.9


def test_overrides_inside_lists_and_by_values_that_json_lacks(folder: Path) -> None:
    count(folder, 2)
    override = {"plain/list/1": (0.9, float("inf"))}
    run = count(folder, 3, override=override)
    assert run["plain"]["list"] == [1, (0.9, float("inf"))]
    assert run.resume_report.overridden == override
    assert count(folder, 4, override=override).resume_report.overridden == {}


def test_an_override_that_cannot_be_recorded(folder: Path) -> None:
    count(folder, 2)
    with pytest.raises(NotStorableError, match="override"):
        count(folder, 3, override={"plain/lr": object()})
    assert count(folder, 3)["plain"]["lr"] == 0.1


def test_a_closed_run_says_so(folder: Path) -> None:
    run = count(folder, 2)
    for use in (
        run.step,
        run.save,
        run.wait,
        run.epoch_end,
        lambda: run.restore("latest"),
        lambda: list(run.epochs(3)),
    ):
        with pytest.raises(ScriptError, match="closed"):
            use()
    assert (run.progress.step, run.vars["by"], run.directory) == (2, [1, 1], str(folder))
    run.close()  # twice is fine


def test_a_restore_that_fails_closes_the_run(folder: Path) -> None:
    count(folder / "other", 2)
    with milepost.Checkpointer(folder / "run", w=np.zeros(3), progress=False) as run:
        run.step(w=np.ones(3))
        with pytest.raises(MismatchError):
            run.restore(f"{folder}/other@latest")
        assert np.array_equal(run["w"], np.ones(3))
        with pytest.raises(ScriptError, match="closed"):
            run.step(w=np.ones(3))
    with milepost.Checkpointer(folder / "run", w=np.zeros(3), progress=False) as run:
        run.step(w=np.ones(3))  # and it can be opened again


@pytest.mark.parametrize("pattern", ["plain/learning_rate", "nothing/lr", "plain", "w"])
def test_an_override_that_matches_nothing(pattern: str, folder: Path) -> None:
    count(folder, 2)
    with pytest.raises(UnknownItemError) as caught:
        count(folder, 3, override={pattern: 1})
    assert pattern in str(caught.value)
    assert caught.value.hint
    assert count(folder, 3).resumed_from == "step-00000002"


def test_more_epochs(folder: Path) -> None:
    right = Trial().play(script_of(job, epochs=5))
    short = Trial(folder).play(script_of(job, epochs=2))
    assert short.run.progress.epoch == 2
    longer = Trial(folder).play(script_of(job, epochs=5))
    assert longer.seen == list(range(15, 36))
    check_same(longer.facts, right.facts)


# -- the end -----------------------------------------------------------------------------------------------------------------


def test_a_complete_run_does_nothing_more(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = script_of(job)
    first = Trial(folder, progress=None).play(script)
    before = steps(folder)
    for attempt in (2, 3):
        again = Trial(folder, progress=None).play(script)
        assert again.seen == []
        assert again.run.complete
        assert again.run.progress.attempt == attempt
        check_same(again.facts, first.facts)
    assert steps(folder) == before
    assert "complete" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["in the loop", "after an epoch"])
def test_a_run_that_stopped_early_stays_complete(where: str, folder: Path) -> None:
    def script(trial: Trial) -> None:
        made = job()
        with trial.open(**made.items) as run:
            for epoch in run.epochs(8):
                for batch in run.batches(made.data):
                    trial.lost(made.train(batch))
                    run.step()
                    if where == "in the loop" and run.progress.step == 10:
                        break
                if where == "in the loop" and run.progress.step == 10:
                    break
                run.epoch_end()
                if epoch == 1:
                    break

    first = Trial(folder).play(script)
    again = Trial(folder).play(script)
    assert again.run.complete
    assert again.seen == []
    check_same(again.facts, first.facts)


def test_a_complete_run_whose_end_was_deleted_is_not_complete(folder: Path) -> None:
    import shutil

    right = count(folder, 6)
    shutil.rmtree(folder / "step-00000006")
    shutil.rmtree(folder / "step-00000005")
    again = count(folder, 6)
    assert again.resumed_from == "step-00000004"
    assert not again.complete
    assert np.array_equal(again["w"], right["w"])


def test_a_mismatch_leaves_the_run_free(folder: Path) -> None:
    count(folder, 2)
    with pytest.raises(MismatchError):
        milepost.Checkpointer(folder, w=np.zeros(3), plain={}, progress=False)
    assert count(folder, 3).resumed_from == "step-00000002"


def test_loaders_of_a_complete_run_give_nothing(folder: Path) -> None:
    for expected in (7, 0):
        with milepost.Checkpointer(folder, model=network(), progress=False) as run:
            seen = 0
            for _ in run.batches(loader()):
                run.step()
                seen += 1
        assert seen == expected
