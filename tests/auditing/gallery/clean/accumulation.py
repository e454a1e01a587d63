"""Gradients of three batches make a step, and of what is left at the end. The count begins where the epoch goes on."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(12)

inputs = torch.randn(56, 4)
targets = inputs.square().sum(dim=1, keepdim=True)
loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)

model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/accumulation",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for number, (batch, target) in enumerate(run.batches(loader), start=run.progress.batch + 1):
            loss = nn.functional.mse_loss(model(batch), target) / 3
            loss.backward()
            if number % 3 == 0 or number == len(loader):
                optimizer.step()
                optimizer.zero_grad()
                run.step(loss=loss)
