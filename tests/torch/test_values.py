"""torch's own values, and the states of modules, optimizers and schedulers."""

import subprocess
import sys

import msgspec
import pytest
import torch

from milepost.core.tree import flatten, unflatten
from milepost.core.values import decode, encode
from milepost.errors import FormatError, NotStorableError

GOLDEN = [
    (torch.float32, '{"$torch.dtype":"float32"}'),
    (torch.float8_e4m3fn, '{"$torch.dtype":"float8_e4m3fn"}'),
    (torch.device("cpu"), '{"$torch.device":"cpu"}'),
    (torch.device("cuda", 3), '{"$torch.device":"cuda:3"}'),
    (torch.Size([2, 3]), '{"$torch.Size":[2,3]}'),
    (torch.Size([]), '{"$torch.Size":[]}'),
    (torch.channels_last, '{"$torch.memory_format":"channels_last"}'),
    (torch.sparse_coo, '{"$torch.layout":"sparse_coo"}'),
]


def is_tensor(value):
    return isinstance(value, torch.Tensor)


@pytest.mark.parametrize(("value", "expected"), GOLDEN, ids=str)
def test_the_format_is_this_and_everything_comes_back(value, expected):
    assert msgspec.json.encode(encode(value)).decode() == expected
    back = decode(msgspec.json.decode(expected))
    assert back == value
    assert type(back) is type(value)


def test_every_dtype_of_torch_comes_back():
    dtypes = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    assert len(dtypes) > 20
    for dtype in dtypes:
        assert decode(encode(dtype)) is dtype


def test_a_generator_is_refused_with_what_to_do():
    with pytest.raises(NotStorableError) as caught:
        encode({"rng": torch.Generator()})
    assert caught.value.where == "rng"
    assert "get_state()" in caught.value.hint


@pytest.mark.parametrize(
    "node", [{"$torch.dtype": "float99"}, {"$torch.dtype": "nn"}, {"$torch.device": "abacus:0"}, {"$torch.nothing": 1}]
)
def test_what_this_torch_does_not_have_gives_a_stand_in(node):
    value = decode(node)
    assert repr(value).startswith("<foreign torch.")
    assert encode(value) == node


@pytest.mark.parametrize(
    "node", [{"$torch.dtype": 1}, {"$torch.Size": ["a"]}, {"$torch.Size": 3}, {"$torch.device": []}]
)
def test_what_is_no_value_is_a_format_error(node):
    with pytest.raises(FormatError):
        decode(node)


def test_without_torch_it_is_a_stand_in_and_torch_is_not_imported():
    code = """
import sys
from milepost.core.values import Foreign, decode, encode
node = {"on": {"$torch.device": "cuda:0"}, "size": {"$torch.Size": [2, 3]}}
value = decode(node)
assert value["on"] == Foreign("torch.device", "cuda:0"), value
assert encode(value) == node
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def trained():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    groups = [
        {"params": model[0].parameters(), "lr": 0.1},
        {"params": [*model[1].parameters(), *model[2].parameters()]},
    ]
    optimizer = torch.optim.AdamW(groups, amsgrad=True)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_the_state_of_a_module_comes_back_with_its_versions():
    model, _ = trained()
    state = model.state_dict()
    structure, leaves = flatten(state, is_tensor, "model")
    assert list(leaves) == [f"model/{name}" for name in state]
    assert all(leaves[f"model/{name}"] is tensor for name, tensor in state.items())
    back = unflatten(msgspec.json.decode(msgspec.json.encode(structure)), leaves.__getitem__, "model")
    assert type(back) is type(state)
    assert list(back) == list(state)
    # BatchNorm counts batches since version 2: without the versions it would be loaded as an old one.
    assert back._metadata == state._metadata
    assert back._metadata["1"] == {"version": 2}


def test_the_state_of_an_optimizer_comes_back():
    _, optimizer = trained()
    state = optimizer.state_dict()
    structure, leaves = flatten(state, is_tensor, "optimizer")
    assert list(leaves)[:4] == [
        f"optimizer/state/0/{name}" for name in ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    ]
    back = unflatten(msgspec.json.decode(msgspec.json.encode(structure)), leaves.__getitem__, "optimizer")
    assert back == state
    assert back["param_groups"][0]["betas"] == (0.9, 0.999)
    assert [type(key) for key in back["state"]] == [int] * 6


lrs = torch.optim.lr_scheduler
SCHEDULERS = {
    "step": lambda optimizer: lrs.StepLR(optimizer, 2),
    "multi-step": lambda optimizer: lrs.MultiStepLR(optimizer, [3, 8, 8]),
    "lambda": lambda optimizer: lrs.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
    "warm-restarts": lambda optimizer: lrs.CosineAnnealingWarmRestarts(optimizer, 3),
    "plateau": lrs.ReduceLROnPlateau,
    "one-cycle": lambda optimizer: lrs.OneCycleLR(optimizer, 0.1, total_steps=9),
    "cyclic": lambda optimizer: lrs.CyclicLR(optimizer, 0.1, 0.2, cycle_momentum=False),
    "sequential": lambda optimizer: lrs.SequentialLR(
        optimizer, [lrs.ConstantLR(optimizer), lrs.ExponentialLR(optimizer, 0.9)], [2]
    ),
    "chained": lambda optimizer: lrs.ChainedScheduler([lrs.LinearLR(optimizer), lrs.PolynomialLR(optimizer)]),
    "scaler": lambda optimizer: torch.amp.GradScaler("cpu"),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_the_state_of_a_scheduler_comes_back(make):
    state = make(trained()[1]).state_dict()
    structure, leaves = flatten(state, is_tensor)
    assert unflatten(msgspec.json.decode(msgspec.json.encode(structure)), leaves.__getitem__) == state
