"""What the comparison of exact resumes is worth: broken on purpose, it has to fail."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from exact_jobs import (
    ALL_POINTS,
    check_exact,
    folder_fixture,  # noqa: F401
    one_thread,  # noqa: F401
    script_of,
)
from test_exact_resume_loops import SCRIPTS
from test_exact_resume_recipes import RECIPES

from milepost.errors import LoaderError, MilepostWarning
from milepost.torch.items import ModuleItem, OptimizerItem
from milepost.torch.loader import MapFeed
from milepost.training.items import StatefulItem
from milepost.training.rng import GlobalRng
from milepost.training.session import Session


def _no_rng(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GlobalRng, "restore", lambda self, saved: [])


def _rng_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "arrived", lambda self: setattr(self._arrival, "_pending", None))


def _plain_optimizer(patch: pytest.MonkeyPatch) -> None:
    def restore(self: OptimizerItem, saved: Any) -> None:
        self.object.load_state_dict(saved.value())

    patch.setattr(OptimizerItem, "restore", restore)


def _no_optimizer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OptimizerItem, "restore", lambda self, saved: None)


def _no_buffers(patch: pytest.MonkeyPatch) -> None:
    def restore(self: ModuleItem, saved: Any) -> None:
        state = {name: value for name, value in saved.value().items() if "running" not in name}
        self.object.load_state_dict(state, strict=False)

    patch.setattr(ModuleItem, "restore", restore)


def _no_scheduler(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StatefulItem, "restore", lambda self, saved: None)


def _one_batch_off(patch: pytest.MonkeyPatch) -> None:
    real = MapFeed.position
    patch.setattr(MapFeed, "position", lambda self, done: real(self, done - 1 if done > 1 else done))


def _no_gradients(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "_own_state", _without(Session._own_state, "gradients"))


def _without(real: Any, name: str) -> Any:
    return lambda self, data: {**real(self, data), name: {}}


BROKEN = {
    "random state is not restored": (_no_rng, "sgd_momentum_dropout_step_lr"),
    "it is restored too early": (_rng_too_early, "random_numbers_on_the_way"),
    "optimizer state takes the dtype of the weights": (_plain_optimizer, "float32_state_of_bfloat16_weights"),
    "optimizer state is not restored": (_no_optimizer, "fused_adamw_batch_norm_one_cycle"),
    "running statistics are not restored": (_no_buffers, "fused_adamw_batch_norm_one_cycle"),
    "schedulers are not restored": (_no_scheduler, "fused_adamw_batch_norm_one_cycle"),
    "a batch is trained on twice": (_one_batch_off, "sgd_momentum_dropout_step_lr"),
    "gathered gradients are lost": (_no_gradients, "accumulation_across_epochs"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_seen(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks, recipe = BROKEN[name]
    breaks(monkeypatch)
    script = script_of(RECIPES[recipe]) if recipe in RECIPES else SCRIPTS[recipe][0]
    # The comparison of traces warns of these as well; here it is this comparison that has to fail.
    warnings.simplefilter("ignore", MilepostWarning)
    with pytest.raises((AssertionError, LoaderError)):
        check_exact(script, folder, ALL_POINTS)
