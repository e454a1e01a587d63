"""Images that are mirrored now and then, as a random.Random of its own says. Forgotten: that generator is no item."""

import random
import sys

import torch
from torch import nn

import milepost


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(7)
    images = torch.rand(6, 8, 1, 6, 6)
    labels = torch.randint(0, 3, (6, 8))
    batches = list(zip(images, labels, strict=True))

    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    coin = random.Random(77)

    with milepost.Checkpointer(
        sys.argv[1] if len(sys.argv) > 1 else "runs/python_random",
        model=model,
        optimizer=optimizer,
        every=milepost.Every(steps=4),
    ) as run:
        for _ in run.epochs(3):
            for batch, target in run.batches(batches):
                seen = batch.flip(-1) if coin.random() < 0.5 else batch
                loss = nn.functional.cross_entropy(model(seen), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.step(loss=loss)


if __name__ == "__main__":
    main()
