"""The state of the other callbacks: what they count, remember and write."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from milepost.keras.source import Changes

_NOT_STATE = ("model", "_model", "params")


class Others:
    """The callbacks of one ``fit``, looked at after all of them have begun.

    A callback with ``state_dict`` and ``load_state_dict`` says itself what its state is. Of the others it is every plain attribute
    that has changed since: counters, best values, weights, lists.
    """

    def __init__(self, callbacks: Sequence[Any]) -> None:
        self._callbacks: dict[str, Any] = {}
        for callback in callbacks:
            if isinstance(callback, keras.callbacks.ProgbarLogger):
                continue
            name = kind = type(callback).__name__
            number = 1
            while name in self._callbacks:
                number += 1
                name = f"{kind}#{number}"
            self._callbacks[name] = callback
        self._changes = {name: Changes(one, but=_NOT_STATE) for name, one in self._callbacks.items()}

    @property
    def callbacks(self) -> Mapping[str, Any]:
        """Those whose state is looked at."""
        return self._callbacks

    def capture(self) -> dict[str, Any]:
        """The state by class, numbered where there are several."""
        return {name: self._capture(name, callback) for name, callback in self._callbacks.items()}

    def _capture(self, name: str, callback: Any) -> dict[str, Any]:
        if _keeps_state(callback):
            return {"own": callback.state_dict()}
        state: dict[str, Any] = {"changes": self._changes[name].capture()}
        if isinstance(callback, keras.callbacks.CSVLogger) and callback.csv_file is not None:
            callback.csv_file.flush()
            with open(callback.filename, encoding="utf-8", newline="") as file:
                state["file"] = file.read()
        return state

    def restore(self, saved: Mapping[str, Any]) -> list[str]:
        """Put back what `capture` gave, any number of times. Returns the callbacks that are not here."""
        for name, state in saved.items():
            callback = self._callbacks.get(name)
            if callback is None:
                continue
            if "own" in state:
                callback.load_state_dict(copy.deepcopy(state["own"]))
                continue
            self._changes[name].restore(copy.deepcopy(state["changes"]))
            if getattr(callback, "monitor_op", self) is None:
                # Those of Keras that monitor a metric turn the sign of this where smaller is better, when they first see one.
                callback.min_delta = abs(callback.min_delta)
            if "file" in state:
                _write_again(callback, state["file"])
        return [name for name in saved if name not in self._callbacks]


def _keeps_state(callback: Any) -> bool:
    return callable(getattr(callback, "state_dict", None)) and callable(getattr(callback, "load_state_dict", None))


def _write_again(logger: Any, content: str) -> None:
    """The rows that the file had; those of epochs that are done again go."""
    file = logger.csv_file
    file.seek(0)
    file.truncate()
    file.write(content)
    file.flush()
    logger.append_header, logger.writer = not content, None
