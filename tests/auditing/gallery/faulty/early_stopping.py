"""Stops after eight steps without a better loss. Forgotten: the best loss and the patience are plain variables."""

import sys

import torch
from torch import nn

import milepost


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(22)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

    with milepost.Checkpointer(
        sys.argv[1] if len(sys.argv) > 1 else "runs/early_stopping",
        model=model,
        optimizer=optimizer,
        every=milepost.Every(steps=4),
    ) as run:
        kept = {"best": float("inf"), "waited": 0}
        for step in run.steps(60):
            inputs = torch.randn(8, 6)
            loss = nn.functional.mse_loss(model(inputs), inputs.sum(dim=1, keepdim=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if loss.item() < kept["best"]:
                kept["best"], kept["waited"] = loss.item(), 0
            else:
                kept["waited"] += 1
            run.step(loss=loss)
            if kept["waited"] == 8:
                print(f"no better loss since step {step - 8}")
                break


if __name__ == "__main__":
    main()
