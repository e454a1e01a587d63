"""A trainer that warms the learning rate up. Forgotten: it counts its calls in an attribute of its class."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


class Trainer:
    calls = 0

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)

    def train(self, batch: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        Trainer.calls += 1
        for group in self.optimizer.param_groups:
            group["lr"] = 0.02 * min(1.0, Trainer.calls / 15)
        loss = nn.functional.mse_loss(self.model(batch), target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


torch.set_num_threads(1)
torch.manual_seed(18)
inputs = torch.rand(56, 3)
targets = inputs.std(dim=1, keepdim=True)
loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
trainer = Trainer()

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/class_counter",
    model=trainer.model,
    optimizer=trainer.optimizer,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            run.step(loss=trainer.train(batch, target))
