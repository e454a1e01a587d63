"""Makes ``onnx/``: a model with a graph in a graph, and tensors of its own, as numbers, and in another file (onnx 1.23)."""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

out = Path(sys.argv[1])
kernel = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "dense/kernel")
onnx.external_data_helper.set_external_data(kernel, "model.data", 0, 24)
(out / "model.data").write_bytes(kernel.raw_data)
kernel.ClearField("raw_data")
kernel.data_location = TensorProto.EXTERNAL
own = [
    kernel,
    helper.make_tensor("small", TensorProto.INT4, (3,), [1, -2, 7]),
    helper.make_tensor("numbers", TensorProto.FLOAT, (2,), [1.5, -2.0]),
    helper.make_tensor("words", TensorProto.STRING, (1,), [b"one"]),
]
inner = helper.make_graph([], "then", [], [], [numpy_helper.from_array(np.array([1, 2], np.int64), "inner")])
node = helper.make_node(
    "If", ["c"], [], name="choice", then_branch=inner, else_branch=helper.make_graph([], "e", [], [])
)
x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 2))
graph = helper.make_graph([node], "g", [x], [], own)
graph.sparse_initializer.append(
    helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([1.0], np.float16), "sparse"),
        numpy_helper.from_array(np.array([3], np.int64), "i"),
        [4],
    )
)
model = helper.make_model(graph, producer_name="golden", opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
(out / "model.onnx").write_bytes(model.SerializeToString())
