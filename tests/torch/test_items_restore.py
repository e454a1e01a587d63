"""What a restore does to live modules, optimizers and other objects: everything as it was, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_jobs import (
    check_same,
    facts,
    folder_fixture,  # noqa: F401
    network,
    normalised,
    one_thread,  # noqa: F401
)
from torch import nn

import milepost
from milepost.errors import MismatchError, NotStorableError


def saved(folder: Path, **items: Any) -> dict[str, Any]:
    """A run with one checkpoint of `items` at step 1; returns what was in them."""
    with milepost.Checkpointer(folder, **items, progress=False) as run:
        run.step(step=1, **{name: item for name, item in items.items() if isinstance(item, np.ndarray)})
    return facts(items)


def restored(folder: Path, **items: Any) -> milepost.Checkpointer:
    return milepost.Checkpointer(folder, **items, progress=False)


def fill(module: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return module


class KeepsAnything(torch.optim.Optimizer):
    """State of every shape, dtype and nesting, whatever the parameters are."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                shape = parameter.shape
                self.state[parameter] = {
                    "step": torch.tensor(3.0, dtype=torch.float64),
                    "full": torch.randn(shape, dtype=torch.float32),
                    "column": torch.randn(shape[::-1]).t(),
                    "halves": [torch.randn(2, dtype=torch.float64), (torch.randn(1), None, "text")],
                    "nested": {"deep": torch.randn(3, dtype=torch.complex64), "count": 5},
                    "scale": torch.ones((), dtype=torch.float8_e5m2),
                    "mask": torch.tensor([True, False]),
                    "nothing": torch.empty(0),
                }


@pytest.mark.filterwarnings("ignore:Casting complex values to real")  # by torch, and undone
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_optimizer_state_comes_back_with_its_own_dtype_and_strides(dtype: torch.dtype, folder: Path) -> None:
    model = nn.Linear(4, 3).to(dtype)
    optimizer = KeepsAnything(model.parameters())
    optimizer.step()
    right = saved(folder, model=model, optimizer=optimizer)
    model = nn.Linear(4, 3).to(dtype)
    optimizer = KeepsAnything(model.parameters())
    with restored(folder, model=model, optimizer=optimizer):
        check_same(facts({"model": model, "optimizer": optimizer}), right)
        assert optimizer.state[model.weight]["full"].dtype == torch.float32
        assert not optimizer.state[model.weight]["column"].is_contiguous()


def test_what_is_restored_has_memory_of_its_own(folder: Path) -> None:
    model = normalised()
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved(folder, model=model, optimizer=optimizer)
    model = normalised()
    optimizer = torch.optim.AdamW(model.parameters())
    with restored(folder, model=model, optimizer=optimizer) as run:
        right = facts({"model": model, "optimizer": optimizer})
        tensors = [*model.state_dict().values()]
        tensors += [value for state in optimizer.state.values() for value in state.values()]
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)
        # The memory that the checkpoint was read into is written over by the next save of something else.
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        run.save()
        run.wait()
        check_same(facts({"model": model, "optimizer": optimizer}), right)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_live_objects_stay_the_same_objects(folder: Path) -> None:
    right = saved(folder, model=fill(nn.Linear(3, 2), 1))
    model = nn.Linear(3, 2)
    weight, address = model.weight, model.weight.data_ptr()
    with restored(folder, model=model) as run:
        assert run["model"] is model
        assert model.weight is weight
        assert weight.data_ptr() == address
        check_same(facts({"model": model}), right)


def test_tied_weights_are_stored_once_and_stay_tied(folder: Path) -> None:
    def made(seed: int) -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        return fill(model, seed)

    right = saved(folder, model=made(1))
    model = made(2)
    with restored(folder, model=model):
        check_same(facts({"model": model}), right)
        assert model[1].weight is model[0].weight
    source = milepost.open(folder)
    file = source.manifest.files["model.safetensors"]
    assert file.size < 4096 + 2 * 4 * 4 * 4  # a header, one weight and two biases


class Extra(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.value = value

    def get_extra_state(self) -> Any:
        return self.value

    def set_extra_state(self, state: Any) -> None:
        self.value = state


@pytest.mark.parametrize("value", [torch.arange(6.0), {"history": [torch.ones(2), 1.5], "name": "x"}, 3])
def test_extra_state(value: Any, folder: Path) -> None:
    right = saved(folder, model=fill(Extra(value), 1))
    model = fill(Extra(None), 2)
    with restored(folder, model=model) as run:
        check_same(facts({"model": model}), right)
        fill(model.inner, 3)
        run.step()
        run.save()
        run.wait()
        assert facts(model.value) == facts(value)


def test_buffers_with_infinities_do_not_make_a_checkpoint_bad(folder: Path) -> None:
    def made() -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_buffer("mask", torch.full((2, 2), float("-inf")))
        return model

    saved(folder, model=made())
    with restored(folder, model=made()) as run:
        assert run.resumed_from == "step-00000001"


@pytest.mark.parametrize("which", ["model", "optimizer", "ema"])
def test_nan_in_what_is_trained_makes_a_checkpoint_bad(
    which: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made() -> dict[str, Any]:
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
        return {"model": model, "optimizer": optimizer, "ema": torch.optim.swa_utils.AveragedModel(model)}

    items = made()
    with milepost.Checkpointer(folder, **items, progress=False) as run:
        for _ in range(2):
            items["model"](torch.ones(1, 2)).sum().backward()
            items["optimizer"].step()
            run.step()
            run.save()
            run.wait()
            broken = {
                "model": items["model"].weight.data,
                "ema": items["ema"].module.weight.data,
                "optimizer": items["optimizer"].state[items["model"].weight]["momentum_buffer"],
            }
            broken[which][0, 0] = float("nan")
    said = capsys.readouterr().err
    assert said.count("is not good: NaN or infinity in") == 1
    assert "step 2 is saved, but" in said
    with restored(folder, **made()) as run:
        assert run.resumed_from == "step-00000001"
        ((folder_name, why),) = run.resume_report.passed_over
        assert folder_name == "step-00000002"
        assert which in why
        assert "NaN" in why


# -- nothing at all ------------------------------------------------------------------------------------------------------


def test_all_differences_are_listed_at_once_and_nothing_is_changed(folder: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    gone, constant = nn.Linear(2, 2), np.zeros(3)
    saved(folder, model=model, optimizer=optimizer, gone=gone, constant=constant)
    other = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 2).double(), nn.Linear(2, 2))
    items = {
        "model": other,
        "optimizer": torch.optim.AdamW(other[0].parameters()),
        "new": nn.Linear(1, 1),
        "constant": np.zeros(4, np.float32),
    }
    before, random_before = facts(items), torch.get_rng_state()
    with pytest.raises(MismatchError) as caught:
        restored(folder, **items)
    rows = {row.path: (row.saved, row.here) for row in caught.value.rows}
    assert rows == {
        "gone": ("an item", "not given to Checkpointer"),
        "model/0.weight": ("float32 [8, 4]", "float32 [6, 4]"),
        "model/0.bias": ("float32 [8]", "float32 [6]"),
        "model/1.weight": ("float32 [8]", "nothing"),
        "model/1.bias": ("float32 [8]", "nothing"),
        "model/1.running_mean": ("float32 [8]", "float32 [6]"),
        "model/1.running_var": ("float32 [8]", "float32 [6]"),
        "model/2.weight": ("float32 [2, 8]", "float64 [2, 6]"),
        "model/2.bias": ("float32 [2]", "float64 [2]"),
        "model/3.weight": ("nothing", "float32 [2, 2]"),
        "model/3.bias": ("nothing", "float32 [2]"),
        "optimizer/param_groups/0": ("6 parameters", "2 parameters"),
        "new": ("no such item", "ModuleItem"),
        "constant": ("float64 [3]", "float32 [4]"),
    }
    shown = str(caught.value)
    assert all(path in shown for path in rows)
    assert "resume='never'" in shown
    check_same(facts(items), before)
    assert torch.equal(torch.get_rng_state(), random_before)
    # Nor was the run: the right script continues.
    with restored(folder, model=model, optimizer=optimizer, gone=gone, constant=constant) as run:
        assert run.resumed_from == "step-00000001"


def test_the_state_of_another_kind_of_optimizer_is_refused(folder: Path) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    saved(folder, optimizer=optimizer)
    with pytest.raises(MismatchError) as caught:
        restored(folder, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert caught.value.rows[0].path == "optimizer/param_groups/0"
    assert "betas" in caught.value.rows[0].saved
    assert "SGD: dampening, momentum, nesterov" in caught.value.rows[0].here


def test_options_that_an_older_version_did_not_know_stay_as_they_are(folder: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    del optimizer.param_groups[0]["momentum"]
    saved(folder, optimizer=optimizer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.8)
    restored(folder, optimizer=optimizer)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.5, 0.8)


def test_parameters_in_another_order_are_seen_by_their_state(folder: Path) -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    saved(folder, model=model, optimizer=optimizer)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.Adam([model.bias, model.weight])
    with pytest.raises(MismatchError, match="exp_avg"):
        restored(folder, model=model, optimizer=optimizer)


class Refuses:
    def __init__(self, value: int) -> None:
        self.value = value

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.value = state["value"]
        raise TypeError("from another version of me")


@pytest.mark.parametrize("first", [True, False])
def test_an_object_that_refuses_leaves_all_as_they_were(first: bool, folder: Path) -> None:
    def made(seed: int) -> dict[str, Any]:
        model = fill(network(), seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * seed)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, seed)
        items = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "values": np.full(2, seed)}
        return {"odd": Refuses(seed), **items} if first else {**items, "odd": Refuses(seed)}

    saved(folder, **made(1))
    items = made(2)
    before = facts(items)
    with pytest.raises(MismatchError, match="from another version of me") as caught:
        restored(folder, **items)
    assert caught.value.where == "odd"
    check_same(facts(items), before)


def test_a_module_that_refuses_says_so_as_milepost_does(folder: Path) -> None:
    class Odd(nn.Linear):
        def load_state_dict(self, *args: Any, **options: Any) -> Any:
            raise AttributeError("not today")

    saved(folder, model=nn.Linear(2, 2))
    with pytest.raises(MismatchError, match="not today") as caught:
        restored(folder, model=Odd(2, 2))
    assert caught.value.where == "model"


# -- what cannot be stored is said before anything is done ------------------------------------------------------------


class Holds:
    def __init__(self, value: Any) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"inner": [1, {"odd": self.value}]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: torch.nn.Linear(1, 1), "state_dict"),
        (lambda: len, ""),
        (object, "state_dict"),
        (lambda: torch.empty(2, device="meta"), "to_empty"),
        (lambda: torch.eye(2).to_sparse(), "indices"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "dequantize"),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_cannot_be_stored_is_named_by_its_path(make: Callable[[], Any], hint: str, folder: Path) -> None:
    directory = folder / "run"
    with pytest.raises(NotStorableError) as caught:
        milepost.Checkpointer(directory, model=nn.Linear(1, 1), holder=Holds(make()))
    assert caught.value.where == "holder/inner/1/odd"
    assert hint in (caught.value.hint or "")
    assert not directory.exists()


def test_a_module_on_the_meta_device(folder: Path) -> None:
    with torch.device("meta"):
        model = network()
    with pytest.raises(NotStorableError, match="meta") as caught:
        milepost.Checkpointer(folder / "run", model=model)
    assert caught.value.where == "model/0.weight"


def test_a_lazy_module_that_has_not_seen_a_batch(folder: Path) -> None:
    with pytest.raises(NotStorableError, match="not initialised") as caught:
        milepost.Checkpointer(folder / "run", model=nn.Sequential(nn.LazyLinear(2)))
    assert caught.value.where == "model/0.weight"


def test_half_a_face(folder: Path) -> None:
    class Half:
        def state_dict(self) -> dict[str, int]:
            return {}

    with pytest.raises(NotStorableError, match="load_state_dict") as caught:
        milepost.Checkpointer(folder / "run", half=Half())
    assert caught.value.where == "half"


def test_state_that_becomes_unstorable_is_named_and_what_was_saved_stays(folder: Path) -> None:
    holder = Holds(1)

    def train() -> None:
        with milepost.Checkpointer(folder, holder=holder, progress=False) as run:
            run.step()
            run.save()
            holder.value = object()
            run.step()
            run.save()

    with pytest.raises(NotStorableError) as caught:
        train()
    assert caught.value.where == "holder/inner/1/odd"
    with restored(folder, holder=Holds(0)) as run:
        assert run.resumed_from == "step-00000001"
