"""A training script as people write them: `python job.py RUN LOG [options]`.

Appends a line to LOG for every step, and writes LOG.done with the bytes of everything once it is through.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import threading
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("log")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.004, help="seconds that a batch takes")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--takeover", action="store_true")
    parser.add_argument(
        "--end", choices=["close", "exit", "raise", "fall", "thread"], default="close", help="how it ends"
    )
    parser.add_argument("--steps", type=int, help="end after so many")
    return parser.parse_args()


def digest(*values: object) -> str:
    """Of all tensors and plain values in state dicts."""
    seen = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, torch.Tensor):
            seen.update(f"{value.dtype}{tuple(value.shape)}{value.stride()}".encode())
            seen.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key, inner in value.items():
                seen.update(repr(key).encode())
                add(inner)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                add(inner)
        else:
            seen.update(repr(value).encode())

    for value in values:
        add(value)
    return seen.hexdigest()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(90, 8, generator=generator), torch.randint(0, 2, (90,), generator=generator))
    loader = DataLoader(data, batch_size=6, shuffle=True, num_workers=args.workers)
    unseen = DataLoader(data, batch_size=30, num_workers=args.workers)
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    log = os.open(args.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(text: str) -> None:
        os.write(log, f"{text}\n".encode())

    run = milepost.Checkpointer(
        args.run,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        every=milepost.Every(steps=args.every),
        keep=milepost.Keep(last=3, best="val_loss"),
        takeover=args.takeover,
    )
    say(f"open {run.progress.attempt} {run.progress.step}")
    for _ in run.epochs(args.epochs):
        model.train()
        for inputs, classes in run.batches(loader):
            loss = nn.functional.cross_entropy(model(inputs), classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
            scheduler.step()
            say(f"step {run.progress.step} {loss.item()!r}")
            time.sleep(args.pause)
            if run.progress.step == args.steps:
                end(args.end, run)
                return
        model.eval()
        total = 0.0
        with torch.no_grad():
            for inputs, classes in run.batches(unseen, train=False):
                total += nn.functional.cross_entropy(model(inputs), classes).item()
                say("validating")
                time.sleep(args.pause)
        run.epoch_end(val_loss=total)
        say(f"epoch {run.progress.epoch} {total!r}")
    run.close()
    with open(f"{args.log}.part", "w") as done:
        done.write(digest(model.state_dict(), optimizer.state_dict(), scheduler.state_dict(), torch.get_rng_state()))
    os.replace(f"{args.log}.part", f"{args.log}.done")  # it may be killed at any time


def end(how: str, run: milepost.Checkpointer) -> None:
    """Without a word to milepost, but for "close"."""
    if how == "close":
        run.close()
        return
    run.save()
    if how == "exit":
        sys.exit(3)
    if how == "raise":
        raise RuntimeError("a bug in the script")
    if how == "thread":
        threading.Thread(target=time.sleep, args=(0.3,)).start()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
