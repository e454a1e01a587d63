"""torch's own values: dtypes, devices, sizes, memory formats and layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from milepost.core.codecs import refuse, register


def _constant(kind: type) -> Callable[[str], Any]:
    """Finds a constant of torch by the name it has in ``torch.``."""

    def find(name: str) -> Any:
        found = vars(torch).get(name)
        if type(found) is not kind:
            raise LookupError(f"torch {torch.__version__} has no {kind.__name__} {name}")
        return found

    return find


def _name(value: object) -> str:
    return str(value).removeprefix("torch.")


def _device(text: str) -> torch.device:
    try:
        return torch.device(text)
    except RuntimeError:
        raise LookupError(f"torch {torch.__version__} has no device {text}") from None


for _kind in (torch.dtype, torch.memory_format, torch.layout):
    register(f"torch.{_kind.__name__}", [_kind], _name, _constant(_kind), shape=str)
register("torch.device", [torch.device], str, _device, shape=str)
register("torch.Size", [torch.Size], list, torch.Size, shape=list[int])

refuse([torch.Generator], "hand it over as an item of its own, or store its get_state(), which is a tensor")
