"""The graph of objects that a checkpoint of TensorFlow has, beside the live objects it was made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from milepost.formats.tf_bundle import GRAPH, Bundle
from milepost.ops.refs import open as open_source
from milepost.tensorflow.items import held

VALUE = "VARIABLE_VALUE"


class Saved(NamedTuple):
    """A variable that TensorFlow saves, the key it stands under, and the path that `milepost.open` gives it."""

    variable: Any
    key: str
    path: str


def saved_variables(checkpoint: Any, prefix: str) -> list[Saved]:
    """The variables that are in the checkpoint `prefix`, which ``checkpoint.write`` just made."""
    reader = tf.train.load_checkpoint(prefix)
    graph = TrackableObjectGraph.FromString(reader.get_tensor(GRAPH))
    live = _live(checkpoint, graph)
    source = open_source(prefix)
    assert isinstance(source, Bundle)
    paths = {key: path for path, key in source.stored_as.items()}
    variables = []
    for number, node in enumerate(graph.nodes):
        for attribute in node.attributes:
            variable = held(live.get(number))
            if attribute.name == VALUE and isinstance(variable, tf.Variable):
                variables.append(Saved(variable, attribute.checkpoint_key, paths[attribute.checkpoint_key]))
    return variables


def _live(checkpoint: Any, graph: Any) -> dict[int, Any]:
    """By number of the node, the object: found by going along the graph and the objects at once."""
    root = getattr(checkpoint, "root", checkpoint)
    view = tf.train.TrackableView(root)
    live = {0: root}
    waiting = [0]
    while waiting:
        number = waiting.pop()
        children = view.children(live[number])
        for child in graph.nodes[number].children:
            found = children.get(child.local_name)
            if found is None and number == 0:
                found = getattr(checkpoint, child.local_name, None)  # what is attached to a root that is given
            if found is not None and child.node_id not in live:
                live[child.node_id] = found
                waiting.append(child.node_id)
    for number, node in enumerate(graph.nodes):
        for slot in node.slot_variables:  # of optimizers as Keras 2 first had them
            owner, variable = live.get(number), live.get(slot.original_variable_node_id)
            if owner is not None and variable is not None:
                live.setdefault(slot.slot_variable_node_id, owner.get_slot(variable, slot.slot_name))
    return live
