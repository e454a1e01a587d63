"""ONNX models, against what the onnx package reads from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tables import field

import milepost
from milepost.errors import FormatError, NotFoundError, UnsafeContentError

KINDS = [kind for name, kind in TensorProto.DataType.items() if name not in ("UNDEFINED", "STRING")]
SHAPE = (3, 5)


def tensors(raw: bool) -> list[onnx.TensorProto]:
    """One of each type, as bytes or as numbers of the message."""
    rng = np.random.default_rng(0)
    made = []
    for kind in KINDS:
        array = rng.integers(0, 4, SHAPE).astype(helper.tensor_dtype_to_np_dtype(kind))
        name = f"layer/{TensorProto.DataType.Name(kind)}.weight"
        if raw:
            made.append(numpy_helper.from_array(array, name))
        else:
            made.append(helper.make_tensor(name, kind, SHAPE, array.reshape(-1)))
    return made


def model_of(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, producer_name="somebody", producer_version="1.2")
    helper.set_model_props(model, {"epoch": "7"})
    return model


@pytest.mark.parametrize("raw", [True, False])
def test_every_type_is_what_onnx_reads(tmp_path: Path, raw: bool) -> None:
    made = tensors(raw)
    assert len(made) == 27
    onnx.save(model_of(helper.make_graph([], "g", [], [], made)), tmp_path / "m.onnx")
    source = milepost.open(tmp_path / "m.onnx")
    assert list(source) == [tensor.name for tensor in made]
    for tensor in made:
        assert tensor.HasField("raw_data") == raw
        expected = numpy_helper.to_array(tensor)
        found = source[tensor.name]
        assert (found.dtype, found.shape) == (expected.dtype, SHAPE)
        np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))


def test_numbers_that_are_not_packed_together(tmp_path: Path) -> None:
    floats = b"".join(b"\x25" + np.float32(value).tobytes() for value in (1.5, -2.0))
    tensor = field(1, 2) + field(2, 1) + floats + field(8, b"w")
    longs = field(1, 2) + field(2, 7) + field(7, 5) + field(7, -3) + field(8, b"n")
    (tmp_path / "m.onnx").write_bytes(field(1, 8) + field(7, field(5, tensor) + field(5, longs)))
    source = milepost.open(tmp_path / "m.onnx")
    assert source["w"].tolist() == [1.5, -2.0]
    assert source["n"].tolist() == [5, -3]


def test_strings_metadata_and_signature(tmp_path: Path) -> None:
    words = helper.make_tensor("words", TensorProto.STRING, (2, 1), [b"one", "zwö".encode()])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 4))
    y = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y], [words])
    onnx.save(model_of(graph), tmp_path / "m.onnx")
    source = milepost.open(tmp_path / "m.onnx")
    assert source.plain == {
        "words": [["one"], ["zwö"]],
        "inputs/x": "float32 (batch, 4)",
        "outputs/y": "int64 of any shape",
        "metadata/epoch": "7",
    }
    assert source.metadata["written_by"] == {"framework": "somebody", "version": "1.2"}
    assert source.metadata["opsets"].keys() == {"ai.onnx"}


def test_graphs_within_graphs(tmp_path: Path) -> None:
    def constant(name: str, value: float) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array([value], np.float32), name)

    def branch(name: str, value: float, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.GraphProto:
        return helper.make_graph(list(nodes), name, [], [], [constant("w", value)])

    inner = helper.make_node("If", ["c"], [], name="", then_branch=branch("i", 3.0), else_branch=branch("j", 4.0))
    node = helper.make_node(
        "If", ["c"], [], name="block/if", then_branch=branch("t", 1.0, (inner,)), else_branch=branch("e", 2.0)
    )
    graph = helper.make_graph([node], "g", [], [], [constant("w", 0.0), constant("w", 9.0)])
    onnx.save(model_of(graph), tmp_path / "m.onnx")
    source = milepost.open(tmp_path / "m.onnx")
    assert {path: float(source[path][0]) for path in source} == {
        "w": 0.0, "w~n2": 9.0, "block/if/then_branch/w": 1.0, "block/if/else_branch/w": 2.0,
        "block/if/then_branch/node 0/then_branch/w": 3.0, "block/if/then_branch/node 0/else_branch/w": 4.0,
    }  # fmt: skip


def test_sparse_tensors(tmp_path: Path) -> None:
    values = numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "s")
    indices = numpy_helper.from_array(np.array([3, 5], np.int64), "s_indices")
    graph = helper.make_graph([], "g", [], [])
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 4]))
    onnx.save(model_of(graph), tmp_path / "m.onnx")
    source = milepost.open(tmp_path / "m.onnx")
    assert source["s/values"].tolist() == [1.0, 2.0]
    assert source["s/indices"].tolist() == [3, 5]
    assert source.plain["s/dims"] == [2, 4]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A model whose tensors are in a file beside it."""
    made = [*tensors(raw=True), numpy_helper.from_array(np.arange(3000.0), "big")]
    graph = helper.make_graph([], "g", [], [], made)
    onnx.save_model(
        model_of(graph), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    return tmp_path / "m.onnx"


def test_data_in_another_file(outside: Path) -> None:
    assert outside.stat().st_size < 8000
    source = milepost.open(outside)
    for tensor in onnx.load(outside).graph.initializer:
        expected, found = numpy_helper.to_array(tensor), source[tensor.name]
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))
    (outside.parent / "m.data").write_bytes(b"short")
    with pytest.raises(FormatError, match="cut short"):
        source["big"]
    (outside.parent / "m.data").unlink()
    with pytest.raises(NotFoundError):
        source["big"]


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "sub/../../secret", "", "a\0b", "link", "linked/secret", "x" * 10_000, "second name"],
)
def test_data_outside_the_folder_are_not_read(tmp_path: Path, location: str) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "secret").write_bytes(bytes(8))
    (here / "link").symlink_to(tmp_path / "secret")
    (here / "linked").symlink_to(tmp_path)
    (here / "second name").hardlink_to(tmp_path / "secret")
    entry = field(1, b"location") + field(2, location.encode())
    tensor = field(1, 2) + field(2, 1) + field(8, b"w") + field(13, entry) + field(14, 1)
    (here / "m.onnx").write_bytes(field(1, 8) + field(7, field(5, tensor)))
    source = milepost.open(here / "m.onnx")
    with pytest.raises(UnsafeContentError):
        source["w"]


@pytest.mark.parametrize("name", ["fifo", "sub"])
def test_data_that_are_no_file(tmp_path: Path, name: str) -> None:
    import os

    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "sub").mkdir()
    entry = field(1, b"location") + field(2, name.encode())
    tensor = field(1, 2) + field(2, 1) + field(8, b"w") + field(13, entry) + field(14, 1)
    (tmp_path / "m.onnx").write_bytes(field(1, 8) + field(7, field(5, tensor)))
    with pytest.raises(FormatError):
        milepost.open(tmp_path / "m.onnx")["w"]


@pytest.mark.parametrize(
    ("offset", "length"), [("-8", "8"), ("0", "16"), ("4", "8"), ("x", "8"), ("0", "-8"), ("9" * 30, "8"), ("0", "4")]
)
def test_places_that_are_not_in_the_other_file(tmp_path: Path, offset: str, length: str) -> None:
    (tmp_path / "m.data").write_bytes(bytes(8))
    pairs = {"location": "m.data", "offset": offset, "length": length}
    entries = b"".join(field(13, field(1, key.encode()) + field(2, value.encode())) for key, value in pairs.items())
    tensor = field(1, 2) + field(2, 1) + field(8, b"w") + entries + field(14, 1)
    (tmp_path / "m.onnx").write_bytes(field(1, 8) + field(7, field(5, tensor)))
    with pytest.raises(FormatError):
        milepost.open(tmp_path / "m.onnx")["w"]


def nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(1, b"body") + field(6, graph)))
    return graph


@pytest.mark.parametrize(
    "graph",
    [
        nested(40),
        field(5, field(1, 1 << 60) + field(2, 1) + field(8, b"w") + field(9, bytes(4))),
        field(5, field(1, -1) + field(1, -4) + field(2, 1) + field(8, b"w") + field(9, bytes(16))),
        field(5, field(1, 1 << 40) + field(2, 22) + field(8, b"w") + field(9, bytes(4))),
        field(5, field(1, 1 << 40) + field(2, 1) + field(8, b"w")),
        field(5, field(1, 3) + field(2, 6) + field(8, b"w") + field(5, 1)),
        field(5, field(1, 1) + field(2, 99) + field(8, b"w") + field(9, bytes(4))),
        field(5, field(1, 1 << 50) + field(2, 8) + field(8, b"w") + field(6, b"one")),
        field(15, field(1, field(8, b"v"))),
        b"\xff" * 30,
        field(5, b"\x0b"),
    ],
)
def test_graphs_that_cannot_be(tmp_path: Path, graph: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(field(1, 8) + field(2, b"x") + field(7, graph))
    with pytest.raises(FormatError):
        milepost.open(tmp_path / "m.onnx")["w"]


def test_more_nodes_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost.formats.onnx.MOST", 5000)
    (tmp_path / "m.onnx").write_bytes(field(1, 8) + field(7, field(1, b"") * 6000))
    with pytest.raises(UnsafeContentError, match="more nodes"):
        milepost.open(tmp_path / "m.onnx")


def test_a_model_that_is_cut_short_is_one_nevertheless(tmp_path: Path) -> None:
    whole = model_of(helper.make_graph([], "g", [], [], tensors(raw=True))).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(whole[:200])
    with pytest.raises(FormatError, match="cut short"):
        milepost.open(tmp_path / "m.onnx")
