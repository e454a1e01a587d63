"""Loss weights that balance two tasks, with a state_dict and a load_state_dict that agree."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


class Balance:
    def __init__(self) -> None:
        self.first = torch.tensor(1.0)
        self.second = torch.tensor(1.0)

    def update(self, first: torch.Tensor, second: torch.Tensor) -> None:
        self.first = 0.8 * self.first + 0.2 * first.detach()
        self.second = 0.8 * self.second + 0.2 * second.detach()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"first": self.first, "second": self.second}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.first = state["first"]
        self.second = state["second"]


torch.set_num_threads(1)
torch.manual_seed(32)
inputs = torch.randn(48, 4)
loader = DataLoader(TensorDataset(inputs), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
balance = Balance()

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/forgotten_field",
    model=model,
    optimizer=optimizer,
    balance=balance,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.epochs(3):
        for (batch,) in run.batches(loader):
            output = model(batch)
            first = (output[:, 0] - batch.sum(dim=1)).square().mean()
            second = (output[:, 1] - batch.prod(dim=1)).square().mean()
            balance.update(first, second)
            loss = first / balance.first + second / balance.second
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
