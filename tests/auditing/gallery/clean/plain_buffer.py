"""A layer that centres its input by a running mean, which is a registered buffer."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


class Centred(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * values.detach().mean(dim=0)
        return values - self.mean


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(15)
    inputs = 2 + torch.randn(48, 4)
    targets = (inputs - 2).sum(dim=1, keepdim=True)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
    model = nn.Sequential(Centred(4), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    with milepost.Checkpointer(
        sys.argv[1] if len(sys.argv) > 1 else "runs/plain_buffer",
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
