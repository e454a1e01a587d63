"""How long ``model.fit`` waits for a save: milepost's callback beside ModelCheckpoint and BackupAndRestore.

    python bench/keras_saves.py --backend jax                     100 million parameters with Adam, 1.2 GB of state
    python bench/keras_saves.py --backend tensorflow --width 256 --saves 2

The three take turns, one save each at the end of an epoch of two batches, on the same model in the same process. What counts is the
time in the callback; milepost writes on while training goes on, so the time until its checkpoint is durable is given too.
The first save of each is left out: milepost makes its staging memory then. `make bench ARGS="--only keras"` runs all backends.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

BACKENDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}
"""Backends of Keras, and the package that each needs."""
PEERS = ("ModelCheckpoint", "BackupAndRestore")
OURS, DURABLE = "milepost", "durable"


def installed(backend: str) -> bool:
    """Whether Keras and its backend are here."""
    return all(importlib.util.find_spec(package) is not None for package in ("keras", BACKENDS[backend]))


def measure(backend: str, folder: Path, *, width: int, saves: int) -> dict[str, Any]:
    """What a process of its own says, see `saves_of`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--backend", backend, "--width", str(width), "--saves", str(saves), "--json"]
    ran = subprocess.run([*command, "--folder", str(folder)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def saves_of(width: int, saves: int, home: Path) -> dict[str, Any]:
    """Seconds in the callback, save by save: of each peer, of milepost, and until milepost's is durable."""
    import keras
    import numpy as np

    import milepost
    from milepost.keras import Checkpoint

    model = keras.Sequential([keras.Input((width,)), *(keras.layers.Dense(width) for _ in range(4))])
    model.compile("adam", "mse")
    x = np.zeros((2, width), "float32")
    spent: dict[str, list[float]] = {name: [] for name in (*PEERS, OURS, DURABLE)}

    class Begun(keras.callbacks.Callback):  # type: ignore[misc]
        """Stands in front of the callback that is measured."""

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.at = time.perf_counter()

    class Ended(keras.callbacks.Callback):  # type: ignore[misc]
        """Stands behind it."""

        def __init__(self, begun: Begun, name: str) -> None:
            super().__init__()
            self.begun, self.name = begun, name

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            spent[self.name].append(time.perf_counter() - self.begun.at)

    class Ours(Checkpoint):
        """Waits after each save until it is durable, so that the time of the next callback is its own."""

        def last_epoch_end(self, epoch: int, logs: Any) -> None:
            began = time.perf_counter()
            super().last_epoch_end(epoch, logs)
            spent[OURS].append(time.perf_counter() - began)
            self.wait()
            spent[DURABLE].append(time.perf_counter() - began)

    def between(callback: Any, name: str) -> list[Any]:
        begun = Begun()
        return [begun, callback, Ended(begun, name)]

    callbacks = [
        *between(keras.callbacks.ModelCheckpoint(str(home / "m.weights.h5"), save_weights_only=True), PEERS[0]),
        *between(keras.callbacks.BackupAndRestore(str(home / "backup")), PEERS[1]),
        Ours(home / "run", keep=milepost.Keep(last=1)),
    ]
    model.fit(x, x, batch_size=1, epochs=saves + 1, verbose=0, callbacks=callbacks)
    count = sum(int(np.prod(one.shape)) for one in [*model.variables, *model.optimizer.variables])
    about = {"keras": keras.__version__, "parameters": model.count_params(), "bytes": 4 * count}
    return {**about, **{name: times[1:] for name, times in spent.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=BACKENDS, default="jax")
    parser.add_argument("--width", type=int, default=5000, help="of the four square layers (default: %(default)s)")
    parser.add_argument("--saves", type=int, default=4, help="of each that count (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON")
    options = parser.parse_args()
    os.environ["KERAS_BACKEND"] = options.backend
    home = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        found = saves_of(options.width, options.saves, home)
    finally:
        shutil.rmtree(home)
    if options.json:
        print(json.dumps(found))
        return
    millions, gigabytes = found["parameters"] / 1e6, found["bytes"] / 1e9
    print(f"Keras {found['keras']} on {options.backend}: {millions:.0f} million parameters, {gigabytes:.2f} GB")
    for name in (*PEERS, OURS, DURABLE):
        each = ", ".join(f"{one:.2f}" for one in found[name])
        print(f"{name:17} {median(found[name]):7.3f} s   ({each})")
    better = min(median(found[name]) for name in PEERS)
    print(f"milepost waits 1/{better / median(found[OURS]):.1f} as long as the better peer")


if __name__ == "__main__":
    main()
