"""Restarts of ``model.fit``, as BackupAndRestore does them and as it does not, and what the callback does with odd scripts; the
cases of Keras' own tests are in it, told anew (`peers.md`)."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import BATCHES, Stop, Values, X, Y, files, fit, model, weights
from tensorflow.python.eager import context

import milepost
from milepost.errors import LoaderError, MilepostWarning, MismatchError, ScriptError
from milepost.keras import Checkpoint, fitting


@pytest.mark.parametrize("freq", ["epoch", 1, 2])
def test_a_backup_is_gone_on_with_and_then_removed(tmp_path: Path, freq: Any) -> None:
    straight = model()
    expected = fit(straight, epochs=3)
    made = model()
    with pytest.raises(Stop.Killed):
        fit(made, Checkpoint(backup_dir=tmp_path / "backup", save_freq=freq), Stop(BATCHES + 4), epochs=3)
    assert (tmp_path / "backup" / "milepost.json").exists()
    made = model()
    history = fit(made, Checkpoint(backup_dir=tmp_path / "backup", save_freq=freq), epochs=3)
    assert history.history == expected.history
    assert history.epoch == [0, 1, 2]
    assert weights(made) == weights(straight)
    assert not (tmp_path / "backup").exists()


class Counting(keras.layers.Layer):  # type: ignore[misc]
    """Counts how often it is called, in a variable."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x: Any) -> Any:
        self.count.assign_add(1)
        return x


@pytest.mark.parametrize("freq", ["epoch", 1])
@pytest.mark.parametrize("damaged", [False, True])
def test_an_interrupted_fit_is_called_again_in_the_same_process(tmp_path: Path, freq: Any, damaged: bool) -> None:
    """With the same model and callback, as in a notebook; the newest checkpoint may be damaged meanwhile."""
    made = keras.Sequential([keras.Input((3,)), Counting(), keras.layers.Dense(1)])
    made.compile("sgd", "mse", run_eagerly=True)
    callback = Checkpoint(backup_dir=tmp_path / "sub" / "backup", save_freq=freq, double_checkpoint=True)
    options = {"batch_size": 4, "verbose": 0}
    with pytest.raises(Stop.Killed):
        made.fit(X, Y, epochs=3, callbacks=[callback, Stop(2 * BATCHES + 3)], **options)
    assert int(made.layers[0].count) == 2 * BATCHES + 2
    if damaged:
        newest = max((tmp_path / "sub" / "backup").glob("step-*")) / "model.safetensors"
        newest.chmod(0o644)
        newest.write_bytes(b"0")
    history = made.fit(X, Y, epochs=5, callbacks=[callback], **options)
    assert history.epoch == list(range(5))
    assert int(made.layers[0].count) == 5 * BATCHES
    assert not (tmp_path / "sub" / "backup").exists()


def test_a_backup_stays_if_it_is_told_to(tmp_path: Path) -> None:
    fit(model(), Checkpoint(backup_dir=tmp_path, delete_checkpoint=False, double_checkpoint=True, save_freq=2))
    assert len(list(tmp_path.glob("step-*"))) == 2


def test_only_the_run_is_removed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    fit(model(), Checkpoint(backup_dir=tmp_path))
    assert files(tmp_path) == ["notes.txt"]


def test_a_signal_saves_where_no_frequency_does(tmp_path: Path) -> None:
    straight = model()
    fit(straight)
    callback = Checkpoint(backup_dir=tmp_path / "b", save_freq=False)
    with pytest.raises(milepost.Stopped):
        fit(model(), callback, Stop(BATCHES + 2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert [one.name for one in (tmp_path / "b").glob("step-*")] == [f"step-{BATCHES + 2:08d}"]
    made = model()
    fit(made, Checkpoint(backup_dir=tmp_path / "b", save_freq=False))
    assert weights(made) == weights(straight)


def plateau() -> Any:
    # With Keras' own min_delta, whose sign it turns when it first sees the metric.
    return keras.callbacks.ReduceLROnPlateau(monitor="watched", mode="min", factor=0.5, patience=1, cooldown=1)


def early_stopping() -> Any:
    return keras.callbacks.EarlyStopping(
        monitor="watched", mode="min", patience=3, min_delta=0.5, restore_best_weights=True
    )


@pytest.mark.parametrize(
    ("make", "counts"),
    [(plateau, ("best", "wait", "cooldown_counter")), (early_stopping, ("best", "wait", "best_epoch"))],
)
def test_callbacks_that_watch_a_metric_go_on_where_they_were(
    tmp_path: Path, make: Any, counts: tuple[str, ...]
) -> None:
    """Too small a gain counts as none: whoever loses the sign of `min_delta`, or the best value, takes it for one."""
    values = Values(5.0, 5.0, 4.99995, 4.8, 4.7, 4.6, name="watched")
    straight, expected = model(), make()
    history = fit(straight, values, expected, epochs=6).history
    assert len(history["loss"]) < 6 or float(straight.optimizer.learning_rate) < 0.005
    for epoch in range(1, 4):
        with pytest.raises(Stop.Killed):
            fit(
                model(),
                *(values, make(), Checkpoint(tmp_path / str(epoch), save_freq=2), Stop(epoch * BATCHES + 4)),
                epochs=6,
            )
        made, watching = model(), make()
        again = fit(made, values, watching, Checkpoint(tmp_path / str(epoch), save_freq=2), epochs=6).history
        assert again == history
        assert [getattr(watching, name) for name in counts] == [getattr(expected, name) for name in counts]
        assert weights(made) == weights(straight)


def test_tf_data_without_a_seed_skips_and_repeats_nothing_and_is_not_called_exact(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Seen(keras.layers.Layer):  # type: ignore[misc]
        """Notes which samples come, epoch by epoch."""

        def call(self, x: Any, training: bool = False) -> Any:
            if training:
                epochs[-1] += x[:, 0].numpy().tolist()
            return x

    def pipeline() -> Any:
        made.compile("sgd", "mse", run_eagerly=True)  # nothing here depends on the order
        numbers = np.arange(20, dtype="float32")[:, None]
        return tf.data.Dataset.from_tensor_slices((numbers, numbers)).shuffle(20).batch(4)

    made = keras.Sequential([keras.Input((1,)), Seen(), keras.layers.Dense(1)])
    begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append([]))
    context.context()._set_global_seed(None)  # as it is in a script that seeds nothing
    epochs: list[list[float]] = []
    where = tmp_path / "run"
    with pytest.raises(Stop.Killed):
        made.fit(pipeline(), epochs=3, verbose=0, callbacks=[begin, Checkpoint(where, save_freq=3), Stop(9)])
    done = [epochs[0], epochs[1][:4]]  # the checkpoint is that of step 6
    epochs.clear()
    capfd.readouterr()
    made.fit(pipeline(), epochs=3, verbose=0, callbacks=[begin, Checkpoint(where, save_freq=3)])
    said = capfd.readouterr().err
    assert sorted(done[0]) == sorted(done[1] + epochs[0]) == sorted(epochs[1]) == list(range(20))
    assert "does not continue exactly: TensorFlow shuffles the data without a seed" in said
    assert "milepost: continues exactly" not in said  # though two steps are on record that are the same


def test_a_run_that_is_complete_trains_nothing_and_goes_on_when_told(tmp_path: Path) -> None:
    straight = model()
    expected = fit(straight, epochs=3)
    fit(model(), Checkpoint(tmp_path), epochs=2)
    again = model()
    assert fit(again, Checkpoint(tmp_path), epochs=2).epoch == [0, 1]
    assert int(again.optimizer.iterations) == 2 * BATCHES
    made = model()
    assert fit(made, Checkpoint(tmp_path), epochs=3).history == expected.history
    assert weights(made) == weights(straight)


def test_a_run_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    def early() -> Any:
        return keras.callbacks.EarlyStopping(monitor="loss", mode="max", restore_best_weights=True)

    made = model()
    history = fit(made, Checkpoint(tmp_path), early(), epochs=5)
    assert len(history.epoch) < 5
    again = model()
    assert fit(again, early(), Checkpoint(tmp_path), epochs=5).epoch == history.epoch
    assert weights(again) == weights(made)


def test_a_model_that_was_built_again_has_other_names_and_goes_on(tmp_path: Path) -> None:
    straight = model()
    fit(straight)
    with pytest.raises(Stop.Killed):
        fit(model(), Checkpoint(tmp_path, save_freq=1), Stop(3))
    keras.backend.clear_session()
    made = model()  # its layers are called dense and dense_1; those of the killed one had higher numbers
    fit(made, Checkpoint(tmp_path, save_freq=1))
    assert weights(made) == weights(straight)


def test_another_model_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    fit(model(), Checkpoint(tmp_path))
    other = model(units=7)
    before = [np.asarray(one).tobytes() for one in other.variables]
    with pytest.raises(MismatchError, match=r"saved float32 \[3, 2\], here float32 \[3, 7\]"):
        fit(other, Checkpoint(tmp_path), epochs=3)
    assert [np.asarray(one).tobytes() for one in other.variables] == before


def test_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop.Killed):
        fit(model(), Checkpoint(tmp_path, save_freq=1), Stop(3))
    with pytest.raises(LoaderError, match="steps_per_epoch"):
        fit(model(), Checkpoint(tmp_path, save_freq=1), steps_per_epoch=2)


def test_on_an_unknown_keras_epochs_begin_again_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = model()
    fit(straight, epochs=3)
    with pytest.raises(Stop.Killed):
        fit(model(), Checkpoint(tmp_path, save_freq=2, keep=milepost.Keep(last=None)), Stop(BATCHES + 4), epochs=3)
    monkeypatch.setattr(fitting, "TESTED", ((99, 0), (99, 1)))
    made = model()
    # There is a checkpoint within the second epoch, and none at its beginning: it is seen in part twice.
    with pytest.warns(MilepostWarning) as said:
        fit(made, Checkpoint(tmp_path, save_freq=2), epochs=2)
    assert "not among the versions it was tested with" in str(said[0].message)
    assert any("the epoch begins again" in str(one.message) for one in said)
    with pytest.warns(MilepostWarning, match="tested with"), pytest.raises(Stop.Killed):
        fit(model(), Checkpoint(tmp_path / "new", save_freq=2), Stop(BATCHES + 4), epochs=3)
    assert [one.name for one in (tmp_path / "new").glob("step-*")] == [f"step-{BATCHES:08d}"]
    made = model()
    with pytest.warns(MilepostWarning, match="tested with"):
        fit(made, Checkpoint(tmp_path / "new", save_freq=2), epochs=3)
    assert weights(made) == weights(straight)


def test_outside_of_fit_it_says_what_to_use() -> None:
    callbacks = keras.callbacks.CallbackList([Checkpoint("runs/x")], model=model())
    with pytest.raises(ScriptError, match=r"milepost\.Checkpointer"):
        callbacks.on_train_begin()


def test_models_and_optimizers_are_items_of_a_loop_of_ones_own(tmp_path: Path) -> None:
    def train(steps: int) -> Any:
        made = model()
        made.optimizer.build(made.trainable_variables)
        with milepost.Checkpointer(tmp_path, model=made, optimizer=made.optimizer, progress=False) as run:
            for _ in run.steps(steps):
                made.train_on_batch(X, Y)
                run.step()
        return made

    train(2)
    made = train(4)
    straight = model()
    for _ in range(4):
        straight.train_on_batch(X, Y)
    assert weights(made) == weights(straight)
