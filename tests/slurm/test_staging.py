"""Data that is brought to the node."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from milepost.cli.main import main
from milepost.errors import DiskFullError, FormatError, NotFoundError
from milepost.slurm import staging
from milepost.slurm.staging import stage

FILES = {"a.txt": b"a", "sub/b.bin": b"\0" * 1000}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The disk of the node."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def source(tmp_path: Path, name: str) -> Path:
    plain = tmp_path / "plain" / "data"
    for file, data in FILES.items():
        (plain / file).parent.mkdir(parents=True, exist_ok=True)
        (plain / file).write_bytes(data)
    if name == "data":
        return plain
    path = tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as packed:
            for file in FILES:
                packed.write(plain / file, file)
    else:
        with tarfile.open(path, "w:" + {"tar": "", "tgz": "gz"}.get(name.rpartition(".")[2], name[-2:])) as archive:
            for file in FILES:
                archive.add(plain / file, file)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["data", "data.tar", "data.tar.gz", "data.tgz", "data.tar.xz", "data.zip"])
def test_archives_and_folders(name: str, tmp_path: Path, node: Path) -> None:
    path = stage(source(tmp_path, name))
    assert path == node / "data"
    assert contents(path) == FILES


def test_a_single_file(tmp_path: Path, node: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"bytes")
    assert stage(tmp_path / "x.npz").read_bytes() == b"bytes"
    assert stage(tmp_path / "x.npz", tmp_path / "else/where") == tmp_path / "else/where/x.npz"


def test_what_is_there_is_left(tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = source(tmp_path, "data.tar")
    path = stage(archive)
    (path / "mine").write_text("added by the job")
    assert stage(archive) == path
    assert (path / "mine").exists()
    os.utime(archive, (1, 1))
    stage(archive)
    assert contents(path) == FILES, "the source has changed"


@pytest.mark.parametrize("name", ["data", "data.tar", "data.zip"])
def test_what_was_cut_off_is_begun_anew(name: str, tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = source(tmp_path, name)
    bring: Any = staging._bring

    def killed(origin: Path, draft: Path) -> None:
        bring(origin, draft)
        (draft / "a.txt").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(staging, "_bring", killed)
    with pytest.raises(KeyboardInterrupt):
        stage(origin)
    assert not (node / "data").exists(), "half of it must not be taken for all"
    monkeypatch.undo()
    assert contents(stage(origin, node)) == FILES


def test_what_was_cut_off_before_its_mark_is_begun_anew(tmp_path: Path, node: Path) -> None:
    origin = source(tmp_path, "data.tar")
    path = stage(origin)
    (path / "a.txt").unlink()
    for left in (b"", b'{"source"'):
        (node / ".data.staged").write_bytes(left)
        assert contents(stage(origin)) == FILES
    (node / ".data.staged").unlink()
    (path / "a.txt").unlink()
    assert contents(stage(origin)) == FILES


def test_several_at_once(tmp_path: Path, node: Path) -> None:
    """One does the work, the others wait: what each finds is whole."""
    origin = source(tmp_path, "data.tar")
    code = (
        "import sys; from milepost.slurm.staging import stage; p = stage(sys.argv[1]);"
        "print(sorted(str(x.relative_to(p)) for x in p.rglob('*')), p.stat().st_ino)"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code, origin], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    told = {job.communicate()[0] for job in jobs}
    assert len(told) == 1
    assert "sub/b.bin" in told.pop()


@pytest.mark.parametrize("member", ["../outside", "/outside"])
def test_archives_that_leave_their_folder(member: str, tmp_path: Path, node: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        info = tarfile.TarInfo(member)
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    if member.startswith(".."):
        with pytest.raises(FormatError, match="cannot be unpacked"):
            stage(tmp_path / "bad.tar")
    else:
        stage(tmp_path / "bad.tar")  # taken as a name within the folder
    assert not (node / "outside").exists()
    assert not Path("/outside").exists()


def test_archives_that_are_none(tmp_path: Path, node: Path) -> None:
    for name in ("x.tar", "x.zip", "x.tar.gz"):
        (tmp_path / name).write_bytes(b"not an archive")
        with pytest.raises(FormatError, match="cannot be unpacked"):
            stage(tmp_path / name)


def test_too_little_room(tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(DiskFullError, match="no room"):
        stage(source(tmp_path, "data.tar"))


def test_no_source_and_no_folder(tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match="no such data"):
        stage(tmp_path / "nowhere.tar")
    monkeypatch.delenv("TMPDIR")
    with pytest.raises(NotFoundError, match="no folder of this node"):
        stage(source(tmp_path, "data.tar"))


def test_on_the_command_line(tmp_path: Path, node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "stage", str(source(tmp_path, "data.zip"))]) == 0
    assert capsys.readouterr().out == f"{node}/data\n"
    assert main(["slurm", "script", "--stage-data", "/shared/a b.tar", "--", "python", "x.py"]) == 0
    assert "milepost slurm stage -- '/shared/a b.tar' | head -n 1)" in capsys.readouterr().out
