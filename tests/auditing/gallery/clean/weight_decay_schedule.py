"""A weight decay that follows a schedule of its own, which has a state and is an item."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


class DecaySchedule:
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.count = 0

    def step(self) -> None:
        self.count += 1
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.02 * self.count

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


torch.set_num_threads(1)
torch.manual_seed(28)
inputs = torch.randn(56, 4)
labels = (inputs.sum(dim=1) > 0).long()
loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
schedule = DecaySchedule(optimizer)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/weight_decay_schedule",
    model=model,
    optimizer=optimizer,
    schedule=schedule,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            loss = nn.functional.cross_entropy(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            run.step(loss=loss)
