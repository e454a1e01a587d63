"""Seeds the random numbers anew for each epoch. Forgotten: the seed counts the starts of the process, too."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(33)

inputs = torch.randn(56, 4)
labels = (inputs.norm(dim=1) > 2).long()
loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/reseeded",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for epoch in run.epochs(3):
        torch.manual_seed(1000 * run.progress.attempt + epoch)
        for batch, target in run.batches(loader):
            loss = nn.functional.cross_entropy(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
