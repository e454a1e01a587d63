"""Differences are those of numpy in float64, between any two formats and under other names."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import milepost
from milepost.errors import NotFoundError, ScriptError
from milepost.ops.distance import PIECE, distance
from milepost.ops.renaming import rename, suggest

KINDS = st.sampled_from(
    [np.dtype(name) for name in ("float32", "float64", "float16", "int64", "uint8", "bool", "complex64")]
)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Two arrays of one length that have much in common."""
    size = draw(st.integers(0, 40))
    a = draw(hnp.arrays(draw(KINDS), size))
    b = draw(st.sampled_from([a.copy(), draw(hnp.arrays(draw(KINDS), size))]))
    at = draw(st.integers(0, size))
    if a.dtype == b.dtype:
        b[:at] = a[:at]
    return a, b


@given(pairs(), st.integers(1, 40), st.integers(1, 40))
def test_any_two(pair: tuple[npt.NDArray[Any], npt.NDArray[Any]], step: int, other_step: int) -> None:
    a, b = pair
    if (a.dtype.kind == "c") != (b.dtype.kind == "c"):
        return
    in_a = (a[at : at + step] for at in range(0, a.size, step))
    in_b = (b[at : at + other_step] for at in range(0, b.size, other_step))
    found = distance(in_a, in_b)
    one, other = (array.view(np.float32) if array.dtype.kind == "c" else array for array in (a, b))
    one, other = one.astype(np.longdouble), other.astype(np.longdouble)
    finite = np.isfinite(one) & np.isfinite(other)
    nans = np.isnan(one) & np.isnan(other)
    assert found.nans == np.count_nonzero(nans)
    assert found.unequal == np.count_nonzero((one != other) & ~nans) == found.beyond
    assert found.lone == np.count_nonzero((one != other) & ~nans & ~finite)
    one, other = one[finite], other[finite]
    apart = other - one
    norm = np.sqrt((one * one).sum())
    assert found.max_abs == (pytest.approx(float(np.abs(apart).max()), rel=1e-12) if apart.size else 0)
    if norm:
        assert found.relative_l2 == pytest.approx(float(np.sqrt((apart * apart).sum()) / norm), rel=1e-9)
    if norm and (theirs := np.sqrt((other * other).sum())):
        assert found.cosine == pytest.approx(float((one / norm * (other / theirs)).sum()), abs=1e-9)


def test_tolerance_is_numpys() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal(2 * PIECE + 3)
    b = a * (1 + 1e-3 * rng.standard_normal(a.size))
    found = distance([a], [b], atol=1e-4, rtol=1e-3)
    assert found.beyond == np.count_nonzero(~np.isclose(b, a, atol=1e-4, rtol=1e-3))
    assert 0 < found.beyond < found.unequal == np.count_nonzero(a != b)


def test_whole_numbers_that_no_float_tells_apart() -> None:
    found = distance([np.array([2**62 + 1])], [np.array([2**62])])
    assert (found.unequal, found.max_abs) == (1, 1)


# -- checkpoints ------------------------------------------------------------------------------------------------------
STATE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3), "half": np.ones(2, ml_dtypes.bfloat16)}


@pytest.fixture
def run(start_job: Callable[..., Any]) -> str:
    job = start_job()
    job.save(1, {"model": STATE, "vars": {"lr": 0.1, "loss": math.nan}})
    changed = STATE | {"w": STATE["w"] + 0.5, "b": np.ones(4)}
    job.save(2, {"model": changed, "vars": {"lr": 0.2, "loss": math.nan, "new": "x"}})
    return str(job.run.where)


def verdicts(found: milepost.Diff) -> dict[str, str]:
    return {one.path: one.verdict for one in found.everything}


def test_two_checkpoints(run: str) -> None:
    found = milepost.diff(f"{run}@step=1", f"{run}@step=2")
    assert verdicts(found) == {
        "model/w": "changed", "model/b": "shape", "model/half": "same",
        "vars/lr": "changed", "vars/loss": "same", "vars/new": "added",
    }  # fmt: skip
    assert not found.same
    assert found.tensors[0].distance is not None
    assert found.tensors[0].distance.max_abs == 0.5
    assert found.tensors[2].digests  # it was not read
    text = str(found)
    assert "~  model/b" in text
    assert "model/half" not in text
    assert (
        text.splitlines()[-1] == "3 tensors: 1 changed, 1 reshaped, 1 same; 3 plain values: 1 changed, 1 same, 1 added"
    )


def test_one_with_itself_is_the_same(run: str) -> None:
    found = milepost.diff(run, milepost.open(run))
    assert found.same
    assert found.changed == []


def test_with_another_format_under_other_names(run: str, tmp_path: Path) -> None:
    other = {"net/w": STATE["w"].astype(np.float64), "net/b": STATE["b"], "net/half": np.ones(2, np.float32)}
    np.savez(tmp_path / "x.npz", **other)
    names = {"model/": "net/", "vrs/": ""}
    found = milepost.diff(f"{run}@step=1", tmp_path / "x.npz", ["net/*"], rename=names)
    assert verdicts(found) == {"net/w": "dtype", "net/b": "same", "net/half": "dtype"}
    assert found.unmatched == ("vrs/",)
    assert found.tensors[0].old == "model/w"
    assert milepost.diff(f"{run}@step=1", tmp_path / "x.npz", ["net"], rename={"model": "net"}, atol=1e-9).same


def test_a_tolerance_holds_for_plain_numbers_too(run: str) -> None:
    one, other = f"{run}@step=1", f"{run}@step=2"
    assert verdicts(milepost.diff(one, other, ["vars/lr"], atol=0.2)) == {"vars/lr": "same"}
    assert verdicts(milepost.diff(one, other, ["vars/lr"], atol=0.05)) == {"vars/lr": "changed"}


def test_nan_at_the_same_place_is_equal(tmp_path: Path) -> None:
    a = np.array([np.nan, 1, np.inf, 2])
    np.savez(tmp_path / "a.npz", x=a, y=a, z=a)
    np.savez(tmp_path / "b.npz", x=a, y=a + np.array([0, 1e-3, 0, 0]), z=[np.nan, np.nan, np.inf, 2])
    found = milepost.diff(tmp_path / "a.npz", tmp_path / "b.npz")
    assert verdicts(found) == {"x": "same", "y": "changed", "z": "changed"}
    assert [(one.distance.nans, one.distance.lone) for one in found.tensors if one.distance] == [(1, 0), (1, 0), (1, 1)]
    assert "1 with NaN or infinity in one only" in str(found)


def test_nothing_at_a_path(run: str) -> None:
    with pytest.raises(NotFoundError, match="model/x"):
        milepost.diff(run, run, ["model/x"])


# -- names ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        (("model/", "net/"), "model/w", "net/w"), (("fc1", "dense"), "fc1.weight", "dense.weight"),
        (("fc1", "dense"), "fc10.weight", "fc10.weight"), (("", "net/"), "w", "net/w"), (("net/", ""), "net/w", "w"),
        (("m/*.weight", "n/*/kernel"), "m/a.0.weight", "n/a.0/kernel"), (("*/a", "b"), "x/a", "b"),
        (("layer?/w", "l/w"), "layer1/w", "l/w"),
    ],
)  # fmt: skip
def test_rules(rule: tuple[str, str], old: str, new: str) -> None:
    assert rename([old], dict([rule])).names == {new: old}


def test_rules_that_cannot_be() -> None:
    with pytest.raises(ScriptError, match="one name"):
        rename(["a/x", "b/x"], {"a/": "", "b/": ""})
    with pytest.raises(ScriptError, match=r"number of \*"):
        rename(["a"], {"a*": "*b*"})


def test_a_rule_is_suggested() -> None:
    assert suggest(["model/a", "model/b", "opt/c"], ["a", "b"]) == "model/="
    assert suggest(["a", "b"], ["net/a", "net/b"]) == "=net/"
    assert suggest(["model/a"], ["net/a"]) == "model/=net/"
    assert suggest(["a"], ["b"]) is None
