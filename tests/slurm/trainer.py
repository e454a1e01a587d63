"""The training job of the tests on a real Slurm: ``python trainer.py RUN [options]``.

Beside RUN it appends to RUN.log a line for each start, each step, and for being fenced; RUN.done holds the
digest of all that was trained, once it is through.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

import milepost

Array = npt.NDArray[Any]
BATCH, BATCHES, WIDTH = 8, 20, 8


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--epochs", type=int, default=10, help=f"of {BATCHES} steps each")
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--durable", action="store_true", help="never be more steps than that beyond what is durable")
    parser.add_argument("--until", help="a file without which step 20 is not gone beyond")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds that a step takes")
    parser.add_argument("--torch", action="store_true", help="train with PyTorch, whose import takes seconds")
    parser.add_argument("--ballast", type=int, default=0, help="further bytes of state, other ones at each step")
    parser.add_argument("--options", default="", help="further ones for Checkpointer, as Python: 'max_requeues=2'")
    return parser.parse_args()


class WithTorch:
    """A network with dropout, shuffled data and an optimizer with state."""

    def __init__(self) -> None:
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.torch = torch
        data = TensorDataset(torch.randn(BATCH * BATCHES, WIDTH), torch.randint(0, 2, (BATCH * BATCHES,)))
        self.loader: Iterable[Any] = DataLoader(data, batch_size=BATCH, shuffle=True)
        nn = torch.nn
        self.model = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 2))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.items: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}

    def step(self, run: milepost.Checkpointer, batch: Any) -> float:
        inputs, classes = batch
        loss = self.torch.nn.functional.cross_entropy(self.model(inputs), classes)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        run.step(loss=loss)
        return loss.item()

    def arrays(self, run: milepost.Checkpointer) -> list[Array]:
        state = [value for values in self.optimizer.state.values() for value in values.values()]
        return [tensor.numpy() for tensor in (*self.model.state_dict().values(), *state)]


class WithNumpy:
    """Logistic regression with momentum and noise: starts at once, which is what an interrupted job does most."""

    def __init__(self, ballast: int) -> None:
        np.random.seed(0)
        data = np.random.randn(BATCHES, BATCH, WIDTH)
        self.loader: Iterable[Any] = [(inputs, inputs[:, 0] > 0) for inputs in data]
        self.items = {"weights": np.zeros(WIDTH), "momentum": np.zeros(WIDTH)}
        if ballast:
            self.items["ballast"] = np.zeros(ballast // 8)

    def step(self, run: milepost.Checkpointer, batch: Any) -> float:
        inputs, classes = batch
        inputs = inputs + np.random.randn(*inputs.shape) / 10
        error = 1 / (1 + np.exp(-inputs @ run["weights"])) - classes
        momentum = 0.9 * run["momentum"] + inputs.T @ error
        loss = float(np.mean(error**2))
        more = {"ballast": run["ballast"] + loss} if "ballast" in self.items else {}
        run.step(weights=run["weights"] - 0.01 * momentum, momentum=momentum, loss=loss, **more)
        return loss

    def arrays(self, run: milepost.Checkpointer) -> list[Array]:
        return [run[name] for name in self.items]


def main() -> None:
    args = arguments()
    training = WithTorch() if args.torch else WithNumpy(args.ballast)
    step: Callable[[milepost.Checkpointer, Any], float] = training.step
    log = os.open(f"{args.run}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    options = eval(f"dict({args.options})")

    def say(text: str) -> None:
        os.write(log, f"{text}\n".encode())

    try:
        every = milepost.Every(steps=args.every, durable=args.durable)
        with milepost.Checkpointer(args.run, every=every, **training.items, **options) as run:
            say(f"open {run.progress.attempt} {run.progress.step} {os.getpid()} {time.time()}")
            for _ in run.epochs(args.epochs):
                for batch in run.batches(training.loader):
                    loss = step(run, batch)
                    say(f"step {run.progress.step} {loss!r} {time.time()} {os.getpid()}")
                    time.sleep(args.pause)
                    while args.until and run.progress.step == BATCHES and not os.path.exists(args.until):
                        time.sleep(0.1)
            arrays = training.arrays(run)
    except milepost.errors.RunFenced:
        say("fenced")
        raise
    seen = hashlib.sha256()
    for array in arrays:
        seen.update(array.tobytes())
    with open(f"{args.run}.part", "w") as done:
        done.write(seen.hexdigest())
    os.replace(f"{args.run}.part", f"{args.run}.done")


if __name__ == "__main__":
    main()
