"""A loop over the loader itself. Forgotten: run.batches, so a resumed epoch begins again with its first batch."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(10)

inputs = torch.randn(48, 4)
labels = (inputs.norm(dim=1) > 2).long()
loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/loader_direct",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for batch, target in loader:
            loss = nn.functional.cross_entropy(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
