"""Averaged weights in a second model, which is what gets validated. Forgotten: that copy is no item."""

import copy
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    inputs = torch.randn(64, 4)
    targets = inputs.prod(dim=1, keepdim=True)
    loader = DataLoader(TensorDataset(inputs[:48], targets[:48]), batch_size=8, shuffle=True)

    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    averaged = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    with milepost.Checkpointer(
        sys.argv[1] if len(sys.argv) > 1 else "runs/ema_model",
        model=model,
        optimizer=optimizer,
        every=milepost.Every(steps=4),
        keep=milepost.Keep(last=2, best="val_loss"),
    ) as run:
        for _ in run.epochs(3):
            for batch, target in run.batches(loader):
                loss = nn.functional.mse_loss(model(batch), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.step(loss=loss)
                with torch.no_grad():
                    for slow, fast in zip(averaged.parameters(), model.parameters(), strict=True):
                        slow.lerp_(fast, 0.1)
            with torch.no_grad():
                val_loss = nn.functional.mse_loss(averaged(inputs[48:]), targets[48:])
            run.epoch_end(val_loss=val_loss)


if __name__ == "__main__":
    main()
