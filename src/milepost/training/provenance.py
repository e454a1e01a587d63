"""What wrote a checkpoint: versions, machine, command, script, git commit, Slurm job, and the environment that matters.

Nothing here is needed to continue; it is what a person asks for when two runs differ. It goes wherever the checkpoint
goes, so variables are taken by an allow-list and secrets are masked.
"""

from __future__ import annotations

import functools
import getpass
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeGuard

import milepost
from milepost.core.digest import digest
from milepost.training.masking import masked_arguments, masked_value

GIT_SECONDS = 2.0
"""How long git may take. It is asked once per process, while the other facts are gathered."""
MOST_ARGUMENTS = 500

PACKAGES = ("numpy", "torch", "jax", "flax", "optax", "equinox", "grain", "tensorflow", "keras")
ENVIRONMENT = (
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG",
    "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "NCCL_*", "TORCH_*", "PYTORCH_*",
    "TF_CUDNN_*", "TF_DETERMINISTIC_OPS", "TF_ENABLE_*", "TF_FORCE_GPU_ALLOW_GROWTH", "TF_GPU_*", "TF_XLA_FLAGS",
    "XLA_*", "JAX_*", "KERAS_*", "OMP_*", "MKL_*", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED", "PYTHONPATH",
    "VIRTUAL_ENV", "CONDA_DEFAULT_ENV", "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE",
    "LOCAL_WORLD_SIZE", "TORCHELASTIC_*", "SLURM_*",
)  # fmt: skip
"""Variables that are recorded: those that change results, speed, or where a process runs."""
SLURM = {
    "job": "SLURM_JOB_ID",
    "name": "SLURM_JOB_NAME",
    "array_job": "SLURM_ARRAY_JOB_ID",
    "array_task": "SLURM_ARRAY_TASK_ID",
    "restart": "SLURM_RESTART_COUNT",
    "partition": "SLURM_JOB_PARTITION",
    "nodes": "SLURM_JOB_NODELIST",
    "task": "SLURM_PROCID",
    "tasks": "SLURM_NTASKS",
}


def written_by() -> dict[str, object]:
    """What this process is, as plain JSON values. The first call takes some milliseconds, later ones next to nothing.

    Of frameworks, only those that are loaded have a version. What cannot be found out is left out.

    Example:
        >>> sorted(written_by())
        ['arguments', 'command', 'cwd', 'environment', 'git', 'host', 'milepost', 'packages', 'pid', 'platform',
         'python', 'script', 'slurm', 'user']
    """
    return {**_of_process(os.getpid()), "packages": _packages()}


@functools.cache
def _of_process(pid: int) -> dict[str, object]:
    script = _script()
    git = _ask_git(script.parent if script is not None else Path())
    environment = {
        name: masked_value(name, value)
        for name, value in sorted(os.environ.items())
        if any(fnmatchcase(name, allowed) for allowed in ENVIRONMENT)
    }
    facts = {
        "milepost": milepost.__version__,
        "python": platform.python_version(),
        "packages": {},
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "user": _user(),
        "pid": pid,
        "cwd": _cwd(),
        "command": _command(sys.orig_argv),
        "arguments": _command(sys.argv[1:]),
        "script": _digested(script),
        "slurm": {name: environment[variable] for name, variable in SLURM.items() if variable in environment},
        "environment": environment,
        "git": _answer(git),
    }
    return {name: _plain(value) for name, value in facts.items() if value not in (None, {}) or name == "packages"}


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed from `saved` to `now` that may matter to results, a line each; two of `written_by`.

    `saved` may come from any file: what is missing or of another form is not compared. The lines are not escaped.

    Example:
        >>> differences({"python": "3.11", "arguments": ["--lr", "0.1"]}, {"python": "3.12", "arguments": ["--amp"]})
        ['python: 3.11 -> 3.12', '--lr: 0.1 -> not given', '--amp: not given -> given']
    """
    lines = _script_changed(_part(saved, "script"), _part(now, "script"))
    before, after = _versions(saved), _versions(now)
    lines += [f"{name}: {before[name]} -> {after[name]}" for name in before if _changed(before[name], after[name])]
    lines += _git_changed(_part(saved, "git"), _part(now, "git"))
    lines += _arguments_changed(saved.get("arguments"), now.get("arguments"))
    return lines


def _script_changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    if not _changed(before.get("digest"), after.get("digest")):
        return []
    if _changed(before.get("path"), after.get("path")):
        return [f"script: {before['path']} -> {after['path']}"]
    return [f"script: {after.get('path')} has other contents"]


def _git_changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    if _changed(before.get("commit"), after.get("commit")):
        return [f"git commit: {before['commit'][:12]} -> {after['commit'][:12]}"]
    if (before.get("dirty"), after.get("dirty")) == (False, True):
        return ["git: uncommitted changes, where there were none"]
    return []


def _versions(facts: Mapping[str, Any]) -> dict[str, Any]:
    packages = _part(facts, "packages")
    own = {name: facts.get(name) for name in ("milepost", "python")}
    return own | {name: packages.get(name) for name in PACKAGES}


def _changed(before: object, after: object) -> bool:
    return isinstance(before, str) and isinstance(after, str) and before != after


def _part(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = facts.get(name)
    return part if isinstance(part, Mapping) else {}


def _arguments_changed(before: object, after: object) -> list[str]:
    if not (_is_command(before) and _is_command(after)):
        return []
    old, new = _options(before), _options(after)
    return [
        f"{name or 'arguments'}: {old.get(name, 'not given') or 'given'} -> {new.get(name, 'not given') or 'given'}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


def _is_command(value: object) -> TypeGuard[Sequence[str]]:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, str) for one in value)


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """Options by name with what follows them; positional arguments that follow none are under the empty name."""
    found: dict[str, list[str]] = {}
    name = ""
    for argument in arguments:
        head, sign, value = argument.partition("=")
        if head[:1] == "-" and head[1:2] not in ("", *"0123456789."):
            name = head
            found.setdefault(name, []).extend([value] if sign else [])
            if sign:
                name = ""
        elif sign and head.replace(".", "").replace("_", "").isalnum():  # Hydra's a.b=c
            found.setdefault(head, []).append(value)
        else:
            found.setdefault(name, []).append(argument)
    return {name: " ".join(values) for name, values in found.items()}


# -- facts -------------------------------------------------------------------------------------------------------------


def _packages() -> dict[str, str]:
    versions = {name: getattr(sys.modules.get(name), "__version__", None) for name in PACKAGES}
    return {name: str(version) for name, version in versions.items() if version is not None}


def _script() -> Path | None:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(os.path.abspath(file)) if file and _cwd() else None


def _digested(script: Path | None) -> dict[str, str] | None:
    if script is None:
        return None
    try:
        return {"path": str(script), "digest": digest(script.read_bytes())}
    except OSError:
        return {"path": str(script)}  # in an archive, or gone


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for this number
        return str(os.getuid())


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # it was removed


def _command(arguments: Sequence[str]) -> list[str]:
    shown = masked_arguments(arguments[:MOST_ARGUMENTS])
    left_out = len(arguments) - len(shown)
    return [*shown, f"... and {left_out} more"] if left_out else shown


def _ask_git(folder: Path) -> subprocess.Popen[bytes] | None:
    """Start git for the repository `folder` is in. It takes no lock, starts no daemon, looks at tracked files only."""
    git = shutil.which("git")
    if git is None:
        return None
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    arguments = ["-c", "core.fsmonitor=false", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        return subprocess.Popen(  # noqa: S603 - the arguments are constants
            [git, *arguments],
            cwd=folder,
            env={**ours, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None


def _answer(git: subprocess.Popen[bytes] | None) -> dict[str, object] | None:
    if git is None:
        return None
    try:
        told, _ = git.communicate(timeout=GIT_SECONDS)
    except subprocess.TimeoutExpired:
        git.kill()
        git.communicate()
        return None
    lines = told.decode("utf-8", "replace").splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    if commit is None or git.returncode != 0 or commit == "(initial)":
        return None
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}


def _plain(value: Any) -> Any:
    """`value` with texts that can be written as UTF-8: names of files and arguments may hold any bytes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_plain(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value
