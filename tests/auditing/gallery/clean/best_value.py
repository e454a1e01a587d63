"""Halves the learning rate when the validation is not a tenth better. The best value so far lives in run.vars."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(26)

inputs = torch.randn(64, 4)
targets = inputs.sum(dim=1, keepdim=True) + torch.randn(64, 1)
loader = DataLoader(TensorDataset(inputs[:48], targets[:48]), batch_size=8, shuffle=True)
unseen = DataLoader(TensorDataset(inputs[48:], targets[48:]), batch_size=8)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.002)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/best_value",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
    keep=milepost.Keep(last=2, best="val_loss"),
) as run:
    best = run.vars.setdefault("best", float("inf"))
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            loss = nn.functional.mse_loss(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
        with torch.no_grad():
            losses = [nn.functional.mse_loss(model(batch), target).item() for batch, target in unseen]
        val_loss = sum(losses) / len(losses)
        if val_loss > 0.9 * best:
            optimizer.param_groups[0]["lr"] /= 2
        best = run.vars["best"] = min(best, val_loss)
        run.epoch_end(val_loss=val_loss)
