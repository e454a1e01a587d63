from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milepost.errors import DamagedError, FormatError, NotFoundError
from milepost.folder.run import RunFolder
from milepost.ops import checking
from milepost.ops.checking import Verified, verify_folder
from milepost.storage.local import LocalStorage

Make = Callable[..., RunFolder]


@pytest.fixture
def folder(make_run: Make, tmp_path: Path) -> Path:
    make_run(steps=(1,))
    return tmp_path / "run" / "step-00000001"


def edit(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.chmod(0o644)
    file.write_bytes(change(file.read_bytes()))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def problems(found: Verified) -> dict[str, str]:
    return {one.name: one.problem.message for one in found.damaged if one.problem is not None}


@pytest.mark.parametrize("level", ["quick", "full"])
def test_what_is_as_it_was_saved(folder: Path, level: Any) -> None:
    found = verify_folder(LocalStorage(folder), level)
    assert [(one.name, one.problem) for one in found.findings] == [("model.safetensors", None)]
    assert found.nbytes == (folder / "model.safetensors").stat().st_size


def test_a_changed_byte_is_found_by_looking_at_all_of_them(folder: Path) -> None:
    edit(folder / "model.safetensors", lambda data: flipped(data, 4096))
    assert not verify_folder(LocalStorage(folder), "quick").damaged
    found = problems(verify_folder(LocalStorage(folder)))
    assert found == {"model.safetensors": "the bytes of 'head.weight' are not what was saved"}
    assert not verify_folder(LocalStorage(folder), tensors=["model/frozen.weight"]).damaged
    assert list(problems(verify_folder(LocalStorage(folder), tensors=["model/head.weight"]))) == ["model/head.weight"]


@pytest.mark.parametrize("level", ["quick", "full"])
def test_other_damage_is_found_either_way(folder: Path, level: Any) -> None:
    edit(folder / "model.safetensors", lambda data: data[:-1])
    (folder / "stranger.txt").write_text("hello")
    found = problems(verify_folder(LocalStorage(folder), level))
    assert found == {
        "model.safetensors": "the file is cut short or was changed",
        "stranger.txt": "the manifest does not list this file",
    }
    (folder / "model.safetensors").unlink()
    assert "missing" in problems(verify_folder(LocalStorage(folder), level))["model.safetensors"]


def test_the_manifest_is_checked_first(folder: Path) -> None:
    manifest = folder / "manifest.json"
    data = manifest.read_bytes()
    edit(manifest, lambda data: flipped(data, data.index(b'"shape"')))
    (finding,) = verify_folder(LocalStorage(folder)).findings
    assert (finding.name, type(finding.problem)) == ("manifest.json", DamagedError)
    manifest.write_bytes(data.replace(b'"format":"1.1"', b'"format":"9.0"'))
    (finding,) = verify_folder(LocalStorage(folder)).findings
    assert (finding.name, type(finding.problem)) == ("manifest.json", FormatError)
    manifest.unlink()
    (finding,) = verify_folder(LocalStorage(folder)).findings
    assert finding.problem is not None
    assert finding.problem.message == "the checkpoint has no manifest"


def test_a_tensor_that_is_not_there(folder: Path) -> None:
    with pytest.raises(NotFoundError):
        verify_folder(LocalStorage(folder), tensors=["model/nothing"])


def test_bytes_can_be_right_and_the_checkpoint_not_good(branched: RunFolder) -> None:
    found = verify_folder(branched.storage.child("step-00000350"))
    assert not found.damaged
    assert found.why_not_good == "NaN or infinity in model/head.weight"


def test_a_checkpoint_that_a_job_removes_meanwhile_is_gone_not_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checking.verify_fully

    def remove_then_verify(*arguments: Any) -> Any:
        shutil.rmtree(folder)
        return real(*arguments)

    monkeypatch.setattr(checking, "verify_fully", remove_then_verify)
    # Listing an absent folder raises in the middle of it; either way it is gone.
    found = verify_folder(LocalStorage(folder))
    assert found.gone
    assert not found.damaged


def test_one_that_a_job_replaces_meanwhile_is_verified_again(
    start_job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start_job()
    job.save(1)
    real, times = checking.verify_fully, []

    def replace_then_verify(*arguments: Any) -> Any:
        times.append(len(times))
        if len(times) == 1:
            job.save(1, {"model": {"another": np.ones(5)}})
        return real(*arguments)

    monkeypatch.setattr(checking, "verify_fully", replace_then_verify)
    found = verify_folder(job.run.storage.child("step-00000001"))
    assert not found.damaged
    assert len(times) == 2
