"""PyTorch's random generators: the global ones of every device, and `torch.Generator` objects.

The CUDA and MPS paths are not exercised by the test suite, which runs on machines without such devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch

from milepost.training.rng import Kind, State

_BITS = (1 << 63) - 1


def _pack(native: torch.Tensor) -> State:
    return {"bytes": native.numpy().copy()}


def _unpack(state: Mapping[str, object]) -> torch.Tensor:
    return torch.from_numpy(np.array(state["bytes"], np.uint8))


_GENERATOR = Kind("torch.Generator", torch.Generator.get_state, lambda generator, state: generator.set_state(state),
                  lambda generator, seed: generator.manual_seed(seed & _BITS), _pack, _unpack)  # fmt: skip


class _TorchCourse:
    def __init__(self, keep: bool) -> None:
        self._keep, self._own = keep, None if not keep else torch.default_generator.get_state()

    def enter(self) -> None:
        self._program = torch.default_generator.get_state()
        if self._own is not None:
            torch.default_generator.set_state(self._own)

    def leave(self) -> None:
        if self._keep:
            self._own = torch.default_generator.get_state()
        torch.default_generator.set_state(self._program)


class _Torch:
    name = "torch"

    def capture(self) -> dict[str, State]:
        states = {"cpu": _pack(torch.default_generator.get_state())}
        if (
            torch.cuda.is_available() and cast("Any", torch.cuda).is_initialized()
        ):  # else nothing drew there, and asking would make contexts
            for number in range(torch.cuda.device_count()):
                states[f"cuda:{number}"] = _pack(torch.cuda.get_rng_state(number))
        if torch.backends.mps.is_available():
            states["mps"] = _pack(torch.mps.get_rng_state())
        return states

    def restore(self, saved: Mapping[str, State]) -> list[str]:
        absent = []
        for device, state in saved.items():
            kind, _, number = device.partition(":")
            if kind == "cpu":
                torch.default_generator.set_state(_unpack(state))
            elif kind == "cuda" and torch.cuda.is_available() and int(number) < torch.cuda.device_count():
                torch.cuda.set_rng_state(_unpack(state), int(number))
            elif kind == "mps" and torch.backends.mps.is_available():
                torch.mps.set_rng_state(_unpack(state))
            else:
                absent.append(device)
        return absent

    def seed(self, seed: int) -> None:
        # Not torch.manual_seed: that seeds accelerators too, and where CUDA is not initialised it queues a call and
        # its traceback.
        torch.default_generator.manual_seed(seed & _BITS)

    def draw(self) -> int:
        return int(torch.empty((), dtype=torch.int64).random_().item())

    def course(self, *, keep: bool) -> _TorchCourse:
        return _TorchCourse(keep)

    def kind(self, cls: type) -> Kind | None:
        return _GENERATOR if issubclass(cls, cast("Any", torch.Generator)) else None

    def global_generators(self) -> list[object]:
        return [torch.default_generator]


LIBRARIES = (_Torch(),)
