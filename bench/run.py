"""Measures milepost beside other checkpointers, prints a table and writes it into docs/performance.md.

    make bench                                    everything, about 15 minutes on two cores
    make bench ARGS="--only training"             stall, slowdown, memory, time to durable (a group; see below)
    make bench ARGS="--only restore --peers milepost,torch.save --trials 6"

Groups: training (stall, slowdown, memory, time to durable), restore, frozen, import, ls, look (show, stats, diff), keras (saves in
model.fit). The peers take turns, A B C ... A B C ..., each trial in a process of its own. Only a whole run writes the page, unless
--docs says where.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import keras_saves
import looking
import ls_1000
import machine
import report
from peers import PEERS, Milepost, Moonclip, installed
from workload import SCALES

HERE = Path(__file__).resolve().parent
GROUPS = ("training", "restore", "frozen", "import", "ls", "look", "keras")
_IMPORT = """
import time
begin = time.perf_counter()
import numpy
middle = time.perf_counter()
import milepost
end = time.perf_counter()
milepost.Checkpointer
print(middle - begin, end - middle, time.perf_counter() - end)
"""

Results = defaultdict[str, defaultdict[str, list[Any]]]
"""Group -> peer -> what each trial measured."""


class Bench:
    """Runs trials and keeps what they say."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.results: Results = defaultdict(lambda: defaultdict(list))
        self._began = time.monotonic()

    def say(self, what: str) -> None:
        print(f"{time.monotonic() - self._began:5.0f} s  {what}", file=sys.stderr, flush=True)

    def trial(self, kind: str, peer: str, folder: Path, *more: str) -> bool:
        """Run one trial in a process of its own; False, with a line that says so, if it failed."""
        command = [sys.executable, str(HERE / "trials.py"), kind, "--peer", peer, "--folder", str(folder)]
        command += ["--scale", self.options.scale, *more, *(["--quick"] if self.options.quick else [])]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            self.say(f"{peer}: {kind} failed\n{ran.stderr}")
            return False
        self.results[kind][peer].append(json.loads(ran.stdout.splitlines()[-1]))
        return True

    def saving(self) -> None:
        """`training` and `restore`: the peers in turn, and then again."""
        for round_ in range(self.options.trials):
            for peer in self.options.peers:
                self.say(f"round {round_ + 1} of {self.options.trials}: {peer}")
                place = self.folder / "trial"
                # What is to be within a per cent needs more samples than what loses a quarter.
                turns, restores = (4, 2) if peer == Milepost.name and not self.options.quick else (1, 1)
                left = self.trial("training", peer, place, "--turns", str(turns))
                if left and "restore" in self.options.only:
                    for _ in range(restores):
                        self.trial("restore", peer, place)
                shutil.rmtree(place, ignore_errors=True)

    def frozen(self) -> None:
        for peer in self.options.peers:
            if peer in (Milepost.name, Moonclip.name):  # the others write everything every time
                self.say(f"frozen weights: {peer}")
                self.trial("frozen", peer, self.folder / "frozen")
                shutil.rmtree(self.folder / "frozen", ignore_errors=True)

    def imports(self) -> None:
        """Milliseconds of `import numpy`, of `import milepost` after it, and of the first use of its main class."""
        self.say("import milepost")
        for _ in range(3 if self.options.quick else 15):
            ran = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True)
            self.results["import"][Milepost.name].append([1000 * float(word) for word in ran.stdout.split()])

    def listing(self) -> None:
        """Seconds of `milepost ls` on a run of 1,000 checkpoints."""
        self.say("milepost ls")
        checkpoints = 20 if self.options.quick else ls_1000.CHECKPOINTS
        run = self.folder / "run"
        ls_1000.make_run(run, checkpoints)
        command = [str(Path(sys.executable).with_name("milepost")), "ls", str(run)]
        ls_1000.measure(command)
        for _ in range(3 if self.options.quick else 11):
            took = ls_1000.measure(command)
            empty = ls_1000.measure([sys.executable, "-c", "pass"])
            self.results["ls"][Milepost.name].append([took, empty])
        shutil.rmtree(run)

    def looks(self) -> None:
        """Looking into files of 1 GB: `looking` measures each peer."""
        files = self.folder / "look"
        quick = self.options.quick
        looking.make(files, 2_000_000 if quick else looking.SIZE, tensorflow=not quick)
        for round_ in range(1 if quick else 7):
            for peer in [looking.MILEPOST] if quick else looking.PEERS:
                self.say(f"looking, round {round_ + 1}: {peer}")
                if looking.installed(peer):
                    self.results["look"][peer].append(looking.measure(peer, files))
                else:
                    self.say(f"{peer} is left out: package {looking.PEERS[peer]} is not installed")
        shutil.rmtree(files)

    def keras(self) -> None:
        """Saves in ``model.fit`` beside those of Keras' own callbacks: `keras_saves` has them take turns."""
        quick = self.options.quick
        for backend in keras_saves.BACKENDS:
            if not keras_saves.installed(backend):
                self.say(f"Keras on {backend} is left out: it is not installed")
                continue
            self.say(f"Keras on {backend}")
            sizes = {"width": 64, "saves": 1} if quick else {"width": 5000, "saves": self.options.trials + 1}
            self.results["keras"][backend].append(keras_saves.measure(backend, self.folder / "keras", **sizes))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(GROUPS), help=f"groups, separated by commas: {', '.join(GROUPS)}")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"names, separated by commas: {', '.join(PEERS)}")
    parser.add_argument("--trials", type=int, help="rounds of training and restore (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one short round: whether everything runs, not how fast")
    parser.add_argument(
        "--scale", choices=SCALES, default="gpt2", help="size of the model (default: gpt2, 1.18 GB of state)"
    )
    parser.add_argument(
        "--folder", type=Path, help="where checkpoints are written: the disk to measure (default: runs/)"
    )
    parser.add_argument("--docs", type=Path, help="page to write the table into (default: docs/performance.md)")
    parser.add_argument(
        "--json", type=Path, help="file for all that was measured (default: bench.json beside the checkpoints)"
    )
    found = parser.parse_args()
    for name, known in (("only", GROUPS), ("peers", tuple(PEERS))):
        chosen = getattr(found, name).split(",")
        for one in chosen:
            if one not in known:
                parser.error(f"--{name}: {one!r} is none of {', '.join(known)}")
        setattr(found, name, chosen)
    whole = (
        set(found.only) == set(GROUPS) and set(found.peers) == set(PEERS) and found.scale == "gpt2" and not found.quick
    )
    if found.docs is None and whole:
        found.docs = HERE.parent / "docs" / "performance.md"
    found.trials = found.trials or (1 if found.quick else 3)
    return found


def main() -> int:
    chosen = options()
    for peer in [peer for peer in chosen.peers if not installed(peer)]:
        print(f"{peer} is left out: package {PEERS[peer].package} is not installed", file=sys.stderr)
        chosen.peers.remove(peer)
    above = chosen.folder or HERE.parent / "runs"
    above.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=above, prefix="bench-") as folder:
        about = machine.describe(Path(folder))
        if os.getloadavg()[0] > 0.5:
            print(
                f"this machine is busy (load {os.getloadavg()[0]:.1f}): the numbers will not mean much", file=sys.stderr
            )
        bench = Bench(chosen, Path(folder))
        if {"training", "restore"} & set(chosen.only):
            bench.saving()
        for group, measure in (
            ("frozen", bench.frozen),
            ("import", bench.imports),
            ("ls", bench.listing),
            ("look", bench.looks),
            ("keras", bench.keras),
        ):
            if group in chosen.only:
                measure()
        bench.say("done")
    arguments = " ".join(sys.argv[1:])
    keep = chosen.json or above / "bench.json"
    keep.write_text(json.dumps({"machine": about, "arguments": arguments, "results": bench.results}))
    page = report.page(bench.results, about, arguments)
    print(page)
    if chosen.docs:
        report.put(page, chosen.docs)
        print(f"written into {chosen.docs}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
