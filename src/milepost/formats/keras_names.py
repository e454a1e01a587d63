"""What the numbered variables of Keras are: its files number them, and the configuration beside them says the rest.

A file has ``layers/dense/vars/0`` and ``optimizer/vars/2``; the names that layers, their variables and the optimizer's slots have
in the model are worked out here, and said only where numbers and shapes of all variables agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from milepost.core.source import TensorSpec

_NORMS = ("gamma", "beta")
_TRAINED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Dense", "EinsumDense", "DepthwiseConv1D", "DepthwiseConv2D"), ("kernel", "bias")),
    **{f"Conv{size}D{more}": ("kernel", "bias") for size in (1, 2, 3) for more in ("", "Transpose")},
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), ("depthwise_kernel", "pointwise_kernel", "bias")),
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), ("kernel", "recurrent_kernel", "bias")),
    **dict.fromkeys(("BatchNormalization", "LayerNormalization", "GroupNormalization"), _NORMS),
    "Embedding": ("embeddings",), "PReLU": ("alpha",),
}  # fmt: skip
"""By the class of a layer: its variables that are trained, in the order they are saved in."""
_COUNTED = {"BatchNormalization": ("moving_mean", "moving_variance")}
"""Those that are not, which follow."""
_SWITCHES = {"bias": "use_bias", "gamma": "scale", "beta": "center"}
"""What in the configuration of a layer says that it has no such variable."""
_SLOTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Adam", "AdamW", "Lamb"), ("momentum", "velocity")), "Adamax": ("momentum", "norm"),
    "Adadelta": ("accumulated_grad", "accumulated_delta_var"), "Adagrad": ("accumulator",), "Lion": ("momentum",),
    "SGD": ("momentum",), "RMSprop": ("velocity",),
}  # fmt: skip
"""By the class of an optimizer: what it keeps of each variable."""


class _Layer(NamedTuple):
    """A layer: where its variables are, what it is called, its class and configuration."""

    path: str
    name: str | None
    kind: str
    config: dict[str, Any]


def names_of(config: Any, specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    """What is at a path, as far as it is known: names of layers, of their variables, and of the optimizer's.

    Args:
        config: the configuration of the model, out of ``config.json``.
        specs: path -> tensor.
    """
    groups = {group for path in specs for group in accumulate(path.split("/"), "{}/{}".format)}
    layers = [layer for layer in _layers(config, "") if layer.path in groups]
    names = {layer.path: layer.name for layer in layers if layer.name is not None}
    trained: list[tuple[str, TensorSpec]] | None = []
    for layer in layers:
        found = _variables(layer, specs)
        if found is None:
            # What is below a model or a layer around others is theirs.
            inner = any(other.path.startswith(f"{layer.path}/") for other in layers)
            trained = trained if inner else None
            continue
        names |= {path: name for path, name, _ in found}
        if trained is not None and layer.config.get("trainable") is not False:
            trained += [(name, specs[path]) for path, name, is_trained in found if is_trained]
    return names | (_slots(config, specs, trained) if trained else {})


def _layers(config: Any, above: str) -> Iterator[_Layer]:
    """All layers of a model, in the order they are in; Keras makes their paths of their classes, counted."""
    inner = config.get("config") if isinstance(config, dict) else None
    layers = inner.get("layers") if isinstance(inner, dict) else None
    used: dict[str, int] = {}
    for layer in layers if isinstance(layers, list) else ():
        made = layer.get("class_name") if isinstance(layer, dict) else None
        if not isinstance(made, str):
            continue
        words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", made.rpartition(">")[2]))
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
        used[kind] = used.get(kind, -1) + 1
        path = f"{above}layers/{kind}" + (f"_{used[kind]}" if used[kind] else "")
        named = layer.get("config")
        named = named if isinstance(named, dict) else {}
        yield _Layer(path, named["name"] if isinstance(named.get("name"), str) else None, made, named)
        yield from _layers(layer, f"{path}/")


def _variables(layer: _Layer, specs: Mapping[str, TensorSpec]) -> list[tuple[str, str, bool]] | None:
    """Path and name (``first/kernel``) of each variable of a layer, and whether it is trained; None of a layer that is not known
    that well."""
    trained = [name for name in _TRAINED.get(layer.kind, ()) if layer.config.get(_SWITCHES.get(name, "")) is not False]
    names = [*trained, *_COUNTED.get(layer.kind, ())]
    for above in (f"{layer.path}/vars", f"{layer.path}/cell/vars"):
        paths = [f"{above}/{number}" for number in range(len(names) + 1)]
        if names and [path in specs for path in paths] == [True] * len(names) + [False]:
            above = layer.name or layer.path
            return [(path, f"{above}/{name}", name in trained) for path, name in zip(paths, names, strict=False)]
    return None


def _slots(config: Any, specs: Mapping[str, TensorSpec], trained: list[tuple[str, TensorSpec]]) -> dict[str, str]:
    """What the variables of the optimizer are: some numbers, averages of all variables if it is told to keep them, then for each
    variable all that it keeps of it."""
    compiled = config.get("compile_config") if isinstance(config, dict) else None
    made = compiled.get("optimizer") if isinstance(compiled, dict) else None
    kind, told = (made.get("class_name"), made.get("config")) if isinstance(made, dict) else (None, None)
    if (
        not isinstance(kind, str)
        or kind not in _SLOTS
        or not isinstance(told, dict)
        or told.get("amsgrad")
        or told.get("centered")
    ):
        return {}
    slots = _SLOTS[kind]
    if (kind == "SGD" and not told.get("momentum")) or (kind == "RMSprop" and told.get("momentum")):
        slots = ()
    expected = [(f"average of {name}", spec) for name, spec in trained if told.get("use_ema")]
    expected += [(f"{slot} of {name}", spec) for name, spec in trained for slot in slots]
    count = next(number for number in range(len(specs) + 1) if f"optimizer/vars/{number}" not in specs)
    paths = [f"optimizer/vars/{number}" for number in range(count)]
    scalars, rest = paths[: count - len(expected)], paths[count - len(expected) :]
    if not 1 <= len(scalars) <= 3 or any(specs[path].shape for path in scalars):
        return {}
    if any(specs[path].shape != spec.shape for path, (_, spec) in zip(rest, expected, strict=True)):
        return {}
    return dict(zip(scalars, ("iterations", "learning rate"), strict=False)) | {
        path: name for path, (name, _) in zip(rest, expected, strict=True)
    }
