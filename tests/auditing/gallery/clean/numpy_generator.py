"""Mixup whose share is drawn from a numpy Generator of its own, which is an item."""

import sys

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


class Trainer:
    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.rng = np.random.default_rng(6)

    def mixed(self, values: torch.Tensor, share: float) -> torch.Tensor:
        return share * values + (1 - share) * values.flip(0)

    def step(self, batch: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        share = self.rng.beta(0.4, 0.4)
        loss = nn.functional.mse_loss(self.model(self.mixed(batch, share)), self.mixed(target, share))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


torch.set_num_threads(1)
torch.manual_seed(6)
inputs = torch.randn(56, 4)
targets = inputs.mean(dim=1, keepdim=True)
trainer = Trainer()

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/numpy_generator",
    model=trainer.model,
    optimizer=trainer.optimizer,
    rng=trainer.rng,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for batch, target in run.batches(DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)):
            run.step(loss=trainer.step(batch, target))
