"""Averaged weights in a dictionary, towards which the model is pulled. Forgotten: the dictionary is in no state."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(4)

inputs = torch.randn(56, 3)
targets = inputs.abs().sum(dim=1, keepdim=True)
loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)

model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
averages = {name: weight.detach().clone() for name, weight in model.named_parameters()}

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/ema_dict",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            loss = nn.functional.mse_loss(model(batch), target)
            for name, weight in model.named_parameters():
                loss = loss + 0.05 * (weight - averages[name]).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    averages[name].lerp_(weight, 0.2)
            run.step(loss=loss)
