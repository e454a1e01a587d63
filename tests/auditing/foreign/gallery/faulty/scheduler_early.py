"""Forgotten: that the scheduler steps after the state was taken."""

import argparse
import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="checkpoints")
    parser.add_argument("--resume")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs = torch.randn(32, 4)
    labels = (inputs.sum(dim=1) > 0).long()
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True, num_workers=1)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    start = 0
    if options.resume:
        saved = torch.load(options.resume)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        start = saved["epoch"]
        torch.set_rng_state(saved["rng"])
    os.makedirs(options.out, exist_ok=True)
    for epoch in range(start, 3):
        for batch, target in loader:
            loss = nn.functional.cross_entropy(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": dict(scheduler.state_dict()),
            "epoch": epoch + 1,
            "rng": torch.get_rng_state(),
        }
        scheduler.step()
        torch.save(state, os.path.join(options.out, "last.pt"))


if __name__ == "__main__":
    main()
