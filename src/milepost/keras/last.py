"""The callback behind all others."""

from __future__ import annotations

from typing import Any

import keras


class Last(keras.callbacks.Callback):  # type: ignore[misc]
    """Stands behind all other callbacks, those that Keras adds too, and hands on what is called."""

    def __init__(self, front: Any) -> None:
        super().__init__()
        self._front = front

    def on_train_begin(self, logs: Any = None) -> None:
        self._front.last_train_begin()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._front.last_epoch_begin(epoch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._front.last_batch_end(batch, logs or {})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._front.last_epoch_end(epoch, logs or {})

    def on_test_begin(self, logs: Any = None) -> None:
        self._front.last_validates()

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._front.last_validates()

    def on_test_end(self, logs: Any = None) -> None:
        self._front.last_validates()

    def on_train_end(self, logs: Any = None) -> None:
        self._front.last_train_end()
