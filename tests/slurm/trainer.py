"""The training job of the tests on a real Slurm: ``python trainer.py RUN [options]``.

Beside RUN it appends to RUN.log a line for each start, each step, and for being fenced; RUN.done holds the
digest of all that was trained, once it is through.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--epochs", type=int, default=10, help="of 20 steps each")
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds that a step takes")
    parser.add_argument("--options", default="", help="further ones for Checkpointer, as Python: 'max_requeues=2'")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(160, 8), torch.randint(0, 2, (160,)))
    loader = DataLoader(data, batch_size=8, shuffle=True)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    log = os.open(f"{args.run}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    options = eval(f"dict({args.options})")

    def say(text: str) -> None:
        os.write(log, f"{text}\n".encode())

    try:
        with milepost.Checkpointer(
            args.run, model=model, optimizer=optimizer, every=milepost.Every(steps=args.every), **options
        ) as run:
            say(f"open {run.progress.attempt} {run.progress.step} {os.getpid()} {time.time()}")
            for _ in run.epochs(args.epochs):
                for inputs, classes in run.batches(loader):
                    loss = nn.functional.cross_entropy(model(inputs), classes)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    run.step(loss=loss)
                    say(f"step {run.progress.step} {loss.item()!r} {time.time()}")
                    time.sleep(args.pause)
    except milepost.errors.RunFenced:
        say("fenced")
        raise
    seen = hashlib.sha256()
    for tensor in (*model.state_dict().values(), *(v for s in optimizer.state.values() for v in s.values())):
        seen.update(tensor.numpy().tobytes())
    with open(f"{args.run}.part", "w") as done:
        done.write(seen.hexdigest())
    os.replace(f"{args.run}.part", f"{args.run}.done")


if __name__ == "__main__":
    main()
