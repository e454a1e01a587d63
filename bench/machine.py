"""What the numbers were measured on, in one line each."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path

import plain_io

PACKAGES = ("torch", "numpy", "safetensors", "moonclip", "xxhash", "msgspec", "ckptkit", "tensorflow", "typer")


def describe(folder: Path) -> dict[str, str]:
    """Processor, memory, file system of `folder`, kernel, versions, date."""
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "file system": _file_system(folder),
        "kernel": f"{platform.system()} {platform.release()}",
        "versions": ", ".join([_own_version(), f"Python {platform.python_version()}", *_versions()]),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "load before the start": f"{os.getloadavg()[0]:.2f}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """Type of the file system that holds `folder`: the longest mount point that is above it."""
    place = str(folder.resolve())
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [mount for mount in mounts if f"{place}/".startswith(mount[1].rstrip("/") + "/")]
    device, _, kind = max(above, key=lambda mount: len(mount[1]))
    how = (
        "O_DIRECT" if plain_io.direct(folder) else "O_DIRECT refused: plain reads and writes go through the page cache"
    )
    return f"{kind} on {Path(device).name}, {how}"


def _own_version() -> str:
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    return f"milepost {importlib.metadata.version('milepost')}" + (f" ({commit})" if commit else "")


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return found
