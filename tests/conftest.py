"""Real runs in small: checkpoints that the committer wrote, of states that a test gives as numpy arrays and plain
values."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings

from milepost.core import dtypes, tree
from milepost.core.layout import Layout, plan
from milepost.core.manifest import Tensor
from milepost.folder.attempts import Parent, claim
from milepost.folder.commit import Committer
from milepost.folder.names import file_stems
from milepost.folder.retention import Keep
from milepost.folder.run import Listed, RunFolder
from milepost.folder.snapshot import IO_BLOCK, Piece, Position, Snapshot
from milepost.storage.base import BLOCK, Storage
from milepost.storage.local import LocalStorage
from milepost.storage.pages import Pages

Array = npt.NDArray[Any]

# What hypothesis draws is the same in every run, so that a failure is the change's own and comes back. The other profile,
# `--hypothesis-profile=search`, looks elsewhere each time, and fifty times as long. Tests that need more or fewer examples take
# them in proportion.
settings.register_profile(
    "same", max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", settings.get_profile("same"), max_examples=5000, derandomize=False)
settings.load_profile("same")

# A shell starts what it puts into the background with Ctrl-C ignored, and so would be everything the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class ArraysFile:
    """The arrays of one item as a `StagedFile`: the whole image in memory."""

    def __init__(self, item: str, arrays: Mapping[str, Array]) -> None:
        kinds = {path: dtypes.from_numpy(array.dtype) for path, array in arrays.items()}
        by_key = {path.removeprefix(f"{item}/"): path for path in arrays}
        self.item = item
        self.layout: Layout = plan((key, kinds[path], arrays[path].shape) for key, path in by_key.items())
        self.pieces = tuple(Piece(by_key[entry.key]) for entry in self.layout.entries)
        self._image = Pages(-(-self.layout.size // BLOCK) * BLOCK).view
        self._image[: len(self.layout.header)] = self.layout.header
        for entry, piece in zip(self.layout.entries, self.pieces, strict=True):
            self._image[entry.offset : entry.offset + entry.nbytes] = arrays[piece.path].tobytes()

    def blocks(self) -> Iterator[tuple[int, memoryview]]:
        for offset in range(0, len(self._image), IO_BLOCK):
            yield offset, self._image[offset : offset + IO_BLOCK]


def snapshot(
    position: Position, state: Mapping[str, Any], metrics: Mapping[str, float], written_by: Mapping[str, Any]
) -> Snapshot:
    structures, tensors, files = {}, {}, []
    for item, value in state.items():
        structures[item], leaves = tree.flatten(value, lambda leaf: isinstance(leaf, np.ndarray), item)
        if leaves:
            files.append(ArraysFile(item, leaves))
        for path, array in leaves.items():
            tensors[path] = Tensor(array.dtype.name, array.shape, trained=item == "model")
    return Snapshot(position, metrics, structures, tensors, tuple(files), file_stems(state), written_by)


class Job:
    """One attempt of a run, saving when told. Ends with `end`, or as a killed job would with `die`."""

    def __init__(self, where: Path | Storage, *, parent: Parent | None = None, keep: Keep | None = None) -> None:
        self.keep = keep or Keep(last=None)
        self.run = RunFolder.create(LocalStorage(where) if isinstance(where, Path) else where)
        if self.keep.best_by is not None:
            self.run.info.best = self.keep.best_by
            self.run.save_info()
        self.attempt = claim(self.run.storage)
        self.attempt.record.parent = parent
        self.attempt.save_record()
        self.committer = Committer(self.run, self.attempt, self.keep)

    def save(
        self, step: int, state: Mapping[str, Any] | None = None, *, epoch: int = 0, batch: int = 0,
        written_by: Mapping[str, Any] | None = None, **metrics: float,
    ) -> Listed:  # fmt: skip
        state = state if state is not None else small_state(step)
        taken = snapshot(Position(step, epoch, batch), state, metrics, written_by or {"milepost": "0.1.0"})
        saved = self.committer.commit(taken)
        self.committer.tidy(saved)
        return saved

    def end(self, how: str = "complete") -> None:
        self.committer.close()
        self.attempt.end(how)

    def die(self) -> None:
        """Leave everything as a SIGKILL would: the lock gone, no word written."""
        self.committer.close()
        self.attempt._stop.set()
        self.attempt._heart.join()
        self.attempt._lock.release()


def small_state(step: int) -> dict[str, Any]:
    """Two items with a tensor that never changes, one that does, and plain values. What never changes is a little less than half of
    its file, so that every save writes all."""
    return {
        "model": {
            "frozen.weight": np.arange(2048, dtype=np.float16).reshape(32, 64),
            "head.weight": np.full((4, 8), step, dtype=np.float32),
        },
        "vars": {"step": step, "note": "as it was", "betas": (0.9, 0.999), "worst": float("inf")},
    }


@pytest.fixture
def take() -> Callable[..., Snapshot]:
    """Makes a snapshot of arrays and plain values."""
    return snapshot


@pytest.fixture
def start_job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Start an attempt of the run in ``tmp_path / "run"`` (or another folder); what is still alive at the end of the
    test ends."""
    jobs: list[Job] = []

    def start(where: Path | Storage | None = None, **options: Any) -> Job:
        jobs.append(Job(where or tmp_path / "run", **options))
        return jobs[-1]

    yield start
    for job in jobs:
        if not job.attempt._stop.is_set():
            job.end("closed")


@pytest.fixture
def branched(start_job: Callable[..., Job]) -> RunFolder:
    """A run with two attempts: the first saved steps 100 to 400 and was killed, the second went back to 200 and saved
    300 and, with NaN in it, 350. So 400 is abandoned, the first 300 superseded, and the best (smallest) val_loss is
    at the second 300."""
    keep = Keep(last=None, best="val_loss")
    first = start_job(keep=keep)
    for step in (100, 200, 300, 400):
        first.save(step, val_loss=2 / step)
    first.die()
    second = start_job(keep=keep, parent=Parent(1, 200))
    second.save(300, val_loss=1 / 300)
    bad = small_state(350)
    bad["model"]["head.weight"][0] = np.nan
    second.save(350, bad, loss=float("nan"))
    second.end("stopped")
    return second.run


@pytest.fixture
def make_run(start_job: Callable[..., Job]) -> Callable[..., RunFolder]:
    """Make a complete run with checkpoints at `steps`."""

    def make(
        where: Path | Storage | None = None, steps: tuple[int, ...] = (100, 200, 300), **options: Any
    ) -> RunFolder:
        job = start_job(where, **options)
        for step in steps:
            job.save(step, epoch=step // 200, batch=step % 200, loss=1 / step)
        job.end()
        return job.run

    return make


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Run ``formats/makers/NAME.py`` once and return the folder it filled: frameworks take seconds to import, and some do not go
    together."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            script = Path(__file__).parent / "formats" / "makers" / f"{name}.py"
            ended = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True)
            assert ended.returncode == 0, ended.stderr[-4000:]
            made[name] = folder
        return made[name]

    return run
