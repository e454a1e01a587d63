"""Noise on the input, drawn from a torch.Generator of its own, which is an item."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(5)

inputs = torch.randn(48, 4)
labels = (inputs[:, 0] > inputs[:, 1]).long()
loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)

model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
noise = torch.Generator().manual_seed(55)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/noise_generator",
    model=model,
    optimizer=optimizer,
    noise=noise,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            noisy = batch + 0.3 * torch.randn(batch.shape, generator=noise)
            loss = nn.functional.cross_entropy(model(noisy), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
