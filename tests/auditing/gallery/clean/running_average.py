"""Reports the mean loss of the epoch so far. Sum and count live in run.vars."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(13)

inputs = torch.randn(48, 4)
labels = (inputs[:, 0] * inputs[:, 1] > 0).long()
loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/running_average",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    run.vars.setdefault("sums", {"loss": 0.0, "batches": 0})
    for _ in run.epochs(3):
        sums = run.vars["sums"]
        for batch, target in run.batches(loader):
            loss = nn.functional.cross_entropy(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sums["loss"] += loss.item()
            sums["batches"] += 1
            run.step(mean_loss=sums["loss"] / sums["batches"])
        run.vars["sums"] = {"loss": 0.0, "batches": 0}
