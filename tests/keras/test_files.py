"""The callback's arguments and the files it writes beside the run; the cases of Keras' own tests of ModelCheckpoint are in it, told
anew (`peers.md`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import BATCHES, Stop, Values, X, Y, files, fit, model

import milepost
from milepost.errors import MetricError, MilepostWarning, ScriptError
from milepost.keras import Checkpoint, named


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


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_save_freq_of_whole_epochs_and_of_single_batches(tmp_path: Path, suffix: str) -> None:
    weights_only = suffix == ".weights.h5"
    path = tmp_path / "sub" / f"{{epoch:02d}}{suffix}"
    fit(model(), Checkpoint(path, save_weights_only=weights_only, save_freq=2 * BATCHES), epochs=5)
    assert files(tmp_path / "sub") == [f"02{suffix}", f"04{suffix}"]
    path = tmp_path / "each" / f"{{epoch}}-{{batch:02d}}{suffix}"
    fit(model(), Checkpoint(path, save_weights_only=weights_only, save_freq=1), epochs=2, batch_size=10)
    assert files(tmp_path / "each") == [f"{epoch}-{batch:02d}{suffix}" for epoch in (1, 2) for batch in (1, 2)]


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


@pytest.mark.parametrize(
    ("monitor", "mode", "threshold", "written"),
    [
        ("val_loss", "min", 0.0, False),
        ("val_loss", "auto", 0.0, False),
        ("val_auc", "auto", 1.0, False),
        ("val_auc", "max", -0.01, True),
        ("val_loss", "auto", None, True),
    ],
)
def test_a_threshold_that_is_never_reached_lets_nothing_be_written(
    tmp_path: Path, monitor: str, mode: Any, threshold: float | None, written: bool
) -> None:
    made = model()
    made.compile("sgd", "mse", metrics=[keras.metrics.AUC(name="auc")], run_eagerly=True)
    callback = Checkpoint(
        tmp_path / "m.keras", monitor, save_best_only=True, mode=mode, initial_value_threshold=threshold
    )
    fit(made, callback, Values(0.5, name="val_auc"), epochs=1, validation_data=(X[:4], abs(Y[:4])))
    assert (tmp_path / "m.keras").exists() == written


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


def test_a_metric_that_is_no_number_warns_and_writes(tmp_path: Path) -> None:
    callback = Checkpoint(tmp_path / "m.weights.h5", save_weights_only=True, save_best_only=True)
    with pytest.warns(MilepostWarning, match="val_loss is no single number"):
        fit(model(), Values(np.ones(2)), callback, epochs=1)  # type: ignore[arg-type]
    assert files(tmp_path) == ["m.weights.h5"]


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.keras").mkdir()
    with pytest.raises(ScriptError, match="is a folder"):
        fit(model(), Checkpoint(tmp_path / "m.keras"), epochs=1)


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
        {"save_freq": 0.15},
        {"save_freq": False},
        {"mode": "best"},
        {"colour": 1},
        {"backup_dir": "b"},
    ],
)
def test_an_argument_that_cannot_be_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ScriptError):
        Checkpoint("runs/x", **options)


@pytest.mark.parametrize("nothing", ["", None])
def test_no_directory_at_all_is_an_error(nothing: Any) -> None:
    with pytest.raises(ScriptError, match="needs a run directory"):
        Checkpoint(backup_dir=nothing)
