"""Verifying: every kind of damage is found and named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from milepost.errors import DamagedError, MilepostError, NotFoundError
from milepost.folder.checkpoint import READ_ROOM, Checkpoint
from milepost.folder.snapshot import IO_BLOCK
from milepost.folder.verify import verify_fully, verify_quickly, verify_tensors
from milepost.storage.local import LocalStorage
from milepost.storage.pages import Pages

if TYPE_CHECKING:
    from harness.driving import Job

WHOLE = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path, open_job: Callable[..., Job]) -> Path:
    """A checkpoint of two items; files writable, so that they can be damaged."""
    job = open_job(LocalStorage(tmp_path / "run"))
    state = {
        "model": {"a": np.arange(3000, dtype=np.float32), "b": np.arange(100, dtype=np.int64)},
        "optimizer": {"m": np.ones(50)},
    }
    found = tmp_path / "run" / job.commit(1, state).folder
    for path in found.iterdir():
        path.chmod(0o644)
    return found


def opened(folder: Path) -> Checkpoint:
    return Checkpoint(LocalStorage(folder))


def problems(findings: list[tuple[str, int, MilepostError | None]]) -> dict[str, str]:
    return {name: problem.message for name, _, problem in findings if problem is not None}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_what_is_whole_has_no_problems(folder: Path) -> None:
    sizes = {name: (folder / name).stat().st_size for name in (WHOLE, "optimizer.safetensors")}
    for verify in (verify_quickly, verify_fully):
        findings = verify(opened(folder))
        assert {name: nbytes for name, nbytes, _ in findings} == sizes
        assert problems(findings) == {}
    findings = verify_tensors(opened(folder), ["model/a", "optimizer/m"])
    assert findings == [("model/a", 12000, None), ("optimizer/m", 400, None)]


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (4096, "the bytes of 'b' are not what was saved"),
        (4096 + 799, "the bytes of 'b' are not what was saved"),
        (4096 + 800, "the bytes of 'a' are not what was saved"),
        (-1, "the bytes of 'a' are not what was saved"),
        (4095, "the safetensors header cannot be read"),
        (4, "the safetensors header is cut short"),
    ],
)
def test_a_flipped_bit_is_found_and_named(folder: Path, at: int, message: str) -> None:
    flip(folder / WHOLE, at)
    assert problems(verify_fully(opened(folder))) == {WHOLE: message}


@pytest.mark.parametrize("at", range(0, 200, 3))
def test_a_flipped_bit_in_the_header_is_found(folder: Path, at: int) -> None:
    flip(folder / WHOLE, at)
    assert list(problems(verify_fully(opened(folder)))) == [WHOLE]


@pytest.mark.parametrize("sixteenth", range(16))
def test_a_file_cut_short_is_found_by_its_size_alone(folder: Path, sixteenth: int) -> None:
    path = folder / WHOLE
    os.truncate(path, path.stat().st_size * sixteenth // 16)
    for verify in (verify_quickly, verify_fully):
        assert problems(verify(opened(folder))) == {WHOLE: "the file is cut short or was changed"}


def test_a_file_that_grew_is_found(folder: Path) -> None:
    with (folder / WHOLE).open("ab") as file:
        file.write(b"x")
    assert problems(verify_quickly(opened(folder))) == {WHOLE: "the file is cut short or was changed"}


def test_a_missing_file_is_found(folder: Path) -> None:
    (folder / WHOLE).unlink()
    for verify in (verify_quickly, verify_fully):
        assert problems(verify(opened(folder))) == {WHOLE: "a file of the checkpoint is missing"}


def test_a_file_nobody_knows_is_named(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    for verify in (verify_quickly, verify_fully):
        assert problems(verify(opened(folder))) == {"notes.txt": "the manifest does not list this file"}


def test_files_that_were_swapped_are_found(folder: Path) -> None:
    one, other = folder / WHOLE, folder / "optimizer.safetensors"
    data = one.read_bytes(), other.read_bytes()
    one.write_bytes(data[1])
    other.write_bytes(data[0])
    assert problems(verify_fully(opened(folder))).keys() == {WHOLE, "optimizer.safetensors"}


def test_a_file_of_the_right_size_with_other_tensors_is_found(folder: Path, tmp_path: Path) -> None:
    path = folder / WHOLE
    header = path.read_bytes()[:4096].replace(b'"a"', b'"x"')
    path.write_bytes(header + path.read_bytes()[4096:])
    for verify in (verify_quickly, verify_fully):
        found = problems(verify(opened(folder)))
        assert found == ({WHOLE: "entry 'a' is missing or of another size"} if verify is verify_fully else {}), verify


def test_damage_to_bytes_that_no_tensor_uses_any_more_is_found(tmp_path: Path, open_job: Callable[..., Job]) -> None:
    job = open_job(LocalStorage(tmp_path))
    body = np.arange(5000, dtype=np.float32)
    for head in (1, 2):
        saved = job.commit(head, {"model": {"body": body, "head": np.full(100, head, np.float32)}})
    path = tmp_path / saved.folder / "model.part-0.safetensors"
    path.chmod(0o644)
    flip(path, -1)
    message = "the header, or an entry that is no longer used, was changed"
    assert problems(verify_fully(opened(path.parent))) == {path.name: message}
    assert problems(verify_tensors(opened(path.parent), ["model/body", "model/head"])) == {}


@pytest.mark.parametrize("kind", ["folder", "link", "link out"])
def test_what_is_no_plain_file_is_not_read(folder: Path, tmp_path: Path, kind: str) -> None:
    path = folder / WHOLE
    outside = tmp_path / "outside"
    shutil.move(path, outside)
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("optimizer.safetensors")
        case "link out":
            path.symlink_to(outside)
    for verify in (verify_quickly, verify_fully):
        assert problems(verify(opened(folder))) == {WHOLE: "this is not a plain file"}
    with pytest.raises(DamagedError, match="not a plain file"):
        opened(folder)["model/a"]


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / WHOLE).unlink()
    os.mkfifo(folder / WHOLE)
    for verify in (verify_quickly, verify_fully):
        assert list(problems(verify(opened(folder)))) == [WHOLE]


def test_only_the_tensors_asked_for_are_read(folder: Path) -> None:
    flip(folder / WHOLE, -1)
    assert problems(verify_tensors(opened(folder), ["model/b", "optimizer/m"])) == {}
    assert problems(verify_tensors(opened(folder), ["model/a", "model/b"])) == {
        "model/a": "the bytes of 'a' are not what was saved"
    }
    with pytest.raises(NotFoundError, match="no tensor 'model/c'"):
        verify_tensors(opened(folder), ["model/c"])


def test_a_damaged_tensor_cannot_be_read_others_can(folder: Path) -> None:
    flip(folder / WHOLE, -1)
    checkpoint = opened(folder)
    assert checkpoint["model/b"][99] == 99
    with pytest.raises(DamagedError, match="bytes of 'a'") as caught:
        checkpoint["model/a"]
    assert caught.value.where == f"{folder}/{WHOLE}"


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda path: path.unlink(), NotFoundError, "not a checkpoint folder"),
        (lambda path: path.write_bytes(b""), DamagedError, "summary of the manifest cannot be read"),
        (lambda path: os.truncate(path, 500), DamagedError, "cut short or was changed"),
        (lambda path: flip(path, 600), DamagedError, "cut short or was changed"),
    ],
)
def test_a_damaged_manifest_is_said_when_the_checkpoint_is_opened(
    folder: Path, damage: Callable[[Path], None], error: type[MilepostError], message: str
) -> None:
    damage(folder / "manifest.json")
    with pytest.raises(error, match=message):
        opened(folder)


@pytest.mark.parametrize("at", [4096, IO_BLOCK - 1, IO_BLOCK, READ_ROOM + 17, -1])
def test_in_files_of_several_blocks_too(tmp_path: Path, open_job: Callable[..., Job], at: int) -> None:
    job = open_job(LocalStorage(tmp_path))
    large = np.ones(READ_ROOM + IO_BLOCK + 5, np.int8)
    path = tmp_path / job.commit(1, {"model": {"large": large, "small": np.ones(3)}}).folder / WHOLE
    checkpoint = opened(path.parent)
    blocks: list[int] = []
    assert problems(verify_fully(checkpoint, blocks.append)) == {}
    assert sum(blocks) == path.stat().st_size
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        byte = file.read(1)[0] ^ 0x80
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte]))
    entry = "small" if at == 4096 else "large"
    assert problems(verify_fully(checkpoint)) == {WHOLE: f"the bytes of '{entry}' are not what was saved"}
    with pytest.raises(DamagedError):
        checkpoint.read_file(WHOLE, Pages(READ_ROOM).view)
