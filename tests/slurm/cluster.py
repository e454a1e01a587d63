"""A real Slurm on this one machine: ``with Cluster(folder) as cluster``. Debian's packages are installed if they are missing.

Every node is a ``slurmd`` of its own on a port of its own. Several nodes are one machine here, so that a file system is shared as
on a cluster, and a node can be killed without the others. Needs root, as Slurm does; no systemd.

`python cluster.py FOLDER` keeps one running until it is interrupted, for trying things by hand.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
PATIENCE = 60.0
"""Seconds for anything that Slurm does at once."""

CONFIGURATION = """\
ClusterName=milepost
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
# Where a container may not raise limits, jobs must not try.
PropagateResourceLimits=NONE
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=30
InactiveLimit=0
MinJobAge=3600
KillWait=5
OverTimeLimit=0
{nodes}
PartitionName=batch Nodes=node1 Default=YES MaxTime=INFINITE PriorityTier=10 State=UP
PartitionName=fragile Nodes=node[2-3] MaxTime=INFINITE PriorityTier=10 State=UP
PartitionName=frail Nodes=node[4-5] MaxTime=INFINITE PriorityTier=10 State=UP
PartitionName=low Nodes=node6 MaxTime=INFINITE PriorityTier=10 PreemptMode=REQUEUE State=UP
PartitionName=lone Nodes=node7 MaxTime=INFINITE PriorityTier=10 State=UP
PartitionName=urgent Nodes=node6 MaxTime=INFINITE PriorityTier=100 PreemptMode=OFF State=UP
"""
LOCK = Path(tempfile.gettempdir(), "milepost-slurm.lock")
"""Held while a cluster runs on this machine; says in which folder, for the next to end what was left behind."""

NODES = 7
CPUS = 16
"""Of each node, as far as Slurm knows: jobs that mostly sleep may share the real ones."""
CGROUP = "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nConstrainRAMSpace=no\nConstrainCores=no\n"


class ClusterError(Exception):
    """Slurm could not be installed or started here."""


class Cluster:
    """Nodes node1 to node7; partitions batch, fragile and frail (two nodes each, to be killed), lone (one), low, and urgent,
    which preempts low.

    Args:
        folder: for everything it writes; emptied.
        proctrack: "cgroup" kills all processes of a job, "linuxproc" those it finds; None for the first that works here.
    """

    def __init__(self, folder: Path, proctrack: str | None = None) -> None:
        self.folder = folder
        freezer = os.access("/sys/fs/cgroup/freezer", os.W_OK)
        self.proctrack = proctrack or ("cgroup" if freezer else "linuxproc")
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        for name in [name for name in self.environment if name.startswith(("SLURM_JOB", "SBATCH_", "SQUEUE_"))]:
            del self.environment[name]

    # -- commands --------------------------------------------------------------------------------------------------

    def run(self, *words: object, check: bool = True) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(
            [str(word) for word in words], env=self.environment, capture_output=True, text=True, timeout=PATIENCE
        )
        if check and done.returncode:
            raise ClusterError(f"{' '.join(map(str, words))}: {done.stderr.strip() or done.returncode}")
        return done.stdout.strip()

    def submit(self, script: Path, *options: object) -> str:
        """Submit a job script; its number."""
        return self.run("sbatch", "--parsable", *options, script).partition(";")[0]

    def show(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says of the last task of `job`."""
        pairs = [word.partition("=") for word in self.run("scontrol", "show", "job", job).split()]
        return {name: value for name, _, value in pairs}

    def state(self, job: str) -> str:
        """The state of a job, such as "RUNNING"."""
        return self.show(job)["JobState"]

    def wait_for_state(self, job: str, state: str, seconds: float = PATIENCE) -> None:
        """Until a job is in `state`.

        Raises:
            AssertionError: it is not after so many seconds.
        """
        for _ in waiting(seconds):
            if self.state(job) == state:
                return
        raise AssertionError(f"job {job} is {self.state(job)}, not {state}")

    # -- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Cluster:
        install()
        # One at a time on a machine: Slurm's control groups go by the names of the nodes.
        self._lock = LOCK.open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another Slurm of these tests to end", file=sys.stderr, flush=True)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._lock.seek(0)
        for left in {self.folder, Path(self._lock.read() or self.folder)}:  # by one that was killed
            Cluster(left).stop()
        self._lock.truncate(0)
        self._lock.write(str(self.folder))
        self._lock.flush()
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("run", "log", "state", "spool", "munge"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        self._configure()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._lock.close()

    def _configure(self) -> None:
        ports = list(free_ports(NODES + 1))
        host = socket.gethostname().partition(".")[0]
        nodes = [
            f"NodeName=node{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={CPUS} RealMemory=1000 State=UNKNOWN"
            for number, port in enumerate(ports[1:], 1)
        ]
        text = CONFIGURATION.format(
            host=host, folder=self.folder, controller_port=ports[0], proctrack=self.proctrack, nodes="\n".join(nodes)
        )
        # More processors than there are is not an error: what slurmd finds is not asked.
        (self.folder / "slurm.conf").write_text(text + "SlurmdParameters=config_overrides\n")
        (self.folder / "cgroup.conf").write_text(CGROUP)

    def _start(self) -> None:
        munge, key = self.folder / "munge", self.folder / "munge/key"
        key.write_bytes(os.urandom(128))
        user, group = pwd.getpwnam("munge").pw_uid, grp.getgrnam("munge").gr_gid
        for path in (munge, key, self.folder / "run"):
            os.chown(path, user, group)
        munge.chmod(0o700)
        key.chmod(0o600)
        (self.folder / "run").chmod(0o755)
        subprocess.run(
            ["munged", f"--key-file={key}", f"--socket={self.folder}/run/munge.sock",
             f"--pid-file={self.folder}/run/munged.pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"],
            user=user, group=group, extra_groups=(), check=True,
        )  # fmt: skip
        subprocess.run(["slurmctld"], env=self.environment, check=True)
        for number in range(1, NODES + 1):
            self.start_node(number)
        self.wait_for_nodes(NODES)

    def start_node(self, number: int) -> None:
        """Start ``slurmd`` of a node."""
        (self.folder / f"spool/node{number}").mkdir(exist_ok=True)
        subprocess.run(["slurmd", "-N", f"node{number}"], env=self.environment, check=True)

    def wait_for_nodes(self, count: int) -> None:
        """Until so many nodes answer."""
        for _ in waiting(PATIENCE):
            up = self.run("sinfo", "-h", "-N", "-t", "idle,alloc,mix", "-o", "%N", check=False)
            if len(set(up.split())) >= count:
                return
        logs = "\n".join((self.folder / "log" / name).read_text()[-2000:] for name in os.listdir(self.folder / "log"))
        raise ClusterError(f"the nodes did not come up\n{logs}")

    def daemon(self, name: str) -> int | None:
        """The process number of a daemon that this cluster started, such as "slurmd.node2"."""
        path = self.folder / f"run/{name}.pid"
        return int(path.read_text()) if path.exists() and path.read_text().strip() else None

    def stop(self) -> None:
        """End its jobs, its daemons (munged last, since the others talk through it), and all that jobs left behind."""
        if not (self.folder / "run").exists():
            return
        with contextlib.suppress(ClusterError, subprocess.TimeoutExpired):
            self.run("scancel", "-f", f"--user={pwd.getpwuid(os.getuid()).pw_name}", check=False)
            for _ in waiting(5, stoppable=False):
                if not self.run("squeue", "-h", check=False):
                    break
        for name in (*(f"slurmd.node{number}" for number in range(1, NODES + 1)), "slurmctld", "munged"):
            process = self.daemon(name)
            if process is not None:
                end(process)
            (self.folder / f"run/{name}.pid").unlink(missing_ok=True)
        mine = f"SLURM_CONF={self.environment['SLURM_CONF']}"
        for one in processes():  # of jobs, and what keeps them: not of a shell in which somebody tries things by hand
            of_job = any(line.startswith("SLURM_JOB_ID=") for line in one.environment)
            if mine in one.environment and (of_job or one.command.startswith("slurm")):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.number, signal.SIGKILL)


class Process(NamedTuple):
    """A process of this machine: its number, its command line, and its environment as lines."""

    number: int
    command: str
    environment: list[str]


def processes() -> Iterator[Process]:
    """All that can be looked at."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended just now
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (path / "environ").read_bytes().decode(errors="replace").split("\0")
            yield Process(int(path.name), command, environment)


def end(process: int) -> None:
    """End a daemon: kindly, then not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
        for _ in waiting(10, stoppable=False):
            if not alive(process):
                return
        os.kill(process, signal.SIGKILL)


def install() -> None:
    """Install Slurm's packages unless they are there.

    Raises:
        ClusterError: that is not possible here.
    """
    if os.geteuid() != 0:
        raise ClusterError("a Slurm of one's own needs root")
    if all(shutil.which(program) for program in PROGRAMS):
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(f"Slurm is not installed, and there is no apt-get to install {', '.join(PACKAGES)} with")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *words], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"apt-get {words[0]} failed: {done.stderr.strip()[-500:]}")


def alive(process: int) -> bool:
    """Whether a process lives; one that nobody has buried yet does not."""
    try:
        os.readlink(f"/proc/{process}/exe")
    except OSError:
        return False
    return True


def free_ports(count: int) -> Iterator[int]:
    """Ports nobody listens on."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            yield taken.getsockname()[1]


STOP = threading.Event()
"""Set when everything that waits is to give up."""


class Interrupted(Exception):  # noqa: N818 - not an error
    """`STOP` was set."""


def waiting(seconds: float, pause: float = 0.1, *, stoppable: bool = True) -> Iterator[None]:
    """Turns of a loop that waits for something; ends when time is up.

    Raises:
        Interrupted: `STOP` was set, and it is not for cleaning up.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if stoppable and STOP.is_set():
            raise Interrupted
        yield
        time.sleep(pause)


if __name__ == "__main__":
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # also where a shell that started it in the background has them ignored
        signal.signal(number, signal.default_int_handler)
    with Cluster(Path(sys.argv[1]).absolute()) as started:
        print(f"export SLURM_CONF={started.environment['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
