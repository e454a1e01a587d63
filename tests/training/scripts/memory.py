"""How much memory saving takes: `python memory.py RUN MEGABYTES [MAX_MEMORY]`.

Prints by how many bytes the peak rose above what the live state needs, the size of the state, and what was continued.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import milepost


def peak() -> int:
    """The largest resident size of this process since it was last reset, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    directory, megabytes = sys.argv[1], int(sys.argv[2])
    most = int(sys.argv[3]) if len(sys.argv) > 3 else None
    torch.set_num_threads(1)
    # Weights and momentum are half of the state each.
    model = torch.nn.ParameterList(torch.nn.Parameter(torch.randn(1 << 10, 1 << 10)) for _ in range(megabytes // 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
    for parameter in model:
        parameter.grad = torch.ones_like(parameter)
    half = sum(parameter.nbytes for parameter in model)
    begun = Path(directory).exists()
    if not begun:
        optimizer.step()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    needed = peak() + (half if begun else 0)  # a restore makes the momentum
    with milepost.Checkpointer(directory, model=model, optimizer=optimizer, max_memory=most, progress=False) as run:
        resumed = run.resumed_from
        for _ in range(3):
            optimizer.step()
            run.step()
            run.save()
    print(peak() - needed, 2 * half, resumed)


if __name__ == "__main__":
    main()
