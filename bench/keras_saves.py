"""How long ``model.fit`` waits for a save: milepost's callback beside ModelCheckpoint and BackupAndRestore.

    python bench/keras_saves.py --backend jax                     100 million parameters with Adam, 1.2 GB of state
    python bench/keras_saves.py --backend tensorflow --width 256 --saves 2

The three take turns, one save each at the end of an epoch of two batches, on the same model in the same process. What counts is the
time in the callback; milepost writes on while training goes on, so the time until its checkpoint is durable is given too.
The first save of each is left out: milepost makes its staging memory then.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=("tensorflow", "jax", "torch"), default="jax")
    parser.add_argument("--width", type=int, default=5000, help="of the four square layers (default: %(default)s)")
    parser.add_argument("--saves", type=int, default=4, help="of each that count (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    os.environ["KERAS_BACKEND"] = options.backend
    import keras
    import numpy as np

    import milepost
    from milepost.keras import Checkpoint

    width = options.width
    model = keras.Sequential([keras.Input((width,)), *(keras.layers.Dense(width) for _ in range(4))])
    model.compile("adam", "mse")
    x = np.zeros((2, width), "float32")
    home = Path(tempfile.mkdtemp(dir=options.folder))

    def timed(callback: Any, name: str) -> Any:
        inner, spent[name] = getattr(callback, method[name]), []

        def call(*given: Any) -> None:
            began = time.perf_counter()
            inner(*given)
            spent[name].append(time.perf_counter() - began)
            if name == "milepost":
                callback._running._run.wait()  # so that the next one's time is its own
                durable.append(time.perf_counter() - began)

        setattr(callback, method[name], call)
        return callback

    spent: dict[str, list[float]] = {}
    durable: list[float] = []
    method = dict.fromkeys(("ModelCheckpoint", "BackupAndRestore"), "on_epoch_end") | {"milepost": "last_epoch_end"}
    callbacks = [
        timed(keras.callbacks.ModelCheckpoint(str(home / "m.weights.h5"), save_weights_only=True), "ModelCheckpoint"),
        timed(keras.callbacks.BackupAndRestore(str(home / "backup")), "BackupAndRestore"),
        timed(Checkpoint(home / "run", keep=milepost.Keep(last=1)), "milepost"),
    ]
    try:
        model.fit(x, x, batch_size=1, epochs=options.saves + 1, verbose=0, callbacks=callbacks)
    finally:
        shutil.rmtree(home)

    count = sum(int(np.prod(one.shape)) for one in [*model.variables, *model.optimizer.variables])
    millions, gigabytes = model.count_params() / 1e6, count * 4 / 1e9
    print(f"Keras {keras.__version__} on {options.backend}: {millions:.0f} million parameters, {gigabytes:.2f} GB")
    best = min(median(spent[name][1:]) for name in spent if name != "milepost")
    for name, times in spent.items():
        each = ", ".join(f"{one:.2f}" for one in times[1:])
        print(f"{name:17} in the callback {median(times[1:]):7.3f} s   ({each})")
    print(f"milepost          durable after   {median(durable[1:]):7.3f} s")
    print(f"milepost waits 1/{best / median(spent['milepost'][1:]):.0f} of the better peer")


if __name__ == "__main__":
    main()
