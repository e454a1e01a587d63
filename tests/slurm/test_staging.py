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
from milepost.errors import DiskFullError, FormatError, NotFoundError, StorageError
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
        ending = name.rpartition(".")[2]
        with tarfile.open(path, "w:" + {"tar": "", "tgz": "gz"}.get(ending, ending)) as archive:
            for file in FILES:
                archive.add(plain / file, file)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["data", "data.tar", "data.tar.gz", "data.tgz", "data.tar.xz", "data.zip"])
def test_archives_and_folders(name: str, tmp_path: Path, node: Path) -> None:
    path = stage(source(tmp_path, name))
    assert (path.parents[1], path.name) == (node, "data")
    assert contents(path) == FILES


def test_a_single_file(tmp_path: Path, node: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"bytes")
    assert stage(tmp_path / "x.npz").read_bytes() == b"bytes"
    path = stage(tmp_path / "x.npz", tmp_path / "else/where")
    assert (path.parents[1], path.name) == (tmp_path / "else/where", "x.npz")


def test_what_is_there_is_left(tmp_path: Path, node: Path) -> None:
    archive = source(tmp_path, "data.tar")
    path = stage(archive)
    (path / "mine").write_text("added by the job")
    assert stage(archive) == path
    assert (path / "mine").exists()


@pytest.mark.parametrize("name", ["data", "data.tar"])
def test_a_source_that_has_changed_is_brought_beside_what_a_job_may_be_reading(
    name: str, tmp_path: Path, node: Path
) -> None:
    origin = source(tmp_path, name)
    first = stage(origin)
    os.utime(origin / "sub/b.bin" if name == "data" else origin, (1e9, 2e9))
    second = stage(origin)
    assert first != second
    assert contents(first) == contents(second) == FILES
    assert stage(origin) == second
    elsewhere = stage(origin, tmp_path / "another node")
    assert elsewhere.relative_to(tmp_path / "another node") == second.relative_to(node), "one path on all nodes"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/data").write_text("of the same name")
    assert stage(tmp_path / "other/data").read_text() == "of the same name"
    assert contents(first) == FILES


def test_what_was_not_brought_by_it_is_left_alone(tmp_path: Path, node: Path) -> None:
    (node / "data").mkdir()
    (node / "data/mine").write_text("work of years")
    stage(source(tmp_path, "data.tar"))
    assert contents(node / "data") == {"mine": b"work of years"}


def test_a_folder_for_everybody(tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node.chmod(0o1777)
    own = node / f"milepost-{os.geteuid()}"
    assert stage(source(tmp_path, "data.tar")).parents[1] == own
    assert own.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(own)
    own.symlink_to(tmp_path)
    with pytest.raises(StorageError, match="somebody else's"):
        stage(source(tmp_path, "data.tar"))
    assert stage(source(tmp_path, "data.tar"), node).parents[1] == node, "who names a folder means it"


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
    assert list(node.glob("*/data")) == [], "half of it must not be taken for all"
    monkeypatch.undo()
    assert contents(stage(origin, node)) == FILES


@pytest.mark.parametrize("name", ["data", "data.tar"])
def test_a_process_that_is_killed(name: str, tmp_path: Path, node: Path) -> None:
    """By the system, half way, with write-protected folders: nothing is in the way of the next."""
    origin = source(tmp_path, name)
    (tmp_path / "plain/data/sub").chmod(0o555)
    code = (
        "import os, sys; from pathlib import Path; from milepost.slurm import staging; bring = staging._bring;"
        "staging._bring = lambda a, b: (bring(a, b), os.kill(os.getpid(), 9)); staging.stage(sys.argv[1])"
    )
    assert subprocess.run([sys.executable, "-c", code, origin]).returncode == -9
    assert len(list(node.glob("*/.draft"))) == 1
    assert list(node.glob("*/data")) == []
    assert contents(stage(origin)) == FILES
    assert list(node.glob("*/.draft")) == []
    (tmp_path / "plain/data/sub").chmod(0o755)


def test_what_was_brought_before_the_machine_started_is_brought_anew(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files may have been in memory alone when the power was lost, and so may its mark."""
    origin = source(tmp_path, "data.tar")
    path = stage(origin)
    mark = path.with_name(".staged")
    for lose in (mark.unlink, lambda: mark.write_bytes(b"")):
        (path / "a.txt").write_bytes(b"")
        lose()
        assert stage(origin) == path
        assert contents(path) == FILES
    (path / "a.txt").write_bytes(b"")
    (tmp_path / "boot").write_text("another")
    monkeypatch.setattr(staging, "BOOT", tmp_path / "boot")
    assert stage(origin) == path
    assert contents(path) == FILES


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
    assert list(node.glob("**/outside")) == ([] if member.startswith("..") else [*node.glob("*/bad/outside")])
    assert not Path("/outside").exists()


def test_archives_that_are_none(tmp_path: Path, node: Path) -> None:
    for name in ("x.tar", "x.zip", "x.tar.gz"):
        (tmp_path / name).write_bytes(b"not an archive")
        with pytest.raises(FormatError, match="cannot be unpacked"):
            stage(tmp_path / name)


@pytest.mark.parametrize("name", ["data.tgz", "data.tar.xz", "data.tar.bz2", "data.zip"])
def test_a_damaged_archive(name: str, tmp_path: Path, node: Path) -> None:
    """Wherever it is damaged, it is noticed, or what comes out of it is right."""
    origin = source(tmp_path, name)
    whole = origin.read_bytes()
    refused = 0
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        data = bytearray(whole)
        data[at] ^= 0x55
        origin.write_bytes(data)
        try:
            path = stage(origin, tmp_path / str(at))
        except FormatError:
            refused += 1
            assert [path.name for path in (tmp_path / str(at)).glob("*/*")] == [".lock"], "nothing is left"
        else:
            assert contents(path) == FILES
    assert refused > 20


@pytest.mark.parametrize("name", ["data.tar", "data.zip"])
def test_too_little_room(name: str, tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = source(tmp_path, name)
    free = 1000 if name == "data.zip" else origin.stat().st_size - 1  # of a zip, what it becomes
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, free))  # type: ignore[attr-defined]
    with pytest.raises(DiskFullError, match="no room"):
        stage(origin)


def test_no_source_and_no_folder(tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match="no such data"):
        stage(tmp_path / "nowhere.tar")
    monkeypatch.delenv("TMPDIR")
    with pytest.raises(NotFoundError, match="no folder of this node"):
        stage(source(tmp_path, "data.tar"))


def test_on_the_command_line(tmp_path: Path, node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "stage", str(source(tmp_path, "data.zip"))]) == 0
    path = Path(capsys.readouterr().out.removesuffix("\n"))
    assert contents(path) == FILES
    assert main(["slurm", "script", "--stage-data", "/shared/a b.tar", "--", "python", "x.py"]) == 0
    assert "milepost slurm stage -- '/shared/a b.tar' | tail -n 1)" in capsys.readouterr().out
