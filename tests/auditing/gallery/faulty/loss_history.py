"""Lowers the learning rate when the loss stops falling. Forgotten: the list of losses that tells so is in no state."""

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
    history = []

    with milepost.Checkpointer(
        sys.argv[1] if len(sys.argv) > 1 else "runs/loss_history",
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
                history.append(loss.item())
                if len(history) > 3 and history[-1] > history[-4]:
                    optimizer.param_groups[0]["lr"] *= 0.7
                run.step(loss=loss)
        print("losses to plot:", [round(one, 3) for one in history])


if __name__ == "__main__":
    main()
