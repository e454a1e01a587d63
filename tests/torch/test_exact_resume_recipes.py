"""Whatever a script is made of: killed anywhere and started again, it ends with the very bits of plain PyTorch."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_jobs import (
    ALL_POINTS,
    BATCHES,
    Job,
    backward,
    check_exact,
    folder_fixture,  # noqa: F401
    loader,
    network,
    normalised,
    one_thread,  # noqa: F401
    script_of,
    simple,
    validation,
)
from torch import nn
from torch.optim import lr_scheduler, swa_utils

import milepost

RECIPES: dict[str, Callable[[], Job]] = {}


def recipe(make: Callable[[], Job]) -> Callable[[], Job]:
    RECIPES[make.__name__] = make
    return make


@recipe
def sgd_momentum_dropout_step_lr() -> Job:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    scheduler = lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    return Job(
        {"model": model, "optimizer": optimizer, "scheduler": scheduler},
        simple(model, optimizer),
        validate=validation(model),
        after_epoch=lambda metrics: scheduler.step(),
    )


@recipe
def fused_adamw_batch_norm_one_cycle() -> Job:
    model = normalised()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=3 * BATCHES + 1)
    return Job(
        {"model": model, "optimizer": optimizer, "scheduler": scheduler},
        simple(model, optimizer),
        after_step=scheduler.step,
    )


@recipe
def foreach_adam_amsgrad_sequential_lr() -> Job:
    model = normalised()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, amsgrad=True, foreach=True)
    warmup = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=6)
    decay = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5)
    scheduler = lr_scheduler.SequentialLR(optimizer, [warmup, decay], milestones=[6])
    return Job(
        {"model": model, "optimizer": optimizer, "scheduler": scheduler},
        simple(model, optimizer),
        after_step=scheduler.step,
    )


@recipe
def nesterov_foreach_reduce_on_plateau() -> Job:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=True)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
    return Job(
        {"optimizer": optimizer, "scheduler": scheduler, "model": model},  # the order in which they are given is free
        simple(model, optimizer),
        validate=validation(model),
        after_epoch=lambda metrics: scheduler.step(metrics["val_loss"]),
    )


@recipe
def plateau_of_a_tensor() -> Job:
    model = network()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
    validate = validation(model)
    return Job(
        {"model": model, "optimizer": optimizer, "scheduler": scheduler},
        simple(model, optimizer),
        validate=lambda: {"val_loss": torch.tensor(validate()["val_loss"])},
        after_epoch=lambda metrics: scheduler.step(metrics["val_loss"]),
    )


@recipe
def chained_lambda_and_cyclic_lr() -> Job:
    class Decay:
        """A callable with a state of its own, which LambdaLR saves."""

        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, epoch: int) -> float:
            self.calls += 1
            return 0.97**self.calls

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    by_lambda = lr_scheduler.LambdaLR(optimizer, [Decay()])
    cyclic = lr_scheduler.CyclicLR(
        optimizer, 0.01, 0.1, step_size_up=4, cycle_momentum=True, mode="exp_range", gamma=0.9
    )
    return Job(
        {"model": model, "optimizer": optimizer, "cyclic": cyclic, "lambda": by_lambda},
        simple(model, optimizer),
        after_step=cyclic.step,
        after_epoch=lambda metrics: by_lambda.step(),
    )


def _lbfgs(line_search: str | None) -> Job:
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.2, max_iter=3, history_size=3, line_search_fn=line_search)

    def train(batch: Any) -> Any:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            return backward(model, batch)

        return optimizer.step(closure)

    return Job({"model": model, "optimizer": optimizer}, train)


@recipe
def lbfgs_closure() -> Job:
    return _lbfgs(None)


@recipe
def lbfgs_strong_wolfe() -> Job:
    return _lbfgs("strong_wolfe")


@recipe
def swa_averaged_model() -> Job:
    model = normalised()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    averaged = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True)
    scheduler = swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)

    def after_epoch(metrics: dict[str, Any]) -> None:
        scheduler.step()
        swa_utils.update_bn(loader(), averaged)

    return Job(
        {"model": model, "averaged": averaged, "optimizer": optimizer, "scheduler": scheduler},
        simple(model, optimizer),
        after_step=lambda: averaged.update_parameters(model),
        validate=validation(averaged),
        after_epoch=after_epoch,
    )


class Ema:
    """A moving average as many scripts write it."""

    def __init__(self, model: nn.Module, decay: float = 0.9) -> None:
        self.model, self.decay, self.updates = model, decay, 0
        self.shadow = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        for name, value in self.model.named_parameters():
            self.shadow[name].lerp_(value, 1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": self.shadow, "updates": self.updates, "decay": self.decay}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow, self.updates, self.decay = state["shadow"], state["updates"], state["decay"]


@recipe
def ema_by_hand() -> Job:
    model = network()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-2, momentum=0.9, centered=True)
    ema = Ema(model)
    return Job({"model": model, "optimizer": optimizer, "ema": ema}, simple(model, optimizer), after_step=ema.update)


@recipe
def two_optimizers_of_a_gan() -> Job:
    maker, judge = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
    for_maker = torch.optim.Adam(maker.parameters(), lr=1e-2, betas=(0.5, 0.999))
    for_judge = torch.optim.Adam(judge.parameters(), lr=1e-2, betas=(0.5, 0.999))
    bce = nn.functional.binary_cross_entropy_with_logits

    def train(batch: Any) -> torch.Tensor:
        real, _ = batch
        fake = maker(torch.randn(len(real), 4))
        for_judge.zero_grad()
        right, wrong = judge(real), judge(fake.detach())
        loss = bce(right, torch.ones_like(right)) + bce(wrong, torch.zeros_like(wrong))
        loss.backward()
        for_judge.step()
        for_maker.zero_grad()
        fooled = judge(fake)
        bce(fooled, torch.ones_like(fooled)).backward()
        for_maker.step()
        return loss.detach()

    items = {"maker": maker, "judge": judge, "for_maker": for_maker, "for_judge": for_judge}
    return Job(items, train)


def _scaled(dtype: torch.dtype, *, fused: bool) -> Job:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    # So large a scale overflows at first, and again after it has grown: steps are skipped now and then.
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=2.0**20, backoff_factor=0.125, growth_interval=3, growth_factor=2.0**8
    )

    def train(batch: Any) -> torch.Tensor:
        inputs, classes = batch
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            loss = nn.functional.cross_entropy(model(inputs), classes)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return Job({"model": model, "optimizer": optimizer, "scaler": scaler}, train)


@recipe
def grad_scaler_float16_that_skips() -> Job:
    return _scaled(torch.float16, fused=False)


@recipe
def grad_scaler_fused_that_skips() -> Job:
    return _scaled(torch.float16, fused=True)


@recipe
def grad_scaler_bfloat16() -> Job:
    return _scaled(torch.bfloat16, fused=False)


def _accumulating(*, call_per_batch: bool, rest: bool) -> Job:
    """Two micro-batches make a step; what is left at the end of an epoch makes one too, or (`rest`) goes into the next."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    numbered = [(*pair, number) for number, pair in enumerate(loader(shuffle=False))]

    def is_step(number: int) -> bool:
        return (number + 1) % 2 == 0 or (number + 1 == BATCHES and not rest)

    def train(batch: Any) -> torch.Tensor:
        loss = backward(model, batch)
        if is_step(batch[2]):
            optimizer.step()
            optimizer.zero_grad()
        return loss

    items = {"model": model, "optimizer": optimizer}
    return Job(items, train, data=numbered, steps_per_call=(lambda number: True) if call_per_batch else is_step)


@recipe
def accumulation_with_a_call_per_batch() -> Job:
    return _accumulating(call_per_batch=True, rest=False)


@recipe
def accumulation_with_a_call_per_step() -> Job:
    return _accumulating(call_per_batch=False, rest=False)


@recipe
def accumulation_across_epochs() -> Job:
    return _accumulating(call_per_batch=True, rest=True)


@recipe
def accumulation_across_epochs_with_a_call_per_step() -> Job:
    return _accumulating(call_per_batch=False, rest=True)


class Master(torch.optim.Optimizer):
    """Keeps its state, and a copy of the weights, in float32, whatever the weights are."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["master"] = weight.float().clone()
                    state["momentum"] = torch.zeros_like(state["master"])
                    state["history"] = []
                state["momentum"].mul_(0.9).add_(weight.grad.float())
                state["master"].sub_(state["momentum"], alpha=group["lr"])
                state["history"] = [*state["history"][-1:], state["momentum"].double().sum()]
                weight.copy_(state["master"])


@recipe
def float32_state_of_bfloat16_weights() -> Job:
    model = network().to(torch.bfloat16)
    optimizer = Master(model.parameters(), lr=0.05)
    step = simple(model, optimizer)
    return Job({"model": model, "optimizer": optimizer}, lambda batch: step((batch[0].to(torch.bfloat16), batch[1])))


@recipe
def channels_last() -> Job:
    model = nn.Sequential(nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    step = simple(model, optimizer)

    def train(batch: Any) -> torch.Tensor:
        inputs = batch[0].reshape(-1, 2, 2, 2).to(memory_format=torch.channels_last)
        return step((inputs, batch[1]))

    assert not model[0].weight.is_contiguous()
    return Job({"model": model, "optimizer": optimizer}, train)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.again = nn.Linear(8, 8, bias=False)
        self.again.weight = self.inner.weight
        self.head = nn.Linear(8, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.head(self.again(torch.tanh(self.inner(inputs))))


@recipe
def tied_and_frozen() -> Job:
    model = Tied()
    model.head.weight.requires_grad_(False)
    optimizer = torch.optim.NAdam([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    return Job({"model": model, "optimizer": optimizer}, simple(model, optimizer))


@recipe
def generators_as_items() -> Job:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    noise, numbers = torch.Generator().manual_seed(5), np.random.default_rng(6)
    old, dice = np.random.RandomState(7), random.Random(8)
    order = torch.Generator().manual_seed(9)  # shuffles the data too
    step = simple(model, optimizer)

    def train(batch: Any) -> torch.Tensor:
        inputs, classes = batch
        shift = numbers.normal() + old.normal() + dice.gauss() + np.random.normal() + random.random()
        return step((inputs + torch.randn(inputs.shape, generator=noise) + shift, classes))

    items = {"model": model, "optimizer": optimizer, "noise": noise, "numbers": numbers, "dice": dice, "order": order}
    return Job({**items, "old": Shell(old)}, train, data=loader(generator=order))


class Shell:
    """Something with a state of its own around a generator."""

    def __init__(self, generator: np.random.RandomState) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, Any]:
        return self.generator.get_state(legacy=False)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state)


@recipe
def learning_rate_in_a_tensor() -> Job:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-2), fused=True)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.9)
    items = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    return Job(items, simple(model, optimizer), after_step=scheduler.step)


@recipe
def several_groups() -> Job:
    model = normalised()
    decayed = [one for one in model.parameters() if one.ndim > 1]
    others = [one for one in model.parameters() if one.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "lr": 1e-2, "name": "decayed"}, {"params": others, "weight_decay": 0.0}], lr=1e-3
    )
    return Job({"model": model, "optimizer": optimizer}, simple(model, optimizer))


def _other(kind: str, **options: Any) -> Callable[[], Job]:
    def make() -> Job:
        model = network()
        optimizer = getattr(torch.optim, kind)(model.parameters(), **options)
        return Job({"model": model, "optimizer": optimizer}, simple(model, optimizer))

    return make


OTHERS = {
    "Adadelta": {}, "Adafactor": {}, "Adamax": {"foreach": True}, "ASGD": {"t0": 2}, "RAdam": {"decoupled_weight_decay": True},
    "Rprop": {}, "RMSprop": {}, "Adam": {"fused": True, "amsgrad": True}, "SGD": {"fused": True, "momentum": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_killed_and_started_again_it_ends_the_same(name: str, folder: Path) -> None:
    check_exact(script_of(RECIPES[name]), folder)


ANYWHERE = ["sgd_momentum_dropout_step_lr", "swa_averaged_model", "lbfgs_closure", "accumulation_across_epochs"]


@pytest.mark.parametrize("name", ANYWHERE)
def test_killed_anywhere_and_saved_at_every_step(name: str, folder: Path) -> None:
    check_exact(script_of(RECIPES[name]), folder, ALL_POINTS, every=milepost.Every(steps=1))


@pytest.mark.parametrize("name", RECIPES)
def test_staged_by_copy_it_ends_the_same(name: str, folder: Path) -> None:
    check_exact(script_of(RECIPES[name]), folder, [("trained", BATCHES + 3)], stage="copy")


@pytest.mark.parametrize("kind", OTHERS)
def test_other_optimizers(kind: str, folder: Path) -> None:
    check_exact(script_of(_other(kind, **OTHERS[kind])), folder, [("trained", 6), ("looped", 2)])
