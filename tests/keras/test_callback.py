"""The callback's arguments, its files, and what it does with odd scripts; on the TensorFlow backend, run eagerly to be quick.

The cases of ModelCheckpoint and BackupAndRestore are those of Keras' own tests, told anew.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import milepost
from milepost.errors import LoaderError, MetricError, MilepostWarning, MismatchError, ScriptError
from milepost.keras import Checkpoint, fitting, named

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
Y = (X[:, :1] > 0).astype("float32")
BATCHES = 5


def model(units: int = 2) -> Any:
    keras.utils.set_random_seed(1)
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    made.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", metrics=["mae"], run_eagerly=True)
    return made


def fit(made: Any, *callbacks: Any, epochs: int = 2, **options: Any) -> Any:
    data = {"validation_data": (X[:4], Y[:4]), "batch_size": 4, "verbose": 0, **options}
    return made.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **data)


def weights(made: Any) -> list[bytes]:
    return [np.asarray(one).tobytes() for one in [*made.variables, *made.optimizer.variables]]


class Values(keras.callbacks.Callback):
    """Lets a metric be what a test says, epoch by epoch."""

    def __init__(self, *values: float, name: str = "val_loss") -> None:
        super().__init__()
        self.values, self.name = values, name

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs[self.name] = self.values[epoch]


class Stop(keras.callbacks.Callback):
    """Ends the process, as far as the run can tell, before a batch."""

    class Killed(Exception):  # noqa: N818
        pass

    def __init__(self, batch: int, how: Any = None) -> None:
        super().__init__()
        self.left, self.how = batch, how

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            if self.how is None:
                raise Stop.Killed
            self.how()


def files(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.suffix != ".milepost")


# -- files beside the run, as ModelCheckpoint writes them -----------------------------------------------------------------------


def test_the_classic_tutorials_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = model()
    path = tmp_path / "training" / "cp-{epoch:04d}.ckpt"
    callback = Checkpoint(
        filepath=str(path), monitor="val_loss", verbose=1, save_weights_only=True, save_freq="epoch", options=None
    )
    fit(made, callback)
    said = capsys.readouterr().out
    assert f"Epoch 1: saving model to {tmp_path}/training/cp-0001.ckpt" in said
    assert f"Epoch 2: saving model to {tmp_path}/training/cp-0002.ckpt" in said
    newest = tf.train.latest_checkpoint(str(tmp_path / "training"))
    assert newest == f"{tmp_path}/training/cp-0002.ckpt"
    other = model(2)
    other(X[:1])
    other.optimizer.build(other.trainable_variables)
    tf.train.Checkpoint(other).restore(newest).expect_partial()
    np.testing.assert_array_equal(other.predict(X, verbose=0), made.predict(X, verbose=0))
    state = tf.train.get_checkpoint_state(str(tmp_path / "training"))
    assert [os.path.basename(one) for one in state.all_model_checkpoint_paths] == ["cp-0001.ckpt", "cp-0002.ckpt"]


def test_ckpt_elsewhere_is_an_error_that_names_weights_h5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ScriptError, match=r"weights\.h5"):
        Checkpoint("cp.ckpt", save_weights_only=True)


@pytest.mark.parametrize(("weights_only", "suffix"), [(True, ".weights.h5"), (False, ".keras"), (False, ".h5")])
def test_files_are_those_of_keras(tmp_path: Path, weights_only: bool, suffix: str) -> None:
    made = model()
    fit(made, Checkpoint(tmp_path / f"m{suffix}", save_weights_only=weights_only))
    assert files(tmp_path) == [f"m{suffix}"]
    if weights_only:
        other = model()
        other.load_weights(tmp_path / f"m{suffix}")
    else:
        other = keras.models.load_model(tmp_path / f"m{suffix}", compile=False)
    np.testing.assert_array_equal(other.predict(X, verbose=0), made.predict(X, verbose=0))


def test_a_pattern_takes_epoch_and_any_metric(tmp_path: Path) -> None:
    history = fit(
        model(), Checkpoint(tmp_path / "{epoch:02d}-{val_loss:.2f}-{mae:.1f}.weights.h5", save_weights_only=True)
    )
    seen = history.history
    assert files(tmp_path) == [
        f"{epoch + 1:02d}-{seen['val_loss'][epoch]:.2f}-{seen['mae'][epoch]:.1f}.weights.h5" for epoch in range(2)
    ]
    assert (tmp_path / "run.milepost" / "milepost.json").exists()


def test_save_freq_in_batches_goes_on_across_epochs(tmp_path: Path) -> None:
    fit(model(), Checkpoint(tmp_path / "{epoch}-{batch}.weights.h5", save_weights_only=True, save_freq=3), epochs=3)
    assert files(tmp_path) == [f"{name}.weights.h5" for name in ("1-3", "2-1", "2-4", "3-2", "3-5")]


def test_save_freq_counts_on_after_a_restart(tmp_path: Path) -> None:
    callback = lambda: Checkpoint(  # noqa: E731
        tmp_path / "{epoch}-{batch}.weights.h5", save_weights_only=True, save_freq=3, every=milepost.Every(steps=2)
    )
    with pytest.raises(Stop.Killed):
        fit(model(), callback(), Stop(6), epochs=3)
    fit(model(), callback(), epochs=3)
    assert files(tmp_path) == [f"{name}.weights.h5" for name in ("1-3", "2-1", "2-4", "3-2", "3-5")]


def test_a_pattern_with_what_is_not_known_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="accuracy"):
        fit(model(), Checkpoint(tmp_path / "{accuracy}.keras"))


@pytest.mark.parametrize(
    ("mode", "values", "written"),
    [("min", (3, 1, 2, 0.5), (1, 2, 4)), ("max", (3, 1, 4, 2), (1, 3)), ("auto", (float("nan"), 2, 1, 3), (2, 3))],
)
def test_only_the_best_is_written(
    tmp_path: Path, mode: Any, values: tuple[float, ...], written: tuple[int, ...]
) -> None:
    callback = Checkpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True, save_best_only=True, mode=mode)
    fit(model(), Values(*values), callback, epochs=4)
    assert files(tmp_path) == [f"{epoch}.weights.h5" for epoch in written]


def test_auto_asks_the_metric_and_says_when_it_does_not_know(tmp_path: Path) -> None:
    made = model()
    made.evaluate(X[:4], Y[:4], verbose=0)  # metrics exist from the first batch on
    assert named.direction("val_mae", "auto", made)(1, 2)
    with pytest.raises(MetricError, match="mode='min'"):
        named.direction("val_reward", "auto", made)


def test_the_threshold_counts_as_the_best_before(tmp_path: Path) -> None:
    path = tmp_path / "{epoch}.weights.h5"
    fit(
        model(),
        Values(3, 1),
        Checkpoint(path, save_weights_only=True, save_best_only=True, initial_value_threshold=2.0),
    )
    assert files(tmp_path) == ["2.weights.h5"]


def test_the_best_value_is_not_lost_by_a_restart(tmp_path: Path) -> None:
    def callback() -> Checkpoint:
        return Checkpoint(tmp_path / "best-{epoch}.weights.h5", save_weights_only=True, save_best_only=True)

    with pytest.raises(Stop.Killed):
        fit(model(), Values(1, 3, 2), callback(), Stop(BATCHES + 2), epochs=3)
    fit(model(), Values(1, 3, 2), callback(), epochs=3)
    assert files(tmp_path) == ["best-1.weights.h5"]


def test_a_metric_that_is_missing_warns_and_writes(tmp_path: Path) -> None:
    callback = Checkpoint(tmp_path / "m.weights.h5", save_weights_only=True, save_best_only=True)
    with pytest.warns(MilepostWarning, match="val_loss is not among the metrics"):
        fit(model(), callback, epochs=1, validation_data=None)
    assert files(tmp_path) == ["m.weights.h5"]


def test_a_file_has_the_old_content_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()
    path = str(tmp_path / "m.weights.h5")
    named.write(made, path, weights_only=True)
    before = Path(path).read_bytes()

    def torn(where: str, overwrite: bool) -> None:
        Path(where).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(made, "save_weights", torn)
    with pytest.raises(OSError, match="no space"):
        named.write(made, path, weights_only=True)
    assert Path(path).read_bytes() == before
    assert files(tmp_path) == ["m.weights.h5"]


@pytest.mark.parametrize("path", ["m.keras", "m", "{epoch}.txt"])
def test_a_suffix_that_keras_cannot_write_is_said_at_once(path: str) -> None:
    if path == "m":  # no file: the run directory
        with pytest.warns(MilepostWarning, match="save_weights_only="):
            assert Checkpoint(path, save_weights_only=True).directory == "m"
        return
    with pytest.raises(ScriptError, match=r"\.weights\.h5"):
        Checkpoint(path, save_weights_only=True)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"save_best_only": True}, "save_best_only"),
        ({"verbose": 1}, "verbose"),
        ({"monitor": "mae"}, "monitor"),
        ({"mode": "max"}, "mode"),
        ({"initial_value_threshold": 1.0}, "initial_value_threshold"),
        ({"options": object()}, "options"),
    ],
)
def test_an_argument_without_effect_warns_by_name(options: dict[str, Any], name: str) -> None:
    with pytest.warns(MilepostWarning, match=f"{name}="):
        Checkpoint("runs/x", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"save_freq": 0},
        {"save_freq": "batch"},
        {"save_freq": False},
        {"mode": "best"},
        {"colour": 1},
        {"backup_dir": "b"},
    ],
)
def test_an_argument_that_cannot_be_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ScriptError):
        Checkpoint("runs/x", **options)


# -- restarts, as BackupAndRestore does them and as it does not -----------------------------------------------------------------


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
