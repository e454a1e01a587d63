"""Learns values against a target network that follows every fifth step, and is an item."""

import copy
import sys

import torch
from torch import nn

import milepost

torch.set_num_threads(1)
torch.manual_seed(37)

values = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
target = copy.deepcopy(values).requires_grad_(False)
optimizer = torch.optim.RMSprop(values.parameters(), lr=0.01)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/target_network",
    values=values,
    target=target,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for step in run.steps(18):
        before, after = torch.randn(8, 3), torch.randn(8, 3)
        reward = before.sum(dim=1)
        wanted = reward + 0.9 * target(after).max(dim=1).values
        loss = nn.functional.smooth_l1_loss(values(before)[:, 0], wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.step(loss=loss)
        if (step + 1) % 5 == 0:
            target.load_state_dict(values.state_dict())
