"""A dataset that adds noise from a generator it holds, where milepost finds it and seeds it for each batch."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import milepost

torch.set_num_threads(1)
torch.manual_seed(11)


class Jittered(Dataset):
    def __init__(self, length: int) -> None:
        self.points = torch.rand(length, 2)
        self.augmentation = torch.Generator().manual_seed(111)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        point = self.points[index]
        jitter = torch.randn(2, generator=self.augmentation)
        return point + 0.1 * jitter, point.prod(dim=0, keepdim=True)


def main() -> None:
    loader = DataLoader(Jittered(56), batch_size=8, shuffle=True)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

    with milepost.Checkpointer(
        sys.argv[1] if len(sys.argv) > 1 else "runs/dataset_augmentation",
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


if __name__ == "__main__":
    main()
