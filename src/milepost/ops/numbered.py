"""Which parameters the numbers in the state of a PyTorch optimizer stand for.

An optimizer numbers the parameters that it was given, as a rule those of one model in its order. Where the shapes of all that have
state fit the tensors of a model, in order and in one way only, the names are certain but for parameters of one shape that a script
handed over in another order.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from milepost.core.source import TensorSource
from milepost.ops.holding import part_of

_SLOT = re.compile(r"((?:.+/)?state)/([0-9]{1,9})/[^/]+")
"""The state of one parameter in an optimizer: the path above all, the number."""

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""What has no gradient in any module."""

Shape = tuple[int, ...]


def parameters(source: TensorSource) -> dict[str, str]:
    """Path of what an optimizer keeps of a parameter -> name of the parameter, as far as they are certain.

    Example:
        >>> parameters(milepost.open("train.pt"))["optimizer/state/3"]
        'fc2.bias'
    """
    optimizers: defaultdict[str, dict[int, Shape]] = defaultdict(dict)
    for path, spec in source.specs.items():
        found = _SLOT.fullmatch(path)
        if found is not None and len(spec.shape) >= len(optimizers[found[1]].get(int(found[2]), ())):
            optimizers[found[1]][int(found[2])] = spec.shape  # counts of steps are scalars
    if not optimizers:
        return {}
    models = list(_models(source))
    names: dict[str, str] = {}
    for above, shapes in optimizers.items():
        if _has_groups(source, f"{above.removesuffix('state')}param_groups"):
            continue  # in an order of their own
        numbers = sorted(shapes)
        fits = [fit for model in models if (fit := _only_way([shapes[one] for one in numbers], model)) is not None]
        if fits and all(fit == fits[0] for fit in fits):  # averages of weights are called as these
            names |= {f"{above}/{number}": name for number, name in zip(numbers, fits[0], strict=True)}
    return names


def _has_groups(source: TensorSource, path: str) -> bool:
    """Whether the parameters at `path` are in more than one group."""
    whole = source.plain.get(path)
    return any(one.startswith(f"{path}/1/") for one in source.plain) or (isinstance(whole, list) and len(whole) > 1)


def _models(source: TensorSource) -> Iterator[list[tuple[str, Shape]]]:
    """The tensors that may be a model's, by what they are in: names and shapes in their order."""
    found: defaultdict[str, list[tuple[str, Shape]]] = defaultdict(list)
    for path, spec in source.specs.items():
        if part_of(path, source) is None and _SLOT.fullmatch(path) is None and not path.endswith(_BUFFERS):
            above, _, name = path.rpartition("/")
            found[above].append((name, spec.shape))
    yield from found.values()


def _only_way(shapes: Sequence[Shape], model: Sequence[tuple[str, Shape]]) -> list[str] | None:
    """The names of those of the `model` that have these `shapes`, in order; None unless there is exactly one way: the first place
    that each can have is the last, too."""
    first = _earliest(shapes, [shape for _, shape in model])
    last = _earliest(shapes[::-1], [shape for _, shape in reversed(model)])
    if first is None or last is None or first != [len(model) - 1 - place for place in reversed(last)]:
        return None
    return [model[place][0] for place in first]


def _earliest(shapes: Sequence[Shape], among: Sequence[Shape]) -> list[int] | None:
    places = []
    at = 0
    for shape in shapes:
        while at < len(among) and among[at] != shape:
            at += 1
        if at == len(among):
            return None
        places.append(at)
        at += 1
    return places
