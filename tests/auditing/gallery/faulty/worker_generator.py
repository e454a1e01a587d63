"""A worker process augments with a generator of the module. Forgotten: the worker of a resumed run begins it anew."""

import sys

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(8)
np.random.seed(8)

augmentation = np.random.default_rng(8)


class Noisy(Dataset):
    def __init__(self) -> None:
        self.inputs = torch.randn(48, 4)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        clear = self.inputs[index]
        noise = augmentation.normal(size=4).astype(np.float32)
        return clear + 0.2 * torch.from_numpy(noise), clear.sum(dim=0, keepdim=True)


loader = DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=1)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/worker_generator",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            loss = nn.functional.mse_loss(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
