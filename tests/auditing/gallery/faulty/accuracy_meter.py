"""An accuracy that is counted over an epoch. Forgotten: the meter is no item, so a resumed epoch counts its rest alone."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


class Accuracy:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right = torch.tensor(0)
        self.total = torch.tensor(0)

    def update(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        self.right += (scores.argmax(dim=1) == labels).sum()
        self.total += len(labels)

    def compute(self) -> torch.Tensor:
        return self.right / self.total


torch.set_num_threads(1)
torch.manual_seed(141)
inputs = torch.randn(48, 4)
labels = inputs.argmax(dim=1)
loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)
model = nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
meter = Accuracy()

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/accuracy_meter",
    model=model,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
    keep=milepost.Keep(last=2, best="train_accuracy"),
) as run:
    for _ in run.epochs(3):
        for batch, target in run.batches(loader):
            scores = model(batch)
            loss = nn.functional.cross_entropy(scores, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            meter.update(scores, target)
            run.step(loss=loss)
        run.epoch_end(train_accuracy=meter.compute())
        meter.reset()
