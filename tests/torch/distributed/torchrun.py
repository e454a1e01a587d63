"""Starting real ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RANKS = Path(__file__).with_name("ranks.py")
SECONDS = 240


def torchrun(ranks: int, job: str, *arguments: object, code: int | None = 0) -> str:
    """Run function `job` of ranks.py in so many processes; returns what they printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, str(RANKS), job, *map(str, arguments)],
        capture_output=True, text=True, timeout=SECONDS, env=environment,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert code is None or done.returncode == code, said
    return said
