"""Let a newcomer take a run over from a process that is saving, many times; run by `test_takeover_races.py`.

The stale process saves at every step, so that at any instant it is writing, committing or removing. Whatever the newcomer
sees when it has opened the run must be all there ever is: nothing of the stale process may appear or vanish after it.
"""

from __future__ import annotations

import json
import os
import random
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import milepost
import milepost.core.arrays
import milepost.ops.refs
import milepost.training.checkpointer  # all that a child needs: it has no time to import
from milepost.errors import RunFenced

FENCED = 9


def checkpoints(directory: Path) -> dict[str, bytes]:
    """What is visible: the manifest of each checkpoint folder."""
    return {folder.name: (folder / "manifest.json").read_bytes() for folder in directory.glob("step-*")}


def stale(directory: Path, tell: int) -> None:
    """Save at every step until fenced; says so with an exit code."""
    try:
        with milepost.Checkpointer(
            directory, w=np.zeros(2000), keep=milepost.Keep(last=2), signals=(), progress=False, takeover=True
        ) as run:
            while True:
                run.step(w=run["w"] + 1)
                run.save()
                os.write(tell, b".")
    except RunFenced:
        os._exit(FENCED)


def newcomer(directory: Path, tell: int) -> None:
    """Take the run over and tell what is there."""
    milepost.Checkpointer(directory, w=np.zeros(2000), signals=(), progress=False, takeover=True)
    seen = {name: hash_of(data) for name, data in checkpoints(directory).items()}
    os.write(tell, json.dumps(seen).encode())


def hash_of(data: bytes) -> str:
    """A short name for a manifest."""
    return data[-40:].decode()


def fork(work: Callable[[Path, int], None], directory: Path) -> tuple[int, int]:
    """Run `work` in a child; returns its process number and what it tells."""
    hear, tell = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(hear)
        os.dup2(os.open(directory.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        code = 1
        try:
            work(directory, tell)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(tell)
    return process, hear


def race(directory: Path, chance: random.Random) -> bool:
    """One takeover; returns whether the stale process was in the middle of a save when it was fenced."""
    old, hears_old = fork(stale, directory)
    select.select([hears_old], [], [], 10)
    time.sleep(chance.uniform(0, 0.03))
    new, hears_new = fork(newcomer, directory)
    _, status = os.waitpid(new, 0)
    assert os.waitstatus_to_exitcode(status) == 0, directory.with_suffix(".log").read_text()[-3000:]
    seen = json.loads(os.read(hears_new, 1 << 20))
    # The stale process blocks if nobody reads what it tells; it must come to its end by itself.
    while os.read(hears_old, 65536):
        continue
    _, status = os.waitpid(old, 0)
    assert os.waitstatus_to_exitcode(status) == FENCED, directory.with_suffix(".log").read_text()[-3000:]
    os.close(hears_old)
    os.close(hears_new)
    left = {name: hash_of(data) for name, data in checkpoints(directory).items()}
    assert left == seen, f"the newcomer saw {sorted(seen)}, and then there were {sorted(left)}"
    return bool(seen)


def main() -> None:
    """``takeover_driver.py DIRECTORY RACES SEED``: prints what was seen as JSON."""
    directory, races, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    with_checkpoints = sum(race(directory, chance) for _ in range(races))
    print(json.dumps({"races": races, "with_checkpoints": with_checkpoints}))


if __name__ == "__main__":
    main()
