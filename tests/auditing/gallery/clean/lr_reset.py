"""A learning rate that is halved each epoch. The first value is set before the Checkpointer restores it."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


def prepare(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.2 if group["params"][0].dim() > 1 else 0.1


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(31)
    inputs = torch.randn(48, 4)
    targets = inputs.sum(dim=1, keepdim=True).sigmoid()
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.1)
    prepare(optimizer)

    with milepost.Checkpointer(
        sys.argv[1] if len(sys.argv) > 1 else "runs/lr_reset",
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
            for group in optimizer.param_groups:
                group["lr"] /= 2


if __name__ == "__main__":
    main()
