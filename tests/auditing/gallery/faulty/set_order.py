"""Four tasks, drawn one after the other from a set of names. Forgotten: each process has another order of its sets."""

import sys

import torch
from torch import nn

import milepost

torch.set_num_threads(1)
torch.manual_seed(21)

tasks = {"colour", "shape", "size", "texture"}
body = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
heads = nn.ModuleDict({name: nn.Linear(8, 1) for name in sorted(tasks)})
model = nn.ModuleDict({"body": body, "heads": heads})
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/set_order",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.steps(18):
        loss = torch.zeros(())
        for name in tasks:
            inputs = torch.randn(8, 4)
            loss = loss + nn.functional.mse_loss(heads[name](body(inputs)), inputs[:, :1] * len(name))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.step(loss=loss)
