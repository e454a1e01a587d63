"""Draws hard examples more often. Forgotten: the weights of the sampler are known to the process alone."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import milepost

torch.set_num_threads(1)
torch.manual_seed(36)

inputs = torch.randn(48, 4)
labels = (inputs.prod(dim=1) > 0).long()
sampler = WeightedRandomSampler(torch.ones(48), 48)
loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, sampler=sampler)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/sampler_weights",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(epochs=1),
) as run:
    for epoch in run.epochs(3):
        for batch, target in run.batches(loader):
            loss = nn.functional.cross_entropy(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
        if epoch == 0:
            with torch.no_grad():
                hardness = nn.functional.cross_entropy(model(inputs), labels, reduction="none")
            sampler.weights = hardness.double().square()
