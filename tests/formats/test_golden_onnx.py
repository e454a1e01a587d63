"""A small model that onnx wrote once: its values, and what becomes of it when bytes change."""

from __future__ import annotations

import shutil
from pathlib import Path

from mutants import survive

import milepost

GOLDEN = Path(__file__).parent / "golden" / "onnx"


def test_values() -> None:
    source = milepost.open(GOLDEN / "model.onnx")
    assert {path: array.astype(float).tolist() for path, array in source.items()} == {
        "dense/kernel": [[0, 1, 2], [3, 4, 5]],
        "small": [1, -2, 7],
        "numbers": [1.5, -2.0],
        "choice/then_branch/inner": [1, 2],
        "sparse/values": [1],
        "sparse/indices": [3],
    }
    assert source.plain == {"words": ["one"], "sparse/dims": [4], "inputs/x": "float32 (batch, 2)"}
    assert source.metadata == {
        "format": "an ONNX model", "version": 10, "written_by": {"framework": "golden"}, "opsets": {"ai.onnx": 21},
    }  # fmt: skip


def test_mutants(tmp_path: Path, fuzz: int) -> None:
    place = Path(shutil.copytree(GOLDEN, tmp_path / "golden")) / "model.onnx"
    survive(place, place, fuzz)
