"""``model.fit`` goes on from any batch with the same numbers, on three backends; `make test-keras` tries more."""

from __future__ import annotations

import matrix
import pytest

SHORT = {
    "tensorflow": ("arrays", "kept_pass", "unknown_length", "pydataset_workers", "dataloader"),
    "jax": ("arrays", "pydataset_workers", "dataloader"),
    "torch": ("arrays", "kept_pass", "pydataset", "dataloader"),
}
"""Settings of the matrix, and some that combine them."""


@pytest.mark.parametrize("backend", SHORT)
def test_a_fit_that_goes_on_is_the_same_as_one_that_was_never_interrupted(backend: str) -> None:
    found = matrix.results(backend, SHORT[backend], 1800, short=True)
    for setting in SHORT[backend]:
        moments = {one.moment for one in found if one.setting == setting}
        assert {"uninterrupted", "last", "last of epoch 1", "validation"} <= moments
    assert [one for one in found if one.problem] == []
