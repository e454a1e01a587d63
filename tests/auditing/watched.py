"""Runs a script of the gallery, kills it where that is told, and writes down what came of it:
``python watched.py OUTCOME DIE_AT SEED script.py [argument ...]``.

The outcome is JSON: the step that the run was resumed from, the metrics of every step and end of an epoch, and, where the script
reached its end, digests of all items, of run.vars and of the global random generators.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

import milepost
from milepost.core.leaves import digest
from milepost.training.rng import GlobalRng

KILLED = 99


class Watched(milepost.Checkpointer):
    outcome: ClassVar[dict[str, Any]] = {"from": 0, "rows": {}, "end": None}
    path: Path
    die_at: int

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.outcome["from"] = self.progress.step

    def step(self, *, step: int | None = None, **values: Any) -> None:
        before = self.progress.step
        super().step(step=step, **values)
        self._note(f"step {self.progress.step}", values)
        if before < self.die_at == self.progress.step:
            self.wait()
            self.save_outcome()
            os._exit(KILLED)

    def epoch_end(self, **metrics: Any) -> None:
        super().epoch_end(**metrics)
        self._note(f"end after step {self.progress.step}", metrics)

    def _note(self, where: str, values: dict[str, Any]) -> None:
        row = {
            name: float(value.detach() if isinstance(value, torch.Tensor) else value)
            for name, value in values.items()
            if name not in self._items
        }
        self.outcome["rows"].setdefault(where, []).append(row)

    def _close(self, problem: BaseException | None) -> None:
        super()._close(problem)
        if problem is None:
            items = {name: digest(item.capture()) for name, item in self._items.items()}
            self.outcome["end"] = {**items, "run.vars": digest(self._now.vars), "rng": digest(GlobalRng().capture())}

    @classmethod
    def save_outcome(cls) -> None:
        cls.path.write_text(json.dumps(cls.outcome))


def main() -> None:
    outcome, die_at, seed, script = sys.argv[1:5]
    Watched.path, Watched.die_at = Path(outcome), int(die_at)
    # For a script that does not seed: a first start is told from a second, and is the same each time it is made.
    random.seed(int(seed))
    np.random.seed(int(seed))
    torch.manual_seed(int(seed))
    milepost.Checkpointer = Watched
    sys.argv[:] = sys.argv[4:]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")
    Watched.save_outcome()


if __name__ == "__main__":
    main()
