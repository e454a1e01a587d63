"""Loads each file that ``transfer_sources.py`` wrote into a new model of Keras 3: ``python transferring.py BACKEND FOLDER``.

A line of JSON for each says how names were matched, whether all weights are there to the bit, and by how much the outputs differ.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ |= {"KERAS_BACKEND": sys.argv[1], "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import architectures
import keras
import numpy as np

import milepost


def numbers(arrays: object) -> list[tuple[tuple[int, ...], bytes]]:
    return sorted((one.shape, one.tobytes()) for one in arrays)


folder = Path(sys.argv[2])
for expected in sorted(folder.glob("*.npz")):
    saved = dict(np.load(expected))
    name, library = expected.stem.split(".")
    wanted = saved.pop("outputs")
    suffixes = (".weights.h5", ".objects", ".root", ".h5", ".keras", ".saved")
    places = [f"{name}.{library}{suffix}" for suffix in suffixes]
    places += ["training/cp-0008.ckpt"] * ((name, library) == ("classic", "tf_keras"))
    places += [f"{name}.run"] * (library == "keras")
    for place in places:
        if not (folder / place).exists() and not (folder / f"{place}.index").exists():
            continue
        model = architectures.MODELS[name](keras)
        batch = architectures.data(name)
        architectures.outputs(model, batch)
        report = milepost.transfer(folder / place, model)
        found = keras.ops.convert_to_numpy(architectures.outputs(model, batch))
        told = {
            "place": place, "matched_by": report.matched_by, "acceptable": report.acceptable,
            "weights": numbers(map(keras.ops.convert_to_numpy, model.weights)) == numbers(saved.values()),
            "difference": float(np.abs(found - wanted).max() / np.abs(wanted).max()),
        }  # fmt: skip
        print(json.dumps(told), flush=True)
