"""Less dropout with each epoch. Forgotten: the probability is an attribute that is halved, and that no state has."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(30)

inputs = torch.randn(56, 4)
labels = (inputs[:, 0] > 0).long()
loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)
dropout = nn.Dropout(0.6)
model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), dropout, nn.Linear(16, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/dropout_schedule",
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
        dropout.p /= 2
