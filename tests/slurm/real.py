"""Jobs on a real Slurm, interrupted in every way that a cluster has: ``python real.py [NAME...]``; `make test-slurm` runs it.

Each scenario submits a training job and ends it before its time, until it is through. Then its weights must be, to the bit, those
of the same training in peace, so must be the loss of every step, also of those that were done twice; and no more steps may
have been done twice than the scenario allows: none where a warning came, at most one save interval elsewhere.

The scenarios are in `scenarios.py`. Those without a time limit of a minute in them are the short ones (``--short``).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster import Cluster, ClusterError
from scenarios import SCENARIOS, Outcome, Scenario, reference

AT_ONCE = 6


def carry_out(cluster: Cluster, folder: Path, name: str, scenario: Scenario) -> tuple[str, Outcome | None, float]:
    """One scenario; None for the outcome if it failed, which has been told then."""
    began = time.monotonic()
    place = folder / name
    place.mkdir()
    try:
        return name, scenario.play(cluster, place), time.monotonic() - began
    except Exception as problem:
        with TELLING:
            print(f"\n{name} FAILED: {problem}", flush=True)
            traceback.print_exc()
            for path in sorted(place.glob("*.out")):
                print(f"--- {path.name}\n{path.read_text()[-3000:]}", flush=True)
        return name, None, time.monotonic() - began


TELLING = threading.Lock()


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
    folder = Path(tempfile.mkdtemp(prefix="milepost-slurm-"))
    folder.chmod(0o755)
    began = time.monotonic()
    try:
        with Cluster(folder / "cluster", args.proctrack) as cluster:
            print(f"Slurm runs after {time.monotonic() - began:.1f} s (proctrack/{cluster.proctrack})", flush=True)
            reference(folder)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                done = [pool.submit(carry_out, cluster, folder, name, scenario) for name, scenario in chosen.items()]
                results = []
                for future in done:
                    name, outcome, seconds = future.result()
                    results.append(outcome)
                    if outcome is not None:
                        print(f"{name:14} {seconds:5.0f} s  {outcome}  {chosen[name].what}", flush=True)
    except ClusterError as problem:
        print(f"no Slurm here: {problem}", file=sys.stderr)
        return 0 if args.if_possible else 1
    except subprocess.CalledProcessError as problem:
        print(f"no Slurm here: {problem}", file=sys.stderr)
        return 0 if args.if_possible else 1
    finally:
        if args.keep:
            print(f"files are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    failed = sum(outcome is None for outcome in results)
    attempts = sum(outcome.attempts for outcome in results if outcome is not None)
    lost = sum(outcome.lost for outcome in results if outcome is not None)
    print(
        f"{len(results) - failed} of {len(results)} scenarios as they should be: {attempts} attempts, "
        f"{lost} steps done twice, in {time.monotonic() - began:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
