"""Counts samples in a file of its own, for people to read; the learning rate follows the steps of the run."""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(34)
    inputs = torch.randn(48, 4)
    targets = inputs.min(dim=1, keepdim=True).values
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    counted = Path("samples.txt")

    with milepost.Checkpointer(
        sys.argv[1] if len(sys.argv) > 1 else "runs/side_file",
        model=model,
        optimizer=optimizer,
        every=milepost.Every(steps=4),
    ) as run:
        for _ in run.epochs(3):
            for batch, target in run.batches(loader):
                samples = 8 * run.progress.step
                optimizer.param_groups[0]["lr"] = 0.1 / (1 + samples / 50)
                loss = nn.functional.mse_loss(model(batch), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                counted.write_text(str(samples + len(batch)))
                run.step(loss=loss)


if __name__ == "__main__":
    main()
