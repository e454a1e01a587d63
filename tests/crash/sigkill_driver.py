"""Kill a training job at random instants, many times, and look at what is left after each; run by `test_sigkill.py`.

Children are forked from a process that has imported torch and started no thread, so that each lives for some 100 ms
only and most of that time is spent saving. A child trains by a rule that says what the state at every step must be,
saves at every step, and tells the parent which steps are durable.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

import torch

import milepost
import milepost.core.arrays
import milepost.ops.refs
import milepost.torch.adapter
import milepost.torch.items
import milepost.torch.overlap
import milepost.torch.rng
import milepost.torch.values
import milepost.training.checkpointer  # all that a child needs: it has no time to import
from milepost.errors import MilepostError, NotFoundError

WIDTH = 3000


def expected(step: int) -> torch.Tensor:
    """The weights after `step` steps."""
    return torch.full((WIDTH,), 1.0, dtype=torch.float64) * step + torch.arange(WIDTH) / 7


class Rule(torch.nn.Module):
    """A "model" whose training is known."""

    def __init__(self) -> None:
        super().__init__()
        self.moving = torch.nn.Parameter(expected(0))
        self.frozen = torch.nn.Parameter(torch.arange(5000.0))


def child(directory: Path, tell: int) -> None:
    """Train and save at every step, for ever. Tells each durable step as a line."""
    model = Rule()
    with milepost.Checkpointer(
        directory, model=model, keep=milepost.Keep(last=2, every_steps=40), signals=(), progress=False
    ) as run:
        assert torch.equal(model.moving, expected(run.progress.step)), run.progress.step
        assert run.vars.get("step", 0) == run.progress.step
        waiting: list[milepost.Pending] = []
        while True:
            with torch.no_grad():
                model.moving.copy_(expected(run.progress.step + 1))
            run.vars["step"] = run.progress.step + 1
            run.step()
            pending = run.save()
            assert pending is not None
            waiting.append(pending)
            while waiting and waiting[0].done():
                os.write(tell, f"{waiting.pop(0).result().step}\n".encode())


def killed_once(directory: Path, chance: random.Random, log: Path) -> int:
    """Start a child, kill it at a random instant; returns the last step it said was durable (0 if none)."""
    hear, tell = os.pipe()
    process = os.fork()
    if process == 0:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        code = 1
        try:
            child(directory, tell)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(tell)
    if chance.random() < 0.7:  # while it saves, however slow this machine is; else while it starts
        select.select([hear], [], [], 10)
    time.sleep(chance.uniform(0, 0.06))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    told = b""
    while piece := os.read(hear, 65536):
        told += piece
    os.close(hear)
    if not os.WIFSIGNALED(status):
        raise SystemExit(f"the child ended by itself:\n{log.read_text()}")
    return int(told.split()[-1]) if told.split() else 0


def look(directory: Path, acknowledged: int) -> int:
    """Check what a killed child left; returns the step that a restart continues from."""
    for folder in directory.glob("step-*"):
        source = milepost.open(str(folder))  # the manifest is whole
        step = source.metadata["step"]
        assert source["model/moving"].tobytes() == expected(step).numpy().tobytes(), folder
        assert source["model/frozen"].tobytes() == torch.arange(5000.0).numpy().tobytes(), folder
        assert source.plain["run/vars/step"] == step, folder
    try:
        newest = int(milepost.open(str(directory)).metadata["step"])
    except (NotFoundError, MilepostError):
        newest = 0
    assert newest >= acknowledged, f"step {acknowledged} was acknowledged, but {newest} is what is left"
    return newest


def main() -> None:
    """``sigkill_driver.py DIRECTORY KILLS SEED``: prints what was seen as JSON."""
    directory, kills, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    torch.set_num_threads(1)
    acknowledged = newest = killed_while_saving = 0
    for _ in range(kills):
        acknowledged = max(acknowledged, killed_once(directory, chance, directory.with_suffix(".log")))
        newest = look(directory, acknowledged) if directory.exists() else 0
        killed_while_saving += any((directory / "attempts").glob("*.work/step-*")) if directory.exists() else 0
    print(json.dumps({"newest": newest, "acknowledged": acknowledged, "killed_while_saving": killed_while_saving}))


if __name__ == "__main__":
    main()
