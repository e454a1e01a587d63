"""Loops of one's own in TensorFlow: its objects as items of `milepost.Checkpointer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

import milepost
from milepost.errors import MismatchError, NotStorableError
from milepost.tensorflow import rng


class Net(tf.Module):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.weight = tf.Variable(tf.ones((3, width)))
        self.layers = [tf.Variable(tf.zeros(width)), {"scale": tf.Variable(1.0, trainable=False)}]
        self.tied = self.weight


class Job:
    """A loop that uses everything that has state."""

    def __init__(self, where: Path, steps: int, width: int = 2) -> None:
        tf.random.set_seed(5)
        self.net, self.count = Net(width), tf.Variable(0, dtype=tf.int64)
        self.random = tf.random.Generator.from_seed(3)
        self.data = iter(tf.data.Dataset.range(100).shuffle(20).repeat())
        self.whole = tf.train.Checkpoint(again=self.count, average=tf.Variable(tf.zeros(2, tf.bfloat16)))
        self.seen: list[Any] = []
        items = {"net": self.net, "count": self.count, "random": self.random, "data": self.data, "whole": self.whole}
        with milepost.Checkpointer(where, state=items, progress=False, every=milepost.Every(steps=1)) as run:
            for _ in run.steps(steps):
                noise = self.random.normal((3, width)) + tf.random.normal((3, width))
                self.net.weight.assign_add(noise)
                self.net.layers[1]["scale"].assign(float(noise[0, 0]))
                self.whole.average.assign(tf.cast(noise[0], tf.bfloat16))
                self.count.assign_add(1)
                self.seen.append(int(next(self.data)))
                run.step()

    def state(self) -> list[bytes]:
        net = self.net
        variables = [net.weight, *net.layers[:1], net.layers[1]["scale"], self.count, self.whole.average]
        return [np.asarray(one.read_value()).tobytes() for one in variables]


def test_a_course_of_random_numbers_leaves_an_unseeded_tensorflow_unseeded(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = context.context()
    monkeypatch.delattr(eager, "_rng", raising=False)
    monkeypatch.setattr(eager, "_seed", None)
    (library,) = rng.LIBRARIES
    before = library.capture()
    assert library.draw() != library.draw()
    course = library.course(keep=True)
    course.enter()
    library.seed(5)
    first = library.draw()
    course.leave()
    assert library.capture() == before == {"eager": {"seed": None}}
    course.enter()
    second = library.draw()
    library.seed(5)
    assert [library.draw(), library.draw()] == [first, second]
    course.leave()


def test_a_loop_of_tensorflow_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    straight = Job(tmp_path / "straight", 6)
    Job(tmp_path / "run", 3)
    again = Job(tmp_path / "run", 6)
    assert again.seen == straight.seen[3:]
    assert again.state() == straight.state()
    assert float(again.random.normal(())) == float(straight.random.normal(()))
    names = set(milepost.open(tmp_path / "run"))
    assert {"net/weight", "net/layers/0", "net/layers/1/scale", "count/value", "whole/average"} <= names


def test_another_module_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    Job(tmp_path, 1)
    with pytest.raises(MismatchError, match=r"net/weight +saved float32 \[3, 2\], here float32 \[3, 4\]"):
        Job(tmp_path, 2, width=4)


def test_state_that_is_no_variable_is_refused(tmp_path: Path) -> None:
    net = Net()
    net.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    with pytest.raises(NotStorableError, match="table"):
        milepost.Checkpointer(tmp_path, net=net)


def test_an_iterator_that_cannot_tell_where_it_is_is_refused(tmp_path: Path) -> None:
    data = tf.data.Dataset.from_generator(lambda: iter(range(3)), output_signature=tf.TensorSpec((), tf.int64))
    with pytest.raises(NotStorableError, match="replay=True"):
        milepost.Checkpointer(tmp_path, data=iter(data))
