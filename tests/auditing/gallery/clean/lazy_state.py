"""Divides the loss by its first value, which is made when it is needed, and kept in run.vars."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(35)

inputs = torch.randn(56, 3)
targets = 5 * inputs.exp().mean(dim=1, keepdim=True)
loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/lazy_state",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            loss = nn.functional.mse_loss(model(batch), target)
            scale = run.vars.setdefault("scale", loss.item())
            optimizer.zero_grad()
            (loss / scale).backward()
            optimizer.step()
            run.step(loss=loss)
