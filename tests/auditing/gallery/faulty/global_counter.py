"""A softmax that gets sharper with every batch. Forgotten: the temperature follows a counter of the module."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

batches_seen = 0


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor, target: torch.Tensor):
    global batches_seen
    temperature = 2.0 / (1.0 + 0.1 * batches_seen)
    batches_seen += 1
    loss = nn.functional.cross_entropy(model(batch) / temperature, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(17)
    inputs = torch.randn(48, 5)
    labels = inputs.argmin(dim=1)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)
    model = nn.Linear(5, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    with milepost.Checkpointer(
        sys.argv[1] if len(sys.argv) > 1 else "runs/global_counter",
        model=model,
        optimizer=optimizer,
        every=milepost.Every(steps=4),
    ) as run:
        for _ in run.epochs(3):
            for batch, target in run.batches(loader):
                run.step(loss=train_step(model, optimizer, batch, target))


if __name__ == "__main__":
    main()
