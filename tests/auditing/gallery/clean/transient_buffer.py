"""A codebook that moves with what it sees, in a buffer that belongs to the state."""

import sys

import torch
from torch import nn

import milepost


class Codebook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randn(5, 3))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(values, self.codes).argmin(dim=1)
        for value, code in zip(values.detach(), nearest, strict=True):
            self.codes[code] += 0.05 * (value - self.codes[code])
        return (values - self.codes[nearest]).square().mean()


torch.set_num_threads(1)
torch.manual_seed(16)
encoder = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
codebook = Codebook()
optimizer = torch.optim.Adam(encoder.parameters(), lr=0.01)

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/transient_buffer",
    encoder=encoder,
    codebook=codebook,
    optimizer=optimizer,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.steps(18):
        inputs = torch.randn(8, 4)
        features = encoder(inputs)
        loss = codebook(features) + 0.1 * (1 - features.std())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.step(loss=loss)
