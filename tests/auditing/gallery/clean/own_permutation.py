"""An order of one's own, drawn anew in each epoch from the number of the epoch, so that a resumed one has it again."""

import sys

import torch
from torch import nn

import milepost

torch.set_num_threads(1)
torch.manual_seed(9)

inputs = torch.randn(56, 4)
targets = inputs.max(dim=1, keepdim=True).values
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/own_permutation",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for epoch in run.epochs(3):
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(epoch))
        for chosen in run.batches(order.split(8)):
            loss = nn.functional.mse_loss(model(inputs[chosen]), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
