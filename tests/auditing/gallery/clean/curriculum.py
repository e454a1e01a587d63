"""Examples that get harder each epoch: the epoch tells the dataset its difficulty."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import milepost


class Harder(Dataset):
    def __init__(self, length: int) -> None:
        self.base = torch.randn(length, 4)
        self.difficulty = 1

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = self.base[index] * self.difficulty
        return inputs, inputs.sin().sum(dim=0, keepdim=True)


torch.set_num_threads(1)
torch.manual_seed(23)
dataset = Harder(48)
loader = DataLoader(dataset, batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/curriculum",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for epoch in run.epochs(3):
        dataset.difficulty = 1 + epoch
        for batch, target in run.batches(loader):
            loss = nn.functional.mse_loss(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
