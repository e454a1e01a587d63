"""A regression whose learning rate falls along a cosine. The scheduler is an item as the optimizer is."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    inputs = torch.randn(56, 3)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]])
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)

    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=21)

    items = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    with milepost.Checkpointer(
        sys.argv[1] if len(sys.argv) > 1 else "runs/scheduler",
        state=items,
        every=milepost.Every(steps=4),
    ) as run:
        for _ in run.epochs(3):
            for batch, target in run.batches(loader):
                loss = nn.functional.mse_loss(model(batch), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.step(loss=loss, lr=scheduler.get_last_lr()[0])
                scheduler.step()


if __name__ == "__main__":
    main()
