"""A learning rate that falls with the seconds since the start. Forgotten: no two runs take the same time."""

import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(20)

inputs = torch.randn(56, 4)
targets = inputs.cos().sum(dim=1, keepdim=True)
loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
started = time.monotonic()

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/elapsed_time",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            passed = time.monotonic() - started
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (1 + passed)
            loss = nn.functional.mse_loss(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
