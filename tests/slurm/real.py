"""Jobs on a real Slurm, interrupted in every way that a cluster has: ``python real.py [NAME...]``; `make test-slurm` runs it.

Each scenario submits a training job and ends it before its time, until it is through. Then its weights must be, to the bit, those
of the same training in peace, so must be the loss of every step, also of those that were done twice; and no more steps may
have been done twice than the scenario allows: none where a warning came, at most one save interval elsewhere.

Those without a time limit of a minute in them are the short ones (``--short``).
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import FrameType

import by_command
import by_failure
import by_limit
import by_signal
from cluster import STOP, Cluster, ClusterError, Interrupted
from playing import Outcome, Scenario

SCENARIOS: dict[str, Scenario] = {
    **by_limit.SCENARIOS,
    **by_failure.SCENARIOS,
    **by_signal.SCENARIOS,
    **by_command.SCENARIOS,
}
AT_ONCE = 16
"""Jobs mostly sleep, and so does whoever waits for them."""
TELLING = threading.Lock()


def carry_out(cluster: Cluster, folder: Path, name: str, scenario: Scenario) -> Outcome | None:
    """One scenario, and a line about it; None if it failed."""
    began = time.monotonic()
    place = folder / name
    place.mkdir()
    try:
        outcome = scenario.play(cluster, place)
    except Interrupted:
        return None
    except Exception as problem:
        with TELLING:
            print(f"\n{name} FAILED: {problem}", flush=True)
            traceback.print_exc()
            for path in sorted(place.glob("*.out")):
                print(f"--- {path.name}\n{path.read_text()[-3000:]}", flush=True)
        return None
    with TELLING:
        print(f"{name:14} {time.monotonic() - began:5.0f} s  {outcome}  {scenario.what}", flush=True)
    return outcome


def play(cluster: Cluster, folder: Path, chosen: Mapping[str, Scenario]) -> list[Outcome | None]:
    """All of them, several at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(carry_out, cluster, folder, name, scenario) for name, scenario in chosen.items()]
        try:
            return [future.result() for future in as_completed(futures)]
        except BaseException:
            STOP.set()
            pool.shutdown(cancel_futures=True)
            raise


def interrupted(number: int, frame: FrameType | None) -> None:
    """End as by Ctrl-C: nothing is left running."""
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description="Interrupt training jobs on a real Slurm in every way.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--short", action="store_true", help="only those that take seconds")
    parser.add_argument("--if-possible", action="store_true", help="no failure where Slurm cannot be had")
    parser.add_argument("--keep", action="store_true", help="leave the files")
    parser.add_argument("--proctrack", choices=["cgroup", "linuxproc"], help="how Slurm finds the processes of a job")
    args = parser.parse_args()
    chosen = {name: SCENARIOS[name] for name in args.names or SCENARIOS}
    if args.short:
        chosen = {name: scenario for name, scenario in chosen.items() if scenario.short}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    folder = Path(tempfile.mkdtemp(prefix="milepost-slurm-"))
    folder.chmod(0o755)
    began = time.monotonic()
    try:
        with Cluster(folder / "cluster", args.proctrack) as cluster:
            print(f"Slurm runs after {time.monotonic() - began:.1f} s (proctrack/{cluster.proctrack})", flush=True)
            results = play(cluster, folder, chosen)
    except (ClusterError, subprocess.CalledProcessError) as problem:
        print(f"no Slurm here: {problem}", file=sys.stderr)
        return 0 if args.if_possible else 1
    except KeyboardInterrupt:
        print("interrupted; nothing is left running", file=sys.stderr)
        return 130
    finally:
        if args.keep:
            print(f"files are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    done = [outcome for outcome in results if outcome is not None]
    print(
        f"{len(done)} of {len(results)} scenarios as they should be: {sum(one.attempts for one in done)} attempts, "
        f"{sum(one.lost for one in done)} steps done twice, in {time.monotonic() - began:.0f} s"
    )
    return 0 if len(done) == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
