"""Learns from a memory of what it saw. Forgotten: the memory is a deque that a resumed run begins empty."""

import random
import sys
from collections import deque

import torch
from torch import nn

import milepost

torch.set_num_threads(1)
torch.manual_seed(24)
random.seed(24)

policy = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
memory = deque(maxlen=32)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/replay_buffer",
    policy=policy,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.steps(18):
        for _ in range(4):
            state = torch.randn(3)
            action = policy(state).detach() + 0.1 * torch.randn(1)
            memory.append((state, -(action - state.sum()).square()))
        states, rewards = zip(*random.sample(memory, 4), strict=True)
        loss = nn.functional.mse_loss(policy(torch.stack(states)), torch.stack(rewards))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.step(loss=loss, remembered=len(memory))
