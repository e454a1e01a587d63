"""``model.fit`` goes on from any batch with the same numbers, on three backends. `make test-keras` tries one thing at a time."""

from __future__ import annotations

from functools import cache

import matrix
import pytest

SHORT = ("arrays", "kept_pass", "unknown_length", "pydataset")
"""Settings that combine those of the matrix."""


@cache
def short(backend: str) -> list[matrix.Result]:
    return matrix.results(backend, SHORT, 600)


@pytest.mark.parametrize("setting", SHORT)
@pytest.mark.parametrize("backend", matrix.BACKENDS)
def test_a_fit_that_goes_on_is_the_same_as_one_that_was_never_interrupted(backend: str, setting: str) -> None:
    found = {one.moment: one.problem for one in short(backend) if one.setting == setting}
    assert {"uninterrupted", "first", "before the last", "last"} <= found.keys(), found
    assert not any(found.values()), found
