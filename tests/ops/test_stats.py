"""Statistics are those of numpy in float64, of any type, however large and far from one the numbers are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

import milepost
from milepost.core import dtypes
from milepost.errors import DamagedError, NotFoundError, ScriptError
from milepost.ops.numbers import as_floats
from milepost.ops.stats import PIECE, Gathered, Numbers, layer_of

FLOATS = [np.dtype("float32"), np.dtype("float64"), np.dtype("float16")]
WHOLE = [np.dtype(name) for name in ("int8", "uint8", "int16", "int32", "int64", "uint64", "bool")]


def found_in(*blocks: npt.NDArray[Any]) -> Numbers:
    gathered = Gathered()
    for block in blocks:
        gathered.add(block.reshape(-1))
    return gathered.numbers("x")


def close(found: float | None, expected: float, scale: float) -> bool:
    """Within what float64 can be asked for, with `scale` the size of what was added up."""
    return found is not None and math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12 * scale)


def check(found: Numbers, array: npt.NDArray[Any]) -> None:
    with np.errstate(invalid="ignore"):  # of NaN that signals
        whole = array.astype(np.longdouble).reshape(-1)
    finite = whole[np.isfinite(whole)]
    assert found.count == array.size
    assert found.nans == np.count_nonzero(np.isnan(whole))
    assert found.infs == np.count_nonzero(np.isinf(whole))
    assert found.zeros == np.count_nonzero(whole == 0)
    if not finite.size:
        assert (found.least, found.greatest, found.mean, found.std, found.norm) == (None,) * 5
        return
    largest = float(np.abs(finite).max())
    assert (found.least, found.greatest) == (finite.min(), finite.max())
    assert close(found.mean, float(finite.mean()), largest)
    assert close(found.std, float(finite.std()), largest)
    assert close(found.norm, float(np.sqrt((finite * finite).sum())), largest)
    rounded = finite.astype(np.float64) if array.dtype.kind in "iu" else finite  # beyond 2**53
    exponents = np.frexp(rounded[rounded != 0])[1] - 1
    assert found.log2 == {int(e): int(np.count_nonzero(exponents == e)) for e in sorted(set(exponents.tolist()))}


@given(
    st.sampled_from(FLOATS + WHOLE).flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_side=0, max_side=30)))
)
def test_any_numbers(array: npt.NDArray[Any]) -> None:
    check(found_in(array), array)


@given(hnp.arrays(np.float64, st.integers(1, 40)), st.integers(0, 40))
def test_in_how_many_blocks_they_come_makes_no_difference(array: npt.NDArray[Any], at: int) -> None:
    check(found_in(array[:at], array[at:]), array)
    merged, rest = Gathered(), Gathered()
    merged.add(array[:at])
    rest.add(array[at:])
    merged.merge(rest)
    check(merged.numbers("x"), array)


@pytest.mark.parametrize("scale", [1e-42, 1.0, 1e38])
def test_many_elements(scale: float) -> None:
    array = (np.random.default_rng(0).random(3 * PIECE + 5) * scale).astype(np.float32)
    array[7::1000] = 0
    array[PIECE + 1] = np.nan
    check(found_in(array), array)


@pytest.mark.parametrize(
    "kind", [kind for kind in dtypes.TABLE.values() if kind.numpy is not None], ids=lambda kind: kind.name
)
def test_every_type(kind: dtypes.DType) -> None:
    numpy: Any = kind.numpy
    if numpy.kind == "c":
        array = np.array([3 + 4j, 0, complex(np.nan, 1)], numpy)
        check(found_in(array), np.abs(array))
        return
    every = np.arange(256, dtype=np.uint8)
    array = every.view(numpy) if numpy.itemsize <= 2 and kind.name != "bool" else every.astype(numpy)
    check(found_in(array), array.astype(np.float32))
    assert as_floats(array).dtype in (np.float32, np.float64)


def test_whole_numbers_that_no_float_is() -> None:
    found = found_in(np.array([2**63 - 1, -(2**63) + 1], np.int64))
    assert (found.least, found.greatest) == (-(2**63) + 1, 2**63 - 1)


def test_a_mean_far_from_zero_leaves_the_deviation_exact() -> None:
    array = np.full(1 << 17, 1e8, np.float64)
    array[::2] += 1e-3
    assert found_in(array).std == pytest.approx(float(array.std()), rel=1e-6)


@pytest.mark.parametrize(
    ("path", "layer"),
    [
        ("model/block.0.attn.weight", "model/block.0.attn"), ("params/Dense_0/kernel", "params/Dense_0"),
        ("layers/dense/vars/0", "layers/dense"), ("fc.weight", "fc"), ("bias", "bias"),
    ],
)  # fmt: skip
def test_layers(path: str, layer: str) -> None:
    assert layer_of(path) == layer


@pytest.fixture
def where(start_job: Callable[..., Any]) -> str:
    job = start_job()
    rng = np.random.default_rng(0)
    fc = {"fc.weight": rng.standard_normal((700, 500), np.float32), "fc.bias": np.zeros(500, np.float32)}
    job.save(1, {"model": fc | {"half": np.ones(3, ml_dtypes.bfloat16)}, "vars": {"patience": 3}})
    return str(job.run.where)


def test_of_a_checkpoint(where: str) -> None:
    found = milepost.stats(where)
    assert [one.path for one in found.tensors] == ["model/fc.weight", "model/fc.bias", "model/half"]
    weight, layer = found["model/fc.weight"], found["model/fc"]
    array = milepost.open(where)["model/fc.weight"]
    check(weight, array)
    assert (weight.dtype, weight.shape, layer.count, layer.zeros) == ("float32", (700, 500), 350_500, 500)
    assert layer.norm == pytest.approx(weight.norm)
    assert str(found).splitlines()[1].split()[:4] == ["PATH", "TYPE", "SHAPE", "MIN"]


def test_bins_are_those_of_numpy(where: str) -> None:
    (found,) = milepost.stats(where, ["*.weight"], bins=13).tensors
    array = milepost.open(where)["model/fc.weight"]
    assert found.bins == tuple(np.histogram(array, 13)[0])


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ([1.7e308, -1.7e308, 0.0, math.nan], (1, 1, 1)), ([5e-324, 1e-320, 0.0], (2, 0, 1)), ([3.0, 3.0], (2, 0, 0)),
        ([1.0, 1.0 + 2**-52, 1.0 + 2**-51], (1, 1, 1)), ([math.inf], (0, 0, 0)), ([], (0, 0, 0)), ([-3, 0, 3], (1, 1, 1)),
    ],
)  # fmt: skip
def test_bins_of_any_range(values: list[float], counts: tuple[int, ...], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array(values))
    assert milepost.stats(tmp_path / "x.npz", bins=3).tensors[0].bins == counts


def test_what_cannot_be_asked(where: str) -> None:
    with pytest.raises(NotFoundError, match=r"nothing fits '\*\.wieght'"):
        milepost.stats(where, ["*.wieght"])
    with pytest.raises(NotFoundError, match="is a plain value"):
        milepost.stats(where, ["vars/patience"])
    with pytest.raises(ScriptError, match="bins"):
        milepost.stats(where, bins=0)


def test_damage_is_seen_at_the_last_block(where: str) -> None:
    (file,) = Path(where).glob("step-*/model.safetensors")
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedError, match="not what was saved"):
        milepost.stats(where)


def test_types_without_numbers_are_skipped_and_said(start_job: Callable[..., Any]) -> None:
    job = start_job()
    file = Path(job.run.where) / "f4.safetensors"
    save_file({"packed": torch.zeros(4, dtype=torch.float4_e2m1fn_x2), "w": torch.ones(2)}, file)
    found = milepost.stats(file)
    assert [one.path for one in found.tensors] == ["w"]
    assert found.skipped == (("packed", "float4_e2m1fn_x2 is read as bytes"),)
