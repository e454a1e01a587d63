"""How long ``milepost ls`` takes on a run of 1,000 checkpoints of 600 tensors each: the median of 10 whole processes.

    python bench/ls_1000.py [--runs 10] [--folder DIR]

The run is made in a temporary folder (150 MB of manifests). The first checkpoint is saved as a job saves it; the
others are its copies under other steps and metrics, which is all that a listing looks at.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from milepost.core import dtypes, tree
from milepost.core.layout import plan
from milepost.core.manifest import Manifest, Tensor, decode, encode
from milepost.folder import names
from milepost.folder.attempts import claim
from milepost.folder.commit import Committer
from milepost.folder.retention import Keep
from milepost.folder.run import BestBy, RunFolder
from milepost.folder.snapshot import IO_BLOCK, Piece, Position, Snapshot
from milepost.storage.local import LocalStorage
from milepost.storage.pages import Pages

CHECKPOINTS, TENSORS = 1000, 600
GOAL = 0.4  # seconds


class ZerosFile:
    """One item of float32 zeros, as a `milepost.folder.snapshot.StagedFile`."""

    def __init__(self, item: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.item = item
        self.layout = plan((path.partition("/")[2], dtypes.dtype("float32"), shape) for path, shape in shapes.items())
        self.pieces = tuple(Piece(f"{item}/{entry.key}") for entry in self.layout.entries)
        self._image = Pages(self.layout.size).view
        self._image[: len(self.layout.header)] = self.layout.header

    def blocks(self) -> Iterator[tuple[int, memoryview]]:
        for offset in range(0, len(self._image), IO_BLOCK):
            yield offset, self._image[offset : offset + IO_BLOCK]


def make_run(where: Path, checkpoints: int = CHECKPOINTS) -> None:
    """Make the run."""
    run = RunFolder.create(LocalStorage(where))
    run.info.best = BestBy("val_loss", "min")
    run.save_info()
    attempt = claim(run.storage)
    attempt.save_record()
    committer = Committer(run, attempt, Keep(last=None))
    counts = {"model": TENSORS // 3, "optimizer": TENSORS - TENSORS // 3}
    shapes = {item: {f"{item}/block.{n}.weight": (8, 8) for n in range(count)} for item, count in counts.items()}
    state: dict[str, Any] = {item: {path.partition("/")[2]: path for path in paths} for item, paths in shapes.items()}
    structures = {item: tree.flatten(value, _is_tensor, item)[0] for item, value in state.items()}
    sizes = {path: shape for paths in shapes.values() for path, shape in paths.items()}
    tensors = {path: Tensor("float32", shape, trained=True) for path, shape in sizes.items()}
    files = tuple(ZerosFile(item, paths) for item, paths in shapes.items())
    metrics = {"loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5}
    stems = {item: item for item in shapes}
    first = committer.commit(Snapshot(Position(1), metrics, structures, tensors, files, stems))
    manifest = decode((where / first.folder / names.MANIFEST).read_bytes(), first.folder)
    for number in range(2, checkpoints + 1):
        copy(where, first.folder, manifest, number)
    committer.close()
    attempt.end("complete")


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, str)


def copy(where: Path, first: str, manifest: Manifest, number: int) -> None:
    """Make checkpoint `number` of the first one."""
    folder = where / names.step_folder(number * 100)
    folder.mkdir()
    metrics: dict[str, float | str] = {"loss": 3 / number, "val_loss": 4 / number, "val_accuracy": 1 - 1 / number}
    moved = {"step": number * 100, "epoch": number // 5, "batch": number * 100 % 500, "new_bytes": 0}
    summary = msgspec.structs.replace(manifest.summary, metrics=metrics, **moved)
    (folder / names.MANIFEST).write_bytes(encode(msgspec.structs.replace(manifest, summary=summary)))
    for file in manifest.files:
        (folder / file).hardlink_to(where / first / file)


def measure(command: list[str]) -> float:
    """Seconds that a process takes, from its start to its end."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> int:
    """Make the run, list it, print what it took; the exit code is 1 if that is more than the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="processes to time (default: 10)")
    parser.add_argument("--folder", help="where the run is made (default: the system's temporary folder)")
    options = parser.parse_args()
    milepost = str(Path(sys.executable).with_name("milepost"))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        where = Path(folder, "run")
        make_run(where)
        measure([milepost, "ls", str(where)])  # the manifests are in the page cache from here on
        listing = [measure([milepost, "ls", str(where)]) for _ in range(options.runs)]
        python = [measure([sys.executable, "-c", "pass"]) for _ in range(options.runs)]
        typer = [measure([sys.executable, "-c", "import typer"]) for _ in range(options.runs)]
    took = statistics.median(listing)
    print(f"milepost ls, {CHECKPOINTS:,} checkpoints of {TENSORS} tensors: {took:.3f} s (goal {GOAL} s)")
    print(f"  fastest {min(listing):.3f} s, slowest {max(listing):.3f} s of {options.runs}")
    print(
        f"  an empty Python process {statistics.median(python):.3f} s, one with typer {statistics.median(typer):.3f} s"
    )
    return 0 if took <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
