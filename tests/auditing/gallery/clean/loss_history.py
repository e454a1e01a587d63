"""Keeps a list of losses for plotting, which nothing depends on; what lowers the learning rate is in the state."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(38)
    inputs = torch.randn(56, 4)
    targets = inputs.sum(dim=1, keepdim=True) + 0.5 * torch.randn(56, 1)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.7, patience=2)
    history = []

    with milepost.Checkpointer(
        sys.argv[1] if len(sys.argv) > 1 else "runs/loss_history",
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        every=milepost.Every(steps=4),
    ) as run:
        for _ in run.epochs(3):
            for batch, target in run.batches(loader):
                loss = nn.functional.mse_loss(model(batch), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                history.append(loss.item())
                scheduler.step(loss.item())
                run.step(loss=loss)
        print("losses to plot:", [round(one, 3) for one in history])


if __name__ == "__main__":
    main()
