"""Nothing is seeded: no two runs are alike, and yet each resumes exactly, since its random numbers are in the state."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)

inputs = torch.arange(48.0).reshape(12, 4).repeat(4, 1) / 48
labels = (inputs.sum(dim=1) > 2).long()
loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/unseeded",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            loss = nn.functional.cross_entropy(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
