"""What milepost promises, shown on a real job: kill it, start it again by the same command, and nothing is different.

``make demo`` runs this. `torch_mnist.py` trains twice with the same arguments: once in peace, once killed with SIGKILL
in the middle of an epoch and stopped with SIGTERM in the middle of another. What the two runs leave on disk is then
compared bit for bit. The exit code is 1 if anything differs, or if the network has not learned.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

import mnist_data

import milepost

SCRIPT = Path(__file__).with_name("torch_mnist.py")
FOLDER = Path("runs", "demo")
KILL_AT, STOP_AT = 1_750, 2_630  # steps; with 469 in an epoch and a checkpoint every 100, in the middle of both
LEAST_ACCURACY = 0.97
PATIENCE = 600.0  # seconds, for anything to happen


class DemoError(Exception):
    """The demo could not be carried through; says where it stopped."""


class Job:
    """A training job in run directory `run`, watched as a person would: by its process and by its files."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.log = run.with_suffix(".log")

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start the job, always by the same command. It does not outlive the block."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, SCRIPT, "--run", self.run], stdout=log, stderr=subprocess.STDOUT
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def finish(self) -> float:
        """Run the job to its end; returns the seconds it took."""
        begin = time.perf_counter()
        with self.started() as process:
            code = process.wait(PATIENCE)
        if code != 0:
            raise self.error(f"the job ended with exit code {code}")
        return time.perf_counter() - begin

    def interrupt(self, signum: signal.Signals, step: int) -> int:
        """Run the job and send it `signum` once it has done `step` steps; returns its exit code."""
        deadline = time.monotonic() + PATIENCE
        with self.started() as process:
            while self.step() < step:
                if process.poll() is not None:
                    raise self.error(f"the job ended before step {step}, with exit code {process.returncode}")
                if time.monotonic() > deadline:
                    raise self.error(f"the job did not reach step {step} in {PATIENCE:.0f} s")
                time.sleep(0.002)
            process.send_signal(signum)
            return process.wait(PATIENCE)

    def attempt(self) -> int:
        """How often the job was started."""
        return max((int(path.stem) for path in (self.run / "attempts").glob("[0-9]*.json")), default=0)

    def step(self) -> int:
        """The last step that the newest attempt has noted in its trace."""
        trace = self.run / "attempts" / f"{self.attempt()}.trace.jsonl"
        if not trace.exists():
            return 0
        with trace.open("rb") as file:
            file.seek(max(0, trace.stat().st_size - 4096))
            lines = file.read().split(b"\n")[:-1]  # what follows the last line end is not whole yet
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def newest(self) -> int:
        """The step of the newest checkpoint in the run directory."""
        return max(int(path.name.removeprefix("step-")) for path in self.run.glob("step-" + "[0-9]" * 8))

    def continued_from(self) -> int:
        """The step of the checkpoint that the newest attempt continued."""
        record = json.loads((self.run / "attempts" / f"{self.attempt()}.json").read_bytes())
        return int(record["parent"]["step"])

    def error(self, message: str) -> DemoError:
        """`message`, with the end of what the job printed."""
        return DemoError("\n".join([message, *self.log.read_text(errors="replace").splitlines()[-20:]]))


def main() -> int:
    """Run the job twice, tell what happens, compare; returns the exit code."""
    if FOLDER.exists():
        shutil.rmtree(FOLDER)  # the runs of an earlier demo, which are complete
    FOLDER.mkdir(parents=True)

    data = mnist_data.load()  # here first, so that a download is not part of what is timed
    tell(f"{len(data.train_images):,} images to train on, {len(data.test_images):,} others to validate with")
    peaceful, job = Job(FOLDER / "uninterrupted"), Job(FOLDER / "interrupted")
    tell(f"$ python {SCRIPT.name} --run {peaceful.run}")
    seconds = peaceful.finish()
    expected = milepost.open(str(peaceful.run))
    epochs = len(history(expected))
    length = peaceful.step() // epochs
    tell(f"  {epochs} epochs of {length} steps in {seconds:.0f} s")

    def place(step: int) -> str:
        return f"step {step} (batch {step % length} of epoch {step // length})"

    tell(f"$ python {SCRIPT.name} --run {job.run}")
    job.interrupt(signal.SIGKILL, KILL_AT)
    tell(f"  killed with SIGKILL at {place(job.step())}; the newest checkpoint is of step {job.newest()}")
    tell("$ the same command")
    code = job.interrupt(signal.SIGTERM, STOP_AT)
    stopped, saved = job.step(), job.newest()
    tell(f"  went on from step {job.continued_from()}; stopped with SIGTERM at {place(stopped)}")
    tell(f"  saved step {saved} and ended with exit code {code}")
    tell("$ the same command")
    job.finish()
    tell(f"  went on from step {job.continued_from()} to the end, step {job.step()}")

    tell("Compared with the run that was left in peace:")
    found = milepost.open(str(job.run))
    differences = [line for item in ("model", "optimizer", "scheduler") for line in compare(item, expected, found)]
    differences += compare_losses(history(expected), history(found))
    if saved < stopped:
        differences.append(f"SIGTERM came at step {stopped}, but only step {saved} was saved")
    for line in differences:
        tell(f"  DIFFERENT: {line}")
    accuracy = history(found)[-1]["val_accuracy"]
    learned = accuracy >= LEAST_ACCURACY
    tell(f"  validation accuracy {accuracy:.4f}, {'at least' if learned else 'LESS than'} {LEAST_ACCURACY}")

    tell(f"$ milepost ls {job.run}")
    subprocess.run([Path(sys.executable).with_name("milepost"), "ls", job.run], check=True)
    return 0 if learned and not differences else 1


def compare(item: str, expected: milepost.TensorSource, found: milepost.TensorSource) -> list[str]:
    """Compare an item of two checkpoints bit for bit and tell how it went; returns the paths that differ."""
    first, second = contents(expected, item), contents(found, item)
    different = [path for path in sorted(first.keys() | second.keys()) if first.get(path) != second.get(path)]
    if not first:
        different.append(f"{item} (nothing was saved)")
    tell(f"  {item}, {len(first)} tensors and values: {'DIFFERENT' if different else 'identical'}")
    return different


def compare_losses(expected: list[dict[str, float]], found: list[dict[str, float]]) -> list[str]:
    """The same for the losses of all epochs."""
    different = [
        f"epoch {epoch}: expected {first}, found {second}"
        for epoch, (first, second) in enumerate(zip_longest(expected, found))
        if repr(first) != repr(second)
    ]
    tell(f"  losses of {len(expected)} epochs: {'DIFFERENT' if different else 'identical'}")
    return different


def contents(source: milepost.TensorSource, item: str) -> dict[str, object]:
    """Everything saved of an item, by path, in forms that are equal only if every bit is.

    ``repr`` of a float is exact, tells 0.0 from -0.0, and finds NaN equal to NaN.
    """
    below = f"{item}/"
    tensors = {path: source[path] for path in source if path.startswith(below)}
    values = {path: repr(value) for path, value in source.plain.items() if path.startswith(below)}
    return {path: (array.dtype.name, array.shape, array.tobytes()) for path, array in tensors.items()} | values


def history(source: milepost.TensorSource) -> list[dict[str, float]]:
    """What the script kept of each epoch in ``run.vars["history"]``."""
    found: dict[int, dict[str, float]] = {}
    for path, value in source.plain.items():
        head, _, tail = path.partition("/history/")
        if head == "run/vars" and tail:
            epoch, name = tail.split("/")
            found.setdefault(int(epoch), {})[name] = value
    if not found:
        raise DemoError(f"{source.where} holds no losses")
    return [found[epoch] for epoch in sorted(found)]


def tell(line: str) -> None:
    """Print at once, also into a pipe."""
    print(line, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (DemoError, mnist_data.DataError, subprocess.SubprocessError) as error:
        sys.exit(f"demo: {error}")
