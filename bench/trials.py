"""One trial in a process of its own: `python bench/trials.py KIND --peer NAME --folder DIR`. Prints one line of JSON.

training   a training that saves every 5 steps, at every step, and not at all, in turn; then saves while it stands still
restore    the newest checkpoint that `training` left in the folder, into a model and an optimizer that have just been made
frozen     20 checkpoints of a model of which 90 % is frozen
"""

from __future__ import annotations

import argparse
import json
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_io
from peers import PEERS, Milepost, Peer, files, sync_all
from torch.optim.optimizer import register_optimizer_step_pre_hook
from workload import SCALES, Scale, Training

EVERY = 5
PLAIN, EXPECTED = "plain.bin", "expected.json"


class Clock:
    """Measures how long optimizer steps are held back: between a hook registered before the peer's and one registered after."""

    def __init__(self) -> None:
        self.waited = 0.0
        self._entered = 0.0
        register_optimizer_step_pre_hook(self._enter)

    def listen(self) -> None:
        """To be called once the peer is there: torch calls hooks in the order of their registration."""
        register_optimizer_step_pre_hook(self._leave)

    def _enter(self, *_: Any) -> None:
        self._entered = time.perf_counter()

    def _leave(self, *_: Any) -> None:
        self.waited = time.perf_counter() - self._entered


def timed(call: Callable[..., None], *args: Any) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    call(*args)
    return time.perf_counter() - begin


def peak_memory() -> int:
    """The most bytes this process has had in memory since `forget_peak`. Files in the page cache do not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def thread_times() -> dict[str, float]:
    """Seconds on a processor of each thread of Python, and of the whole process, torch's own threads included, as ``""``."""
    found = {"": time.process_time()}
    for thread in threading.enumerate():
        nanoseconds = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]
        found[thread.name] = int(nanoseconds) / 1e9
    return found


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Trial:
    """A training with a peer, and what was measured of it."""

    def __init__(self, kind: type[Peer], scale: Scale, folder: Path) -> None:
        self.folder = folder
        checkpoints = folder / "checkpoints"
        checkpoints.mkdir(parents=True)
        self.training = Training(scale)
        self.clock = Clock()
        self.peer = kind(checkpoints, self.training)
        self.clock.listen()
        self.steps = 0
        self.call: list[float] = []
        self.hold: list[float] = []

    def save(self) -> float:
        """Save; seconds that the call took."""
        return timed(self.peer.save, self.steps)

    def step(self) -> None:
        """One step of a training that saves."""
        self.training.step()
        self.steps += 1
        self.peer.stepped()

    def settle(self) -> None:
        """Let nothing of a save go on behind what is measured next."""
        self.peer.wait()
        self.peer.sync()
        self.peer.tidy()

    def alone(self, count: int) -> list[float]:
        """Times of steps without saving."""
        return [timed(self.training.step) for _ in range(count)]

    def every_few(self) -> list[float]:
        """Times of five steps with a save after the first; if it is not done by then, the wait counts with the last."""
        times = []
        for number in range(EVERY):
            begin = time.perf_counter()
            self.step()
            if number == 1:
                self.hold.append(self.clock.waited)
            if number == 0:
                self.call.append(self.save())
            if number == EVERY - 1:
                self.peer.wait()
            times.append(time.perf_counter() - begin)
        self.settle()
        return times

    def every_one(self, count: int) -> list[float]:
        """Times of steps with a save after each. The step before them is not counted, nor is what the last one leaves to do:
        each step carries the save of the one before."""
        times = []
        for number in range(count + 1):
            begin = time.perf_counter()
            self.step()
            if number:
                self.hold.append(self.clock.waited)
            self.save()
            if number:
                times.append(time.perf_counter() - begin)
        self.settle()
        return times

    def durable(self) -> dict[str, Any]:
        """A save while training stands still, after a plain write of as many bytes: seconds from the call until it is durable, and
        seconds on a processor, by thread, until all is done."""
        plain = self.folder / PLAIN
        plain.unlink(missing_ok=True)
        sync_all(self.folder)  # the disk may be at work for a while on what was removed
        time.sleep(0.2)
        yardstick = plain_io.write(plain, self.training.nbytes())
        self.step()
        before = thread_times()
        begin = time.perf_counter()
        self.call.append(self.save())
        self.peer.wait()
        self.peer.sync()
        took = time.perf_counter() - begin
        self.settle()
        spent = {name: seconds - before.get(name, 0.0) for name, seconds in thread_times().items()}
        return {"plain": yardstick, "took": took, "spent": spent}


def training(kind: type[Peer], scale: Scale, folder: Path, turns: int, quick: bool) -> dict[str, Any]:
    """See the top of this file."""
    trial = Trial(kind, scale, folder)
    few = 2 if quick else EVERY
    less = few if turns > 1 else few // 2 + 1
    trial.alone(2)
    forget_peak()
    alone = trial.alone(less)
    base = peak_memory()
    trial.step()
    trial.save()  # the first save gets its memory from the kernel; it is not counted, except as memory
    trial.settle()
    few_times = []
    for turn in range(turns):
        few_times.append(trial.every_few())
        if turn % 2 == 1:
            alone += trial.alone(2 * few)
        elif turn + 1 == turns:
            alone += trial.alone(less)
    every_times = [trial.every_one(max(1, less - 1)) for _ in range(max(1, turns // 2))]
    extra = peak_memory() - base
    durable = [trial.durable() for _ in range(1 if quick else 2)]
    trial.peer.close()
    (folder / EXPECTED).write_text(json.dumps(trial.training.fingerprint()))
    return {
        "state": trial.training.nbytes(),
        "tensors": len(trial.training.tensors()),
        "alone": alone,
        "every_few": few_times,
        "every_one": every_times,
        "call": trial.call,
        "hold": trial.hold,
        "extra": extra,
        "durable": durable,
    }


def restore(kind: type[Peer], scale: Scale, folder: Path) -> dict[str, Any]:
    """See the top of this file."""
    live = Training(scale)
    for path in files(folder):
        plain_io.drop_from_cache(path)
    warm = plain_io.read(folder / PLAIN, keep=False)
    fresh = plain_io.read(folder / PLAIN, keep=True)

    def restored() -> None:
        kind.restore(folder / "checkpoints", live)
        live.touch()  # some peers map the file, and leave the reading to whoever looks first

    took = timed(restored)
    if live.fingerprint() != json.loads((folder / EXPECTED).read_text()):
        raise SystemExit(f"{kind.name} did not restore what was saved")
    return {"restore": took, "plain_read": warm, "plain_read_fresh": fresh}


def frozen(kind: type[Peer], scale: Scale, folder: Path, quick: bool) -> dict[str, Any]:
    """See the top of this file."""
    folder.mkdir(parents=True)
    learner = Training(scale, frozen=0.9)
    peer = Milepost(folder, learner, keep=None) if kind is Milepost else kind(folder, learner)
    count = 3 if quick else 20
    for step in range(count):
        learner.step()
        peer.stepped()
        peer.save(step)
        peer.wait()
    peer.close()
    seen = {
        (status.st_dev, status.st_ino): status.st_blocks * 512 for path in files(folder) for status in [path.stat()]
    }
    return {
        "checkpoints": count,
        "disk": sum(seen.values()),
        "full": learner.nbytes(),
        "changed": learner.changed(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("training", "restore", "frozen"))
    parser.add_argument("--peer", choices=PEERS, default=Milepost.name)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--scale", choices=SCALES, default="gpt2")
    parser.add_argument("--turns", type=int, default=1, help="turns of five steps with a save")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch.distributed")
    kind, scale = PEERS[options.peer], SCALES[options.scale]
    if options.kind == "training":
        measured = training(kind, scale, options.folder, options.turns, options.quick)
    elif options.kind == "restore":
        measured = restore(kind, scale, options.folder)
    else:
        measured = frozen(kind, scale, options.folder, options.quick)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
