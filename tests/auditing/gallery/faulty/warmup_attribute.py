"""A trainer that counts its own warm-up. Forgotten: the trainer has no state, so it is cold again when resumed."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


class Trainer:
    def __init__(self) -> None:
        self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.warmth = 0.0

    def train(self, batch: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.warmth = min(1.0, self.warmth + 0.05)
        loss = nn.functional.huber_loss(self.model(batch), target)
        self.optimizer.zero_grad()
        (self.warmth * loss).backward()
        self.optimizer.step()
        return loss


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(27)
    inputs = torch.randn(48, 3)
    targets = inputs.sum(dim=1, keepdim=True)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
    trainer = Trainer()

    with milepost.Checkpointer(
        sys.argv[1] if len(sys.argv) > 1 else "runs/warmup_attribute",
        model=trainer.model,
        optimizer=trainer.optimizer,
        every=milepost.Every(steps=4),
    ) as run:
        for _ in run.epochs(3):
            for batch, target in run.batches(loader):
                run.step(loss=trainer.train(batch, target))


if __name__ == "__main__":
    main()
