"""Every fifth update is made with clipped gradients. The updates are counted in run.vars."""

import sys
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(19)


def make_update(model: nn.Module, optimizer: torch.optim.Optimizer, kept: dict) -> Callable[[torch.Tensor], None]:
    kept.setdefault("updates", 0)

    def update(loss: torch.Tensor) -> None:
        kept["updates"] += 1
        optimizer.zero_grad()
        loss.backward()
        if kept["updates"] % 5 == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

    return update


inputs = torch.randn(48, 4)
targets = inputs @ torch.randn(4, 1)
loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/closure_counter",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    update = make_update(model, optimizer, run.vars)
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            loss = nn.functional.mse_loss(model(batch), target)
            update(loss)
            run.step(loss=loss)
