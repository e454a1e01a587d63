"""``model.fit`` goes on from any batch with the same numbers, on three backends; `make test-keras` tries more."""

from __future__ import annotations

import matrix
import pytest

SHORT = {
    "tensorflow": ("arrays", "kept_pass", "unknown_length"),
    "jax": ("arrays", "kept_pass"),
    "torch": ("arrays", "kept_pass", "pydataset"),
}
"""Settings that combine those of the matrix."""


@pytest.mark.parametrize("backend", SHORT)
def test_a_fit_that_goes_on_is_the_same_as_one_that_was_never_interrupted(backend: str) -> None:
    found = matrix.results(backend, SHORT[backend], 900)
    for setting in SHORT[backend]:
        assert {"uninterrupted", "before the last", "last"} <= {one.moment for one in found if one.setting == setting}
    assert [one for one in found if one.problem] == []
