"""How fast one looks into a checkpoint: the first output of a whole process, statistics and differences, on one core.

    python bench/looking.py FOLDER [SIZE]      files of SIZE bytes (default: 1 GB) are made in FOLDER, and stay there

The peers do what their documentation offers for the task. ckptkit tells shapes and types; it has no statistics of values, and its
`diff` compares shapes and types, so that it takes part in the first figure only. With torch.load and tf.train.load_checkpoint one
has to write the loop; what is written here computes less than `milepost stats` does (no NaN, no zeros, no histogram).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SIZE = 1_000_000_000
ROWS, COLUMNS = 1024, 4096
"""Shape of each tensor, of float32: 17 MB."""
MILEPOST, MILEPOST_PT, CKPTKIT = "milepost", "milepost, .pt", "ckptkit"
TORCH, TENSORFLOW = "torch.load", "tf.train.load_checkpoint"
PEERS = {MILEPOST: "milepost", MILEPOST_PT: "milepost", CKPTKIT: "ckptkit", TORCH: "torch", TENSORFLOW: "tensorflow"}
"""Name -> the package that has to be installed."""

_MAKE = """
import numpy as np, sys, torch
from pathlib import Path
from safetensors.torch import save_file
folder, count, rows, columns = Path(sys.argv[1]), *map(int, sys.argv[2:5])
draw = torch.Generator().manual_seed(0)
a = {f"layer{n}.weight": torch.randn(rows, columns, generator=draw) for n in range(count)}
save_file(a, folder / "a.safetensors")
torch.save(a, folder / "a.pt")
if sys.argv[5]:
    import tensorflow as tf
    tf.train.Checkpoint(**{name: tf.Variable(value.numpy()) for name, value in a.items()}).write(str(folder / "a-tf"))
b = {name: value + 1e-3 * torch.randn(rows, columns, generator=draw) for name, value in a.items()}
save_file(b, folder / "b.safetensors")
torch.save(b, folder / "b.pt")
if sys.argv[5]:
    tf.train.Checkpoint(**{name: tf.Variable(value.numpy()) for name, value in b.items()}).write(str(folder / "b-tf"))
"""
_NUMPY = "(x.min(), x.max(), x.mean(dtype='f8'), x.std(dtype='f8'), np.linalg.norm(x))"
_TORCH = "(x.min(), x.max(), x.mean(dtype=torch.float64), x.double().std(), x.norm())"
_READ = {
    MILEPOST: ("import milepost; milepost.open, milepost.stats, milepost.diff", "milepost.open(f)", None),
    MILEPOST_PT: ("import milepost; milepost.open, milepost.stats, milepost.diff", "milepost.open(f)", None),
    TORCH: ("import torch", "torch.load(f, weights_only=True)", _TORCH),
    TENSORFLOW: (
        "import numpy as np, tensorflow as tf",
        "(lambda r: {k: r.get_tensor(k) for k, v in r.get_variable_to_shape_map().items() if v})(tf.train.load_checkpoint(f))",
        _NUMPY,
    ),
}
"""Import, how a file is opened, and the statistics of tensor x; None where one call has them."""


def file_of(peer: str, folder: Path, which: str = "a") -> str:
    """The file that a peer looks into."""
    ends = {MILEPOST: ".safetensors", CKPTKIT: ".safetensors", TENSORFLOW: "-tf"}
    return str(folder / f"{which}{ends.get(peer, '.pt')}")


def make(folder: Path, size: int = SIZE, *, tensorflow: bool = True) -> None:
    """Make the files: the same tensors in each format, and again with a little noise."""
    folder.mkdir(parents=True, exist_ok=True)
    count = max(1, size // (ROWS * COLUMNS * 4))
    rows = ROWS if size >= ROWS * COLUMNS * 4 else 64
    last = TENSORFLOW if tensorflow and installed(TENSORFLOW) else ""
    script = [sys.executable, "-c", _MAKE, str(folder), str(count), str(rows), str(COLUMNS), last]
    subprocess.run(script, check=True, env=_quiet())


def first_output(peer: str, folder: Path) -> float:
    """Seconds from the start of a process to the first byte that tells of the file."""
    file = file_of(peer, folder)
    shapes = "print([tuple(v.shape) for v in torch.load({0!r}, weights_only=True).values()], flush=True)"
    commands = {
        CKPTKIT: ["-c", "from ckptkit.cli import cli; cli()", "info", file],
        TORCH: ["-c", "import torch; " + shapes.format(file)],
        TENSORFLOW: [
            "-c",
            f"import tensorflow as tf; print(tf.train.load_checkpoint({file!r}).get_variable_to_shape_map(), flush=True)",
        ],
    }
    command = [sys.executable, *commands.get(peer, ["-m", "milepost", "show", file])]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_quiet()) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 1)
        took = time.perf_counter() - begin
        process.stdout.read()
    if not first or process.returncode:
        raise RuntimeError(f"{peer} failed")
    return took


def work(peer: str, folder: Path, task: str) -> dict[str, float]:
    """Seconds per GB read that `task` ("stats" or "diff") takes in a process of its own on one core, by the clock and of the
    processor, and its peak of memory in bytes beyond what it took before."""
    load, read, statistics = _READ[peer]
    a, b = file_of(peer, folder), file_of(peer, folder, "b")
    if statistics is None:
        act = {"stats": f"milepost.stats({a!r})", "diff": f"milepost.diff({a!r}, {b!r})"}[task]
    elif task == "stats":
        act = f"f = {a!r}; [{statistics} for x in {read}.values()]"
    else:
        open_a, open_b = (read.replace("(f)", f"({file!r})").replace("(f,", f"({file!r},") for file in (a, b))
        act = f"p, q = {open_a}, {open_b}; [(abs(q[k] - p[k]).max(), ((q[k] - p[k])**2).sum(), (p[k]**2).sum()) for k in p]"
    script = f"""
import json, os, resource, time
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
{load}
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, begin, spent = peak(), time.perf_counter(), time.process_time()
{act}
print(json.dumps([time.perf_counter() - begin, time.process_time() - spent, peak() - before]))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=_quiet())
    if ran.returncode:
        raise RuntimeError(f"{peer}: {task} failed\n{ran.stderr[-2000:]}")
    seconds, processor, extra = json.loads(ran.stdout.splitlines()[-1])
    gigabytes = (_size(a) + (_size(b) if task == "diff" else 0)) / 1e9
    return {"seconds_per_gb": seconds / gigabytes, "processor_per_gb": processor / gigabytes, "extra": extra}


def measure(peer: str, folder: Path) -> dict[str, Any]:
    """One trial of all that a peer can do."""
    for which in "ab":
        _warm(file_of(peer, folder, which))
    found: dict[str, Any] = {"first": first_output(peer, folder)}
    if peer in _READ:
        found |= {task: work(peer, folder, task) for task in ("stats", "diff")}
    return found


def installed(peer: str) -> bool:
    """Whether what a peer needs is there."""
    return importlib.util.find_spec(PEERS[peer]) is not None


def _files(name: str) -> list[Path]:
    path = Path(name)
    return [path] if path.exists() else sorted(path.parent.glob(f"{path.name}.*"))


def _size(name: str) -> int:
    return sum(file.stat().st_size for file in _files(name))


def _warm(name: str) -> None:
    for file in _files(name):
        with open(file, "rb") as source:
            while source.read(1 << 24):
                pass


def _quiet() -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


if __name__ == "__main__":
    where = Path(sys.argv[1])
    make(where, int(float(sys.argv[2])) if len(sys.argv) > 2 else SIZE)
    for name in filter(installed, PEERS):
        print(name, json.dumps(measure(name, where)))
