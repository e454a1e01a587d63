import gc
import weakref
from decimal import Decimal
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch

from milepost.errors import MetricError
from milepost.training.metrics import Deferred, Metrics, is_scalar, scalar


class OnDevice:
    """A tensor whose device is far away: it has the face of torch's, and counts how often it is read."""

    device = torch.device("cuda", 0)
    dtype = torch.float32
    shape = ()

    def __init__(self, cell: list[float], graph: object = None, reads: list[float] | None = None) -> None:
        self.cell, self.graph = cell, graph
        self.reads = [] if reads is None else reads

    def detach(self) -> "OnDevice":
        return OnDevice(self.cell, None, self.reads)

    def clone(self) -> "OnDevice":
        return OnDevice(list(self.cell), self.graph, self.reads)

    def item(self) -> float:
        self.reads.append(self.cell[0])
        return self.cell[0]


class Graph:
    """Stands for what autograd holds on to."""


SCALARS = [
    (0.5, 0.5),
    (3, 3.0),
    (True, 1.0),
    (Fraction(1, 4), 0.25),
    (Decimal("0.125"), 0.125),
    (np.float32(0.5), 0.5),
    (np.int64(7), 7.0),
    (np.bool_(False), 0.0),
    (np.longdouble(2), 2.0),
    (np.array(2.5), 2.5),
    (np.array([[4]]), 4.0),
    (np.array(1.5, dtype=ml_dtypes.bfloat16), 1.5),
    (torch.tensor(0.25), 0.25),
    (torch.tensor([[8]]), 8.0),
    (torch.tensor(1.5, dtype=torch.bfloat16, requires_grad=True), 1.5),
    (torch.nn.Parameter(torch.ones(1)), 1.0),
]


@pytest.mark.parametrize(("value", "number"), SCALARS, ids=lambda value: repr(value))
def test_scalars_of_the_host_are_read_at_once(value, number):
    assert is_scalar(value)
    found = scalar("loss", value)
    assert type(found) is float
    assert found == number


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor(float("-inf"))])
def test_values_that_are_not_finite_are_kept(value):
    np.testing.assert_equal(scalar("loss", value), float(value))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(4, 2), "Tensor of shape (4, 2), torch.float32"),
        (np.zeros(3), "ndarray of shape (3,), float64"),
        (torch.zeros(0), "Tensor of shape (0,), torch.float32"),
        (torch.tensor(1j), "Tensor of shape (), torch.complex64"),
        (np.array("0.5"), "<U3"),
        (np.array({}), "object"),
        (1j, "complex"),
        ("0.5", "str"),
        (b"1", "bytes"),
        (None, "NoneType"),
        ([0.5], "list"),
        ({"a": 1}, "dict"),
        (float, "type"),
        (10**400, "int"),
        (torch.nn.Linear(1, 1), "Linear"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_scalar_is_refused_by_name_and_shape(value, said):
    with pytest.raises(MetricError) as caught:
        scalar("loss", value)
    assert "'loss'" in caught.value.message
    assert said in (caught.value.found or "")


def test_the_hint_is_given_where_reducing_helps():
    with pytest.raises(MetricError, match=r"loss\.mean"):
        scalar("loss", np.zeros(3))
    with pytest.raises(MetricError) as caught:
        scalar("loss", "high")
    assert caught.value.hint is None


def test_a_device_is_read_once_and_only_when_asked():
    value = OnDevice([0.5])
    found = scalar("loss", value)
    assert isinstance(found, Deferred)
    assert not found.known
    assert value.reads == []

    assert [found.read(), found.read()] == [0.5, 0.5]
    assert found.known
    assert value.reads == [0.5]


def test_a_deferred_value_is_that_of_the_moment_it_was_given():
    running = OnDevice([1.0])
    found = scalar("loss", running)
    running.cell[0] = 2.0  # a running sum, or the next replay of a captured graph
    assert found.read() == 1.0


def test_a_deferred_value_holds_no_graph_and_after_reading_no_tensor():
    graph = Graph()
    gone = weakref.ref(graph)
    value = OnDevice([1.0], graph)
    found = scalar("loss", value)
    del graph, value
    gc.collect()
    assert gone() is None

    copy = weakref.ref(found._tensor)
    found.read()
    gc.collect()
    assert copy() is None


def test_torch_tensors_of_a_device_are_copied_without_their_graph():
    weight = torch.ones(3, device="meta", requires_grad=True)
    found = scalar("loss", (weight * 2).sum())
    assert isinstance(found, Deferred)
    assert found._tensor.grad_fn is None
    assert not found._tensor.requires_grad


def test_what_a_device_cannot_say_is_an_error_that_names_the_metric():
    found = scalar("loss", torch.ones((), device="meta"))
    with pytest.raises(MetricError, match="'loss' cannot be read") as caught:
        found.read()
    assert caught.value.__cause__ is not None


def test_the_holder_keeps_the_last_value_of_each():
    metrics = Metrics()
    metrics.update({"loss": 1.0, "accuracy": torch.tensor(0.5)})
    metrics.update({"loss": np.float32(0.25)})
    metrics.update({})
    assert metrics.read() == {"loss": 0.25, "accuracy": 0.5}


def test_an_update_is_taken_whole_or_not_at_all():
    metrics = Metrics()
    metrics.update({"loss": 1.0})
    with pytest.raises(MetricError, match="'logits'"):
        metrics.update({"loss": 2.0, "logits": torch.zeros(2)})
    assert metrics.read() == {"loss": 1.0}


def test_cheap_reading_waits_for_no_device():
    far = OnDevice([0.5])
    metrics = Metrics()
    metrics.update({"loss": far, "accuracy": 1})
    assert metrics.read_cheap() == {"accuracy": 1.0}
    assert far.reads == []

    metrics.read()
    assert metrics.read_cheap() == {"loss": 0.5, "accuracy": 1.0}
    assert far.reads == [0.5]
