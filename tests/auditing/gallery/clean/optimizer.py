"""A small classifier, trained with Adam. Model and optimizer are items."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(0)

inputs = torch.randn(48, 4)
labels = (inputs.sum(dim=1) > 0).long()
loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)

model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/optimizer",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for epoch in run.epochs(3):
        for batch, target in run.batches(loader):
            loss = nn.functional.cross_entropy(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
        print(f"epoch {epoch} is done, {run.progress.step} steps so far")
