"""A tensor of more than 2 GiB: system calls move less than that at a time, and 32-bit sizes end there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import milepost

SIZE = (1 << 31) + 4099  # bytes


class Large(torch.nn.Module):
    """Bytes that differ from block to block, and a small tensor that comes behind them in the file."""

    def __init__(self, filled: bool) -> None:
        super().__init__()
        # 251 is prime: no power of two, such as a block or 2 GiB, is a multiple of it.
        row = torch.arange(251, dtype=torch.uint8)
        self.register_buffer(
            "large", row.repeat(SIZE // 251 + 1)[:SIZE] if filled else torch.zeros(SIZE, dtype=row.dtype)
        )
        self.register_buffer("small", torch.tensor([1.5]) if filled else torch.zeros(1))


def test_more_than_two_gibibytes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with milepost.Checkpointer(run, model=Large(True), progress=False) as checkpointer:
        checkpointer.step()
    file = run / "step-00000001" / "model.safetensors"
    assert file.stat().st_size > SIZE

    source = milepost.open(run)
    found = source["model/large"]
    assert found.shape == (SIZE,)
    ends = (0, 1, (1 << 31) - 1, 1 << 31, SIZE - 1)
    assert [int(found[at]) for at in ends] == [at % 251 for at in ends]
    del found

    fresh = Large(False)
    with milepost.Checkpointer(run, model=fresh, progress=False) as checkpointer:
        assert checkpointer.resumed_from == "step-00000001"
        large = fresh.large.numpy()
        for start in range(0, SIZE, 251 << 16):
            part = large[start : start + (251 << 16)]
            assert np.array_equal(part, np.resize(np.arange(251, dtype=np.uint8), len(part)))
        assert fresh.small.item() == 1.5

    with file.open("rb") as opened:
        opened.seek(-5, 2)
        byte = opened.read(1)[0]
    file.chmod(0o644)
    with file.open("r+b") as opened:
        opened.seek(-5, 2)
        opened.write(bytes([byte ^ 1]))
    command = [sys.executable, "-m", "milepost", "verify", str(run)]
    assert subprocess.run(command, capture_output=True).returncode == 1
