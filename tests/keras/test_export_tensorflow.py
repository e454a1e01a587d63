"""Checkpoints for TensorFlow, written from others: ``tf.train.Checkpoint(...).restore(...).assert_consumed()`` takes them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import milepost
import milepost.keras
from milepost.errors import MilepostWarning, MismatchError, ScriptError, StepError, StorageError
from milepost.keras import named

L = keras.layers
X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")


class Net(tf.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layers = [tf.Variable(tf.ones((6, width))), {"scale": tf.Variable(1.0), "steps": tf.Variable(0)}]
        self.half = tf.Variable(tf.ones(4, tf.bfloat16))


def network(layers: Any = L, library: Any = keras) -> Any:
    model = library.Sequential(
        [layers.Input((6,)), layers.Dense(5), layers.Dropout(0.5), layers.BatchNormalization(), layers.Dense(2)]
    )
    model.compile("adam", "mse", metrics=["mae"])
    return model


def values(owner: Any) -> list[bytes]:
    variables = owner.variables() if callable(owner.variables) else owner.variables
    return [np.asarray(one.numpy() if hasattr(one, "numpy") else one.value).tobytes() for one in variables]


def weights(model: Any) -> list[bytes]:
    return [one.tobytes() for one in model.get_weights()]


def module_values(net: Net) -> list[bytes]:
    return [one.numpy().tobytes() for one in net.variables]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The run of a Keras model, two epochs of two steps, and the model as it is then."""
    run = tmp_path_factory.mktemp("fitted") / "run"
    model = network()
    watching = milepost.keras.Checkpoint(
        run, every=milepost.Every(steps=1), keep=milepost.Keep(last=None), progress=False
    )
    model.fit(X, X[:, :2], batch_size=8, epochs=2, verbose=0, callbacks=[watching])
    return run, model


def test_a_run_of_a_tf_module(tmp_path: Path) -> None:
    net, count = Net(), tf.Variable(0, dtype=tf.int64)
    with milepost.Checkpointer(tmp_path / "run", net=net, count=count, progress=False) as run:
        for _ in run.steps(3):
            net.layers[0].assign_add(tf.random.normal((6, 3)))
            net.half.assign(tf.cast(tf.random.normal((4,)), tf.bfloat16))
            count.assign_add(2)
            run.step()
    blank = Net()
    before = module_values(blank)
    objects = {"net": blank, "count": tf.Variable(0, dtype=tf.int64)}
    done = milepost.export(tmp_path / "run", tmp_path / "tf" / "ckpt-8", format="tensorflow", model=objects)
    assert module_values(blank) == before
    assert all(path.startswith("run/") for path in done.left_out)
    assert sorted(os.listdir(tmp_path / "tf")) == ["checkpoint", "ckpt-8.data-00000-of-00001", "ckpt-8.index"]
    again, number = Net(), tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(net=again, count=number)
    manager = tf.train.CheckpointManager(checkpoint, str(tmp_path / "tf"), max_to_keep=5)
    checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    assert module_values(again) == module_values(net)
    assert int(number) == 6
    assert manager.save() == str(tmp_path / "tf" / "ckpt-9")
    assert [os.path.basename(one) for one in manager.checkpoints] == ["ckpt-8", "ckpt-9"]


def test_a_run_of_a_keras_model_with_its_optimizer(fitted: tuple[Path, Any], tmp_path: Path) -> None:
    run, model = fitted
    blank = network()
    before = values(blank)
    done = milepost.export(run, tmp_path / "ckpt-8", format="tensorflow", model=blank)
    assert values(blank) == before
    # Keras 3 hides the seeds of its layers from TensorFlow.
    assert [path for path in done.left_out if path.startswith(("model/", "optimizer/"))] == [
        path for path in milepost.open(run) if path.endswith("seed_generator_state")
    ]
    again = network()
    again.optimizer.build(again.trainable_variables)
    tf.train.Checkpoint(model=again, optimizer=again.optimizer).restore(str(tmp_path / "ckpt-8")).assert_consumed()
    assert values(again.optimizer) == values(model.optimizer)
    assert weights(again) == weights(model)


@pytest.mark.parametrize("optimizer", [lambda: tf_keras.optimizers.Adam(), lambda: tf_keras.optimizers.legacy.Adam()])
def test_checkpoints_of_tf_keras_for_tf_keras_and_for_keras(tmp_path: Path, optimizer: Callable[[], Any]) -> None:
    def compiled() -> Any:
        model = network(tf_keras.layers, tf_keras)
        model.compile(optimizer(), "mse")
        return model

    model, blank, again = compiled(), compiled(), compiled()
    for one in (model, blank, again):
        one.fit(X, X[:, :2], verbose=0)  # which makes the slots of the optimizer
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(tmp_path / "old" / "ckpt"))
    milepost.export(
        tmp_path / "old", tmp_path / "ckpt-2", format="tensorflow", model={"model": blank, "optimizer": blank.optimizer}
    )
    tf.train.Checkpoint(model=again, optimizer=again.optimizer).restore(str(tmp_path / "ckpt-2")).assert_consumed()
    assert values(again) == values(model)
    assert values(again.optimizer) == values(model.optimizer)
    milepost.export(
        tmp_path / "old", tmp_path / "three", format="tensorflow", model={"model": network()}, leave_out="optimizer"
    )
    three = network()
    tf.train.Checkpoint(model=three).restore(str(tmp_path / "three")).assert_existing_objects_matched()
    np.testing.assert_allclose(three(X), model(X), rtol=1e-5)


def test_a_root_and_weights_alone(fitted: tuple[Path, Any], tmp_path: Path) -> None:
    run, model = fitted
    blank, again = network(), network()
    milepost.export(
        run, tmp_path / "w", format="tensorflow", model=tf.train.Checkpoint(blank), only="model", strict=False
    )
    tf.train.Checkpoint(again).restore(str(tmp_path / "w")).assert_existing_objects_matched()
    assert weights(again) == weights(model)


def test_a_whole_run(fitted: tuple[Path, Any], tmp_path: Path) -> None:
    run, _ = fitted
    done = milepost.export(run, tmp_path / "all", format="tensorflow", model=network(), whole_run=True)
    assert done.checkpoints == 4
    state = tf.train.get_checkpoint_state(str(tmp_path / "all"))
    assert [os.path.basename(one) for one in state.all_model_checkpoint_paths] == [f"ckpt-{n}" for n in range(1, 5)]
    for step in range(1, 5):
        assert milepost.open(tmp_path / "all" / f"ckpt-{step}").metadata["step"] == step
    shutil.copytree(tmp_path / "all", tmp_path / "moved")
    assert tf.train.latest_checkpoint(str(tmp_path / "moved")) == str(tmp_path / "moved" / "ckpt-4")
    np.savez(tmp_path / "none.npz", a=np.zeros(1))
    with pytest.raises(StepError):
        milepost.export(tmp_path / "none.npz", tmp_path / "no", format="tensorflow", model=network(), whole_run=True)


def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    tf.train.Checkpoint(net=Net(4), more=tf.Variable(tf.zeros(2))).write(str(tmp_path / "source"))
    before = sorted(os.listdir(tmp_path))

    class Other(Net):
        def __init__(self) -> None:
            super().__init__()
            self.new = tf.Variable(tf.zeros(9))

    with pytest.raises(MismatchError) as caught:
        milepost.export(tmp_path / "source", tmp_path / "ckpt-1", format="tensorflow", model={"net": Other()})
    told = {row.path: (row.saved, row.here) for row in caught.value.rows}
    assert told == {"layers/0": ("float32 [6, 4]", "float32 [6, 3]"), "new": ("nothing", "float32 [9]")}
    with pytest.raises(ScriptError, match="checkpoint is one of objects"):
        milepost.export(tmp_path / "source", tmp_path / "ckpt-1", format="tensorflow")
    with pytest.raises(ScriptError, match="cannot save these objects"):
        milepost.export(tmp_path / "source", tmp_path / "ckpt-1", format="tensorflow", model={"net": object()})
    assert sorted(os.listdir(tmp_path)) == before
    done = milepost.export(
        tmp_path / "source", tmp_path / "ckpt-1", format="tensorflow", model={"net": Other()}, strict=False
    )
    assert done.left_out == ("more", "net/layers/0")
    with pytest.raises(StorageError, match="already"):
        milepost.export(
            tmp_path / "source", tmp_path / "ckpt-1", format="tensorflow", model={"net": Other()}, strict=False
        )


def test_a_relative_path_stays_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = network()
    for epoch in (1, 2):
        named.write(model, f"training/cp-{epoch:04d}.ckpt", weights_only=True)
    assert tf.train.latest_checkpoint("training") == "training/cp-0002.ckpt"
    state = tf.train.get_checkpoint_state("training")
    assert list(state.all_model_checkpoint_paths) == ["training/cp-0001.ckpt", "training/cp-0002.ckpt"]
    assert len(state.all_model_checkpoint_timestamps) == 2
    assert sorted(os.listdir("training"))[0] == "checkpoint"  # nothing hidden is left


def test_layers_that_keras_hides_from_tensorflow_are_no_silent_loss(tmp_path: Path) -> None:
    class Hiding(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = [L.Dense(2), L.Dense(2)]

        def call(self, x: Any) -> Any:
            return self.blocks[1](self.blocks[0](x))

    model = Hiding()
    model(X)
    model.save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(ScriptError, match="does not save 4 of the 4 variables"):
        milepost.export(tmp_path / "w.weights.h5", tmp_path / "ckpt-1", format="tensorflow", model=model)
    with pytest.warns(MilepostWarning, match="does not save 4 of the model's weights, hiding/dense"):
        named.write(model, str(tmp_path / "cp.ckpt"), weights_only=True)
