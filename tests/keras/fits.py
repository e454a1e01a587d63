"""Trainings that are continued in every way, on one backend, in one process: ``python fits.py BACKEND [--short] SETTING...``;
`--short` leaves some of the moments out.

Of each setting there is a plain run, one with the callback that saves after every batch, and for several moments of the second
epoch a run that goes on from the checkpoint of that moment, as one does whose process was killed then; and one that a signal
stops in the middle of the second validation. A line of JSON for each says whether weights, optimizer, metrics, history,
callbacks and files came out the same to the last bit.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = BACKEND = sys.argv[1]
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np

import milepost
from milepost.folder.run import RunFolder
from milepost.keras import Checkpoint
from milepost.storage.local import LocalStorage

K = keras.layers
SAMPLES, BATCH, EPOCHS = 38, 4, 4


def samples() -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    x = random.normal(size=(SAMPLES, 5)).astype("float32")
    return x, (x[:, :1] > 0).astype("float32")


def small(*, built: bool = True, rate: float | None = None, **compiled: Any) -> Any:
    layers = [K.Dense(4, activation="relu"), K.Dropout(0.3), K.Dense(1, activation="sigmoid")]
    model = keras.Sequential([K.Input((5,)), *layers] if built else layers)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 5, 0.9) if rate is None else rate
    model.compile(keras.optimizers.Adam(schedule), "binary_crossentropy", metrics=["accuracy"], **compiled)
    return model


class Shuffled(keras.utils.PyDataset):
    """Shuffles itself after each epoch, and draws for each batch."""

    def __init__(self, x: Any, y: Any, **options: Any) -> None:
        super().__init__(**options)
        self.x, self.y, self.order = x, y, np.arange(len(x))
        self.random = np.random.default_rng(5)

    def __len__(self) -> int:
        return -(-len(self.x) // BATCH)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        part = self.order[number * BATCH : (number + 1) * BATCH]
        noise = self.random.normal(size=(len(part), 5)) if self.workers < 2 else 0
        return (self.x[part] + 0.1 * noise).astype("float32"), self.y[part]

    def on_epoch_end(self) -> None:
        np.random.shuffle(self.order)


def unknown_length(x: Any, y: Any) -> Any:
    """A `tf.data` pipeline, in the middle of which Python code decides how much there is."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(10, seed=3).filter(lambda x, y: True)
    return dataset.batch(BATCH).prefetch(2)


def loader(x: Any, y: Any, **options: Any) -> Any:
    import torch

    torch.manual_seed(7)  # Keras seeds only its own backend
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    return torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True, **options)


def endless(x: Any, y: Any) -> Iterator[tuple[Any, Any]]:
    random = np.random.default_rng(1)
    while True:
        part = random.integers(len(x), size=BATCH)
        yield x[part], y[part]


Setting = tuple[dict[str, Any], Callable[..., dict[str, Any]]]
"""What `small` is given, and what ``fit`` is given."""

SETTINGS: dict[str, Setting] = {
    "validation_split": ({}, lambda x, y: {"x": x, "y": y, "batch_size": BATCH, "validation_split": 0.2}),
    "steps_per_epoch": ({}, lambda x, y: {"x": x, "y": y, "batch_size": BATCH, "steps_per_epoch": 5}),
    "steps_per_execution": (
        {"steps_per_execution": 1 if BACKEND == "torch" else 4},
        lambda x, y: {"x": x, "y": y, "batch_size": BATCH},
    ),
    "jit_compile": ({"jit_compile": True}, lambda x, y: {"x": x, "y": y, "batch_size": BATCH}),
    "shuffle_batch": ({}, lambda x, y: {"x": x, "y": y, "batch_size": BATCH, "shuffle": "batch"}),
    "unbuilt": ({"built": False}, lambda x, y: {"x": x, "y": y, "batch_size": BATCH}),
    "class_weight": ({}, lambda x, y: {"x": x, "y": y, "batch_size": BATCH, "class_weight": {0: 1.0, 1: 3.0}}),
    "unknown_length": ({}, lambda x, y: {"x": unknown_length(x, y)}),
    "pydataset": ({}, lambda x, y: {"x": Shuffled(x, y), "shuffle": True}),
    "pydataset_workers": ({}, lambda x, y: {"x": Shuffled(x, y, workers=2), "shuffle": True}),
    "pydataset_processes": ({}, lambda x, y: {"x": Shuffled(x, y, workers=2, use_multiprocessing=True)}),
    "dataloader": ({}, lambda x, y: {"x": loader(x, y)}),
    "dataloader_workers": ({}, lambda x, y: {"x": loader(x, y, num_workers=2)}),
    "generator": ({}, lambda x, y: {"x": endless(x, y), "steps_per_epoch": 5}),
    "plateau": ({"rate": 0.05}, lambda x, y: {"x": x, "y": y, "batch_size": BATCH}),
    # Several at once, for the short run of the tests.
    "arrays": (
        {"built": False, "rate": 0.05},
        lambda x, y: {"x": x, "y": y, "batch_size": BATCH, "validation_split": 0.2, "class_weight": {0: 1.0, 1: 3.0}},
    ),
    "kept_pass": (
        {"steps_per_execution": 1 if BACKEND == "torch" else 2, "jit_compile": BACKEND != "torch"},
        lambda x, y: {"x": x, "y": y, "batch_size": BATCH, "shuffle": "batch", "steps_per_epoch": 6},
    ),
}


class Counter(keras.callbacks.Callback):
    """A callback of somebody's own, with what the built-in ones do not do: state that changes at every event."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = self.batches = self.validated = 0
        self.drawn: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.begun += 1
        self.drawn.append(float(np.random.random()))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.batches += 1

    def on_test_begin(self, logs: Any = None) -> None:
        self.validated += 1


class Signal(keras.callbacks.Callback):
    """SIGTERM after a batch of the second validation."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def train(setting: str, folder: Path, callbacks: list[Any]) -> dict[str, bytes]:
    """The outcome of a training, part by part."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(7)
    model_options, fit_options = SETTINGS[setting]
    x, y = samples()
    model = small(**model_options)
    folder.mkdir()
    own = Counter()
    stopping = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    log = keras.callbacks.CSVLogger(str(folder / "log.csv"))
    arguments = fit_options(x, y)
    if "validation_split" not in arguments:
        arguments["validation_data"] = (x[:12], y[:12])
    others = [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(number=epoch)), log]
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", min_delta=1.0, patience=1, cooldown=1)
    if "rate" in model_options:  # not a schedule, which cannot be set
        others.append(plateau)
    history = model.fit(
        **arguments,
        epochs=EPOCHS,
        verbose=0,
        validation_batch_size=BATCH,
        callbacks=[*callbacks[:1], own, stopping, *others, *callbacks[1:]],
    )
    variables = [*model.variables, *model.optimizer.variables, *(v for m in model.metrics for v in m.variables)]
    values = [np.asarray(keras.ops.convert_to_numpy(one)) for one in variables]
    return {
        "variables": b"".join(one.tobytes() for one in values),
        "history": json.dumps([history.epoch, history.history]).encode(),
        "csv": (folder / "log.csv").read_bytes(),
        "callbacks": repr(
            [
                *(own.begun, own.batches, own.validated, own.drawn),
                *(stopping.wait, stopping.best, stopping.best_epoch),
                *(getattr(plateau, name, None) for name in ("wait", "best", "cooldown_counter")),
            ]
        ).encode(),
        "random": np.random.random(4).tobytes(),
    }


def differs(one: dict[str, bytes], other: dict[str, bytes]) -> str:
    return ", ".join(name for name in one if one[name] != other[name])


def summaries(run: Path) -> list[Any]:
    listed = RunFolder.open(LocalStorage(run)).checkpoints()
    return sorted((one.summary for one in listed if one.summary is not None), key=lambda one: one.step)


def moments(run: Path) -> list[tuple[str, int]]:
    """(which batch of which epoch was done last, step) of the checkpoints to go on from; of the second where nothing is said."""
    steps = [
        [one.step for one in summaries(run) if one.epoch == epoch and one.phase == "in-epoch"] for epoch in range(3)
    ]
    found = steps[1]
    places = {"first": found[0], "middle": found[len(found) // 2], "before the last": found[-2], "last": found[-1]}
    places |= {"last of epoch 1": steps[0][-1], "last of epoch 3": steps[2][-1]}
    if "--short" in sys.argv:
        places = {name: places[name] for name in ("middle", "last", "last of epoch 1")}
    return list({step: (name, step) for name, step in places.items()}.values())


def report(setting: str, what: str, problem: str, began: float) -> None:
    print("RESULT", json.dumps([setting, what, problem, round(time.perf_counter() - began, 2)]), flush=True)


def run(setting: str, home: Path) -> None:
    began = time.perf_counter()
    plain = train(setting, home / "plain", [])
    first = home / "run"
    every, keep = milepost.Every(steps=1), milepost.Keep(last=None)
    straight = train(setting, home / "straight", [Checkpoint(first, every=every, keep=keep)])
    report(setting, "uninterrupted", differs(plain, straight), began)
    for name, step in moments(first):
        began = time.perf_counter()
        callback = Checkpoint(home / f"run{step}", resume=f"{first}@step={step}")
        # In the list it stands first or last: that must not matter.
        where = [callback] if name in ("first", "last") else [keras.callbacks.Callback(), callback]
        problem = differs(plain, train(setting, home / f"from{step}", where))
        report(setting, name, problem, began)
    began = time.perf_counter()
    report(setting, "validation", signalled(setting, home, plain), began)


class Leave(keras.callbacks.Callback):
    """An exception when the third epoch begins."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 2:
            raise KeyboardInterrupt


def signalled(setting: str, home: Path, plain: dict[str, bytes]) -> str:
    try:
        train(setting, home / "signalled", [Checkpoint(home / "stopped"), Signal()])
    except milepost.Stopped:
        newest = summaries(home / "stopped")[-1]
        if (newest.epoch, newest.phase) != (1, "batches-done"):
            return f"stopped with {newest}"
        # Validated again, it is left after the checkpoint at the end of that epoch, before any data is read.
        with contextlib.suppress(KeyboardInterrupt):
            train(setting, home / "left", [Checkpoint(home / "stopped"), Leave()])
        return differs(plain, train(setting, home / "again", [Checkpoint(home / "stopped")]))
    return "the signal was not answered"


def main() -> None:
    warnings.filterwarnings("ignore", ".*generator cannot be rewound.*")
    warnings.filterwarnings("ignore", ".*ran out of data.*")
    for setting in [word for word in sys.argv[2:] if word != "--short"]:
        with tempfile.TemporaryDirectory() as home:
            began = time.perf_counter()
            try:
                run(setting, Path(home))
            except Exception:
                report(setting, "error", traceback.format_exc(), began)


if __name__ == "__main__":
    main()
