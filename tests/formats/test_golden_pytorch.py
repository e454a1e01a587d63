"""Files that PyTorch and numpy wrote are read now as they were then, and of files that are a little wrong come errors only."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from mutants import survive

import milepost

GOLDEN = Path(__file__).parent / "golden" / "pytorch"
FILES = ["zip.pt", "legacy.pt", "script.pt", "arrays.npz", "plain.pkl", "text.pkl"]


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt"])
def test_a_state_in_both_forms(name: str) -> None:
    source = milepost.open(GOLDEN / name)
    np.testing.assert_array_equal(source["model/weight"], np.arange(6.0).reshape(2, 3).T)
    assert source["model/half"].dtype.name == "bfloat16"
    assert source["model/count"] == 5
    np.testing.assert_array_equal(source["sparse~indices"], [[0, 1], [0, 1]])
    plain = source.plain
    assert (plain["epoch"], plain["lr/0"], plain["lr/1"], plain["scalar"], plain["names"]) == (
        3,
        0.5,
        None,
        2.0,
        {"a", "b"},
    )


def test_the_others() -> None:
    assert list(milepost.open(GOLDEN / "script.pt")) == ["weight", "bias"]
    np.testing.assert_array_equal(milepost.open(GOLDEN / "arrays.npz")["a"], np.arange(6.0).reshape(2, 3))
    assert milepost.open(GOLDEN / "plain.pkl")["t"].tolist() == [0, 1, 2]
    assert milepost.open(GOLDEN / "text.pkl").plain["b/2"] == "x"
    assert milepost.open(GOLDEN / "distributed").metadata["step"] == 5


@pytest.mark.parametrize("name", FILES)
def test_mutants(tmp_path: Path, fuzz: int, name: str) -> None:
    shutil.copy(GOLDEN / name, tmp_path / name)
    survive(tmp_path / name, tmp_path / name, fuzz)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_mutants_of_folders(tmp_path: Path, fuzz: int, name: str) -> None:
    shutil.copytree(GOLDEN / "distributed", tmp_path / "d")
    survive(tmp_path / "d", tmp_path / "d" / name, fuzz)
