"""Where state hides that scripts keep beside their items, and whether it is found there and named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scripts import SCRIPT

from milepost.auditing.report import Report, Verdict

BEGIN = """
import collections, functools, itertools, os, threading
calls, here, counter, cycle = [0.0], threading.local(), itertools.count(), itertools.cycle([1.0, 2.0, 4.0])
here.n = 0.0

@functools.lru_cache
def cached(epoch):
    calls[0] += 1
    return calls[0]

def scale():
    scale.by = scale.by * 0.5 + 1
    return scale.by

scale.by = 1.0

class Meter:
    total = 0.0

def counted(by):
    os.environ["COUNT"] = str(float(os.environ.get("COUNT", 0)) + by)
    return float(os.environ["COUNT"])

add = functools.partial(lambda seen, one: (seen.append(one), len(seen))[1], [])
"""

MODULE = """
import torch
import milepost

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
optimizer, means = torch.optim.SGD(model.parameters(), 0.1), []
{hook}
with milepost.Checkpointer("runs/job", model=model, optimizer=optimizer, progress=False) as run:
    for epoch in run.epochs(2):
        if epoch == 1 and run.progress.batch == 0:
            {change}
        for batch in run.batches(torch.arange(12.0, dtype=torch.float32).reshape(4, 3)):
            loss = model((batch * torch.tensor([0.1]) ** 9 * 1e9).float()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
"""


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("next(counter)", "`counter` is an iterator, which begins anew after a restart"),
        ("next(cycle)", "`cycle` is an iterator, which begins anew after a restart"),
        ("cached(epoch)", "`calls` is carried from step to step"),
        ("scale()", "`scale.by` is carried from step to step"),
        ("setattr(Meter, 'total', Meter.total + 1) or Meter.total", "`Meter.total` is carried from step to step"),
        ("counted(1)", "`environ.COUNT` of os is carried from step to step"),
        ("setattr(here, 'n', here.n + 1) or here.n", "`here.n` is carried from step to step"),
        ("add(1.0)", "`add` is carried from step to step"),
    ],
)
def test_what_a_script_keeps(by: str, words: str, job: Callable[..., Report]) -> None:
    report = job(f"run['w'][0] += {by}", script=BEGIN + SCRIPT, at=[7])
    assert report.verdict is Verdict.NOT_EXACT
    assert any(cause.text.startswith(words) for cause in report.causes), report.causes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model[0].weight.requires_grad_(False)", "which parameters of `model` are frozen (requires_grad)"),
        ("model.eval()", "the mode of `model` is not in its state_dict: call model.train() or model.eval()"),
        ("torch.set_default_dtype(torch.float64)", "`torch.get_default_dtype()` was changed in the course of the run"),
        ("pass", "`model.0.hooks.0.means` is carried from step to step"),
    ],
)
def test_what_a_module_keeps(change: str, words: str, job: Callable[..., Report]) -> None:
    grows = (
        "model[0].register_forward_hook((lambda means: lambda m, i, o: (means.append(1), o + len(means))[1])(means))"
    )
    script = MODULE.replace("{hook}", grows if change == "pass" else "").replace("{change}", change)
    report = job(script=script, at=[6])
    assert report.verdict is Verdict.NOT_EXACT
    assert any(cause.text.startswith(words) for cause in report.causes), report.causes


def test_a_generator_without_a_seed_is_named(job: Callable[..., Report]) -> None:
    report = job(
        "run['w'][0] += other.random()", script="import numpy as np\nother = np.random.default_rng()\n" + SCRIPT, at=[7]
    )
    assert report.verdict is Verdict.NOT_EXACT
    assert "the random generator `other` is neither seeded nor in the state" in report.rows[0].note
