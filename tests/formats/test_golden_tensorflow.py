"""Small files that TensorFlow wrote once: their values, and what becomes of them when bytes change."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from mutants import survive

import milepost
from milepost.formats import sstable
from milepost.formats.crc32c import crc32c
from milepost.formats.protobuf import varint

GOLDEN = Path(__file__).parent / "golden" / "tensorflow"


def test_values() -> None:
    source = milepost.open(GOLDEN / "objects")
    np.testing.assert_array_equal(source["model/kernel"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert source["model/half"].astype(float).tolist() == [1.5, -2.0]
    assert source.plain == {"model/words": [["one", "two"], ["", "four"]]}
    assert source.metadata["step"] == 5
    source = milepost.open(GOLDEN / "named")
    np.testing.assert_array_equal(source["table"], np.ones((5, 2), np.float32))
    np.testing.assert_array_equal(source["dense/bias"], np.arange(3, dtype=np.float32))
    source = milepost.open(GOLDEN / "saved")
    assert source.plain == {
        "signatures/serving_default/inputs/x": "float32 (?, 2)",
        "signatures/serving_default/outputs/y": "float32 (?, 3)",
        "words": [["one", "two"], ["", "four"]],
    }


def with_checksums(table: bytes) -> bytes:
    """`table` with the checksum of each block put right, as far as its footer and index still say where they are."""
    out = bytearray(table)

    def handles(data: bytes, at: int) -> tuple[int, int, int]:
        offset, at = varint(data, at)
        size, at = varint(data, at)
        return offset, size, at

    def mend(offset: int, size: int) -> None:
        if offset + size + 5 <= len(out):
            crc = crc32c(out[offset : offset + size + 1])
            masked = (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF
            out[offset + size + 1 : offset + size + 5] = masked.to_bytes(4, "little")

    try:
        footer = bytes(out[-sstable.FOOTER :])
        _, _, at = handles(footer, 0)
        offset, size, _ = handles(footer, at)
        for _, where in sstable._in_block(bytes(out[offset : offset + size]), ""):
            start, length, _ = handles(where, 0)
            mend(start, length)
        mend(offset, size)
    except Exception:
        return bytes(out)  # damaged where the blocks are named: that is one more way to be damaged
    return bytes(out)


@pytest.mark.parametrize("mended", [False, True])
@pytest.mark.parametrize("file", ["objects.index", "named.index", "objects.data-00000-of-00001"])
def test_mutants_of_bundles(tmp_path: Path, fuzz: int, file: str, mended: bool) -> None:
    place = Path(shutil.copytree(GOLDEN, tmp_path / "golden"))
    mend = with_checksums if mended and file.endswith("index") else bytes
    survive(place / file, place / file, fuzz, mend)


def test_mutants_of_saved_models(tmp_path: Path, fuzz: int) -> None:
    place = Path(shutil.copytree(GOLDEN, tmp_path / "golden"))
    survive(place / "saved", place / "saved" / "saved_model.pb", fuzz)


def test_mutants_of_the_list_of_checkpoints(tmp_path: Path, fuzz: int) -> None:
    place = Path(shutil.copytree(GOLDEN, tmp_path / "golden"))
    state = place / "checkpoint"
    state.write_text('model_checkpoint_path: "n\\141med"\nall_model_checkpoint_paths: "objects"\n')
    assert "table" in milepost.open(place)
    survive(place, state, fuzz)
