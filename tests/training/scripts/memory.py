"""How much memory saving takes: `python memory.py RUN MEGABYTES [MAX_MEMORY]`.

Prints by how many bytes the peak rose above what the live state needs, the size of the state, and what was continued.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import milepost

WIDTH = 1 << 10


def peak() -> int:
    """The largest resident size of this process since it was last reset, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def make(count: int, width: int) -> tuple[torch.nn.ParameterList, torch.optim.SGD]:
    """Weights, and what will make a momentum of the same size for them."""
    model = torch.nn.ParameterList(torch.nn.Parameter(torch.randn(width, width)) for _ in range(count))
    for parameter in model:
        parameter.grad = torch.ones_like(parameter)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)


def train(
    directory: str, model: torch.nn.ParameterList, optimizer: torch.optim.SGD, most: int | None = None
) -> str | None:
    """Three steps and saves; returns what was continued."""
    with milepost.Checkpointer(directory, model=model, optimizer=optimizer, max_memory=most, progress=False) as run:
        for _ in range(3):
            optimizer.step()
            run.step()
            run.save()
        return run.resumed_from


def main() -> None:
    directory, megabytes = sys.argv[1], int(sys.argv[2])
    most = int(sys.argv[3]) if len(sys.argv) > 3 else None
    torch.set_num_threads(1)
    # The resident size counts the code of every library that was touched, and the kernel maps as much around a touched page as
    # happens to be in the page cache: 4 to 8 MB for torch alone. So everything is done once in small before it is measured.
    rehearsal = f"{directory}-rehearsal"
    for _ in range(2):
        train(rehearsal, *make(2, 8))
    begun = Path(directory).exists()
    model, optimizer = make(megabytes // 8, WIDTH)
    if not begun:
        optimizer.step()
    half = sum(parameter.nbytes for parameter in model)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    needed = peak() + (half if begun else 0)  # a restore makes the momentum
    resumed = train(directory, model, optimizer, most)
    print(peak() - needed, 2 * half, resumed)


if __name__ == "__main__":
    main()
