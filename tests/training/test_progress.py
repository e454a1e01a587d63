import pytest

from milepost.training.metrics import Metrics
from milepost.training.progress import Phase, Progress


def test_it_says_where_the_run_is():
    metrics = Metrics()
    progress = Progress(attempt=3, metrics=metrics)
    progress.move(1200, 2, 262)
    metrics.update({"loss": 0.5})

    assert (progress.step, progress.epoch, progress.batch, progress.attempt) == (1200, 2, 262, 3)
    assert progress.phase == "in-epoch"
    assert progress.metrics == {"loss": 0.5}
    assert repr(progress) == "Progress(step=1200, epoch=2, batch=262, attempt=3, phase='in-epoch', loss=0.5)"


def test_moving_changes_what_is_given_and_nothing_else():
    progress = Progress(7, 1, 3)
    progress.move(step=8)
    progress.move(batch=0)
    progress.move(phase=Phase.BATCHES_DONE)
    assert (progress.step, progress.epoch, progress.batch, progress.phase) == (8, 1, 0, Phase.BATCHES_DONE)


@pytest.mark.parametrize("name", ["step", "epoch", "batch", "attempt", "phase", "metrics", "elapsed", "stepp"])
def test_a_script_cannot_move_it_by_accident(name):
    with pytest.raises(AttributeError):
        setattr(Progress(), name, 1)


def test_metrics_cannot_be_changed_through_it():
    progress = Progress()
    progress.metrics["loss"] = 1.0
    assert progress.metrics == {}


def test_elapsed_counts_from_the_start_of_the_attempt(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Progress(attempt=2)
    now = 160.5
    assert progress.elapsed == 60.5


@pytest.mark.parametrize(("phase", "text"), [(one, one.value) for one in Phase])
def test_phases_are_read_back_from_what_a_checkpoint_says(phase, text):
    assert Phase(text) is phase
    assert str(phase) == text
