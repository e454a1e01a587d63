"""Trying a file system out."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from milepost.storage import trial as module
from milepost.storage.local import LocalStorage
from milepost.storage.trial import Mount, existing, mount_of, trial

MOUNTS = """\
/dev/vda / ext4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
/dev/sdb /home/local\\040disk xfs rw 0 0
server:/new /home nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/data/runs", Mount("/", "ext4")),
        ("/tmp", Mount("/tmp", "tmpfs")),
        ("/tmpfiles", Mount("/", "ext4")),
        ("/home/me/runs", Mount("/home", "nfs")),
        ("/home/local disk/x", Mount("/home/local disk", "xfs")),
    ],
)
def test_where_a_path_is(path: str, mount: Mount) -> None:
    assert mount_of(Path(path), MOUNTS) == mount


def test_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    assert existing(tmp_path / "a/b/c") == tmp_path
    assert existing(tmp_path) == tmp_path


def test_what_a_disk_can_do(tmp_path: Path) -> None:
    found = trial(tmp_path)
    assert found.links
    assert found.symlinks
    assert found.locks
    assert found.rename_replaces
    assert found.free > 0
    assert found.speed > 0
    assert abs(found.clock) < 60
    assert list(tmp_path.iterdir()) == [], "nothing is left"


@pytest.mark.parametrize("name", ["link", "exchange", "symlink", "lock"])
def test_what_a_disk_cannot_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(LocalStorage, name, refuse)
    found = trial(tmp_path)
    field = {"link": "links", "symlink": "symlinks", "lock": "locks"}.get(name, name)
    assert [one for one in ("links", "exchange", "symlinks", "locks") if not getattr(found, one)] == [field]


def test_a_disk_that_is_full_is_no_disk_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(LocalStorage, "link", full)
    with pytest.raises(OSError, match="no space"):
        trial(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_speed_is_that_of_a_synced_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 4.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(seconds))
    assert trial(tmp_path).speed == module.SPEED_BYTES / 4
