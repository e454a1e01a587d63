from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milepost.errors import (
    DamagedError,
    FormatError,
    MetricError,
    MilepostError,
    NotFoundError,
    ReferenceSyntaxError,
    StorageError,
)
from milepost.folder import which as which_module
from milepost.folder.run import Listed, RunFolder
from milepost.folder.tags import set_tag
from milepost.ops import refs
from milepost.ops.refs import Ref

Make = Callable[..., RunFolder]


@pytest.mark.parametrize(
    ("text", "place", "which"),
    [
        ("runs/mnist", "runs/mnist", None),
        ("runs/mnist@best", "runs/mnist", "best"),
        ("runs/mnist@step=1200", "runs/mnist", "step=1200"),
        ("runs/mnist@~2", "runs/mnist", "~2"),
        ("runs/mnist/@best", "runs/mnist/", "best"),
        ("me@home/mnist", "me@home/mnist", None),
        ("me@home/mnist@best", "me@home/mnist", "best"),
        ("a@b@c", "a@b", "c"),
        ("s3://me@bucket/run", "s3://me@bucket/run", None),
        ("s3://bucket/run@best", "s3://bucket/run", "best"),
    ],
)
def test_the_last_at_divides_unless_a_slash_follows(text: str, place: str, which: str | None) -> None:
    assert Ref.parse(text) == Ref(place, which)
    assert str(Ref.parse(text)) == text


def test_a_path_that_exists_is_a_place_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs@best").mkdir()
    assert Ref.parse("runs@best") == Ref("runs@best")
    assert Ref.parse("runs@best@latest") == Ref("runs@best", "latest")
    os.symlink("nowhere", "link@best")
    assert Ref.parse("link@best") == Ref("link@best")


@pytest.mark.parametrize("text", ["", "@best", "runs/mnist@", "a\0b"])
def test_what_is_no_ref(text: str) -> None:
    with pytest.raises(ReferenceSyntaxError) as caught:
        Ref.parse(text)
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize("ref", [3, None, b"runs/mnist", ["runs/mnist"]])
def test_what_is_not_even_a_text(ref: Any) -> None:
    with pytest.raises(ReferenceSyntaxError, match="a text or a path") as caught:
        refs.open(ref)
    assert caught.value.found == repr(ref)


def test_open_takes_the_newest_or_the_one_that_is_said(branched: RunFolder, tmp_path: Path) -> None:
    set_tag(branched, "paper", next(one for one in branched.checkpoints() if one.step == 100))
    where = str(tmp_path / "run")
    expected = {
        "": 350, "@latest": 350, "@good": 300, "@best": 300, "@~1": 300, "@~2": 200, "@step=400": 400, "@paper": 100,
        "@step-00000200": 200,
    }  # fmt: skip
    assert {which: refs.open(where + which).metadata["step"] for which in expected} == expected
    superseded = refs.open(where + "@step-00000300.superseded-1")
    assert superseded.metadata["attempt"] == 1
    assert refs.open(Ref(where, "good")).metadata["step"] == 300
    assert refs.open(tmp_path / "run").metadata["step"] == 350


def test_a_checkpoint_folder_is_opened_in_its_run_out_of_it_and_by_a_link(make_run: Make, tmp_path: Path) -> None:
    make_run()
    folder = tmp_path / "run" / "step-00000200"
    shutil.copytree(folder, tmp_path / "copied")
    for place in (folder, tmp_path / "copied", f"{folder}/", tmp_path / "run" / "latest"):
        source = refs.open(place)
        assert source["model/frozen.weight"].sum(dtype=int) == np.arange(2048).sum()
    assert refs.open(tmp_path / "copied").metadata["step"] == 200


def test_a_link_is_followed_once(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    source = refs.open(tmp_path / "run" / "latest")
    run.storage.symlink("step-00000100", "latest")
    assert source["model/head.weight"][0, 0] == 300
    assert source.where.endswith("step-00000300")


def test_open_goes_on_when_a_live_job_removes_what_was_found(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    real = which_module.find

    def find_then_lose(opened: RunFolder, which: str) -> Listed:
        found = real(opened, which)
        if found.step == 300:
            shutil.rmtree(tmp_path / "run" / found.folder)
        return found

    monkeypatch.setattr(which_module, "find", find_then_lose)
    assert refs.open(run.where).metadata["step"] == 200


def test_a_folder_without_manifest_is_an_error_not_a_loop(make_run: Make, tmp_path: Path) -> None:
    make_run()
    (tmp_path / "run" / "step-00000300" / "manifest.json").unlink()
    with pytest.raises(NotFoundError, match="not a checkpoint folder"):
        refs.open(f"{tmp_path}/run@step=300")


@pytest.mark.parametrize(
    ("which", "kind"),
    [("step=7", NotFoundError), ("~9", NotFoundError), ("bets", NotFoundError), ("best", MetricError)],
)
def test_what_is_not_in_the_run(make_run: Make, tmp_path: Path, which: str, kind: type[MilepostError]) -> None:
    make_run()
    with pytest.raises(kind) as caught:
        refs.open(f"{tmp_path}/run@{which}")
    assert caught.value.where == str(tmp_path / "run")


def test_which_belongs_to_runs(make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReferenceSyntaxError) as caught:
        refs.open("run/step-00000100@best")
    assert caught.value.hint == "run@best"
    with pytest.raises(NotFoundError) as lost:
        refs.open_run("run/step-00000100")
    assert lost.value.hint == "its run is run"


@pytest.mark.parametrize("written", ["run~2", "run:~2", "run/~2", "run#~2"])
def test_which_without_its_at_is_recognised(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    make_run()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError) as caught:
        refs.open(written)
    assert caught.value.hint == "did you mean run@~2?"


def test_a_damaged_manifest_is_said_to_be(make_run: Make, tmp_path: Path) -> None:
    make_run()
    manifest = tmp_path / "run" / "step-00000300" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_bytes(manifest.read_bytes()[:-40])
    with pytest.raises(DamagedError):
        refs.open(tmp_path / "run")


def test_a_misspelt_place_is_told_its_neighbour(make_run: Make, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "mnist")
    with pytest.raises(NotFoundError) as caught:
        refs.open(tmp_path / "runs" / "minst")
    assert caught.value.hint == f"did you mean {tmp_path}/runs/mnist?"


def test_a_name_no_file_system_has_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="File name too long"):
        refs.open(str(tmp_path / ("x" * 5000)))


def test_files_of_other_formats_are_opened_but_are_no_runs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    (tmp_path / "x.npy").rename(tmp_path / "weights@best")  # known by what is in it
    source = refs.open(tmp_path / "weights@best")
    assert source["array"].tolist() == [0, 1, 2]
    assert source.metadata["format"] == "a numpy array"
    with pytest.raises(FormatError, match="of another format") as caught:
        refs.open_run(tmp_path / "weights@best")
    assert caught.value.found == "a numpy array"
    assert "checkpoint folder of milepost" in str(caught.value.expected)
    with pytest.raises(ReferenceSyntaxError, match="@ follows a run directory, or a folder"):
        refs.open(f"{tmp_path}/weights@best@latest")


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    with pytest.raises(FormatError, match="not a regular file") as caught:
        refs.open(tmp_path / "model.pt")
    assert caught.value.found == "a pipe"


def test_other_places(make_run: Make, tmp_path: Path) -> None:
    make_run()
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    shutil.copytree(tmp_path / "run", tmp_path / "lost")
    (tmp_path / "lost" / "milepost.json").unlink()
    for place, kind, message in [
        ("s3://bucket/run", FormatError, "not URLs"),
        (tmp_path / "notes.txt", FormatError, "no checkpoint that milepost can read"),
        (tmp_path / "empty", NotFoundError, "neither a run directory nor a checkpoint"),
        (tmp_path / "notes.txt" / "run", NotFoundError, "nothing at this place"),
        (tmp_path / "run" / "milepost.json", FormatError, "name the folder"),
        (tmp_path / "run" / "step-00000100" / "manifest.json", FormatError, "name the folder"),
        (tmp_path / "lost", NotFoundError, "lost its milepost.json"),
    ]:
        with pytest.raises(kind, match=message):
            refs.open(place)


def test_locate_finds_the_run_around_a_checkpoint_folder(make_run: Make, tmp_path: Path) -> None:
    make_run()
    run, one = refs.locate(tmp_path / "run" / "step-00000200")
    assert (run.where, one.folder) == (str(tmp_path / "run"), "step-00000200")
    assert refs.locate(f"{tmp_path}/run@~1")[1].step == 200
    shutil.copytree(tmp_path / "run" / "step-00000100", tmp_path / "step-00000100")
    with pytest.raises(NotFoundError, match="stands in no run"):
        refs.locate(tmp_path / "step-00000100")
    shutil.copytree(tmp_path / "run" / "step-00000100", tmp_path / "run" / "latest-copy")
    with pytest.raises(NotFoundError, match="stands in no run"):
        refs.locate(tmp_path / "run" / "latest-copy")


def test_checkpoint_folders_are_one_or_all(make_run: Make, tmp_path: Path) -> None:
    make_run()
    where = str(tmp_path / "run")

    def found(ref: str) -> list[str]:
        return [os.path.basename(storage.root) for storage in refs.checkpoint_folders(Ref.parse(ref))]

    assert found(where) == ["step-00000100", "step-00000200", "step-00000300"]
    assert found(where + "@~1") == ["step-00000200"]
    assert found(where + "/step-00000100") == ["step-00000100"]


def test_runs_below(make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "b", steps=(1,))
    make_run(tmp_path / "a" / "seed-1", steps=(1,))
    make_run(tmp_path / "a" / ".hidden", steps=(1,))
    make_run(tmp_path / "b" / "step-00000001" / "inner", steps=(1,))  # within a run: not looked for
    os.symlink(tmp_path, tmp_path / "a" / "around")
    os.symlink(tmp_path / "b", tmp_path / "linked")
    make_run(tmp_path / "deep" / "1" / "2" / "3", steps=(1,))
    assert refs.runs_below(".") == ["a/seed-1", "b", "deep/1/2/3"]
    assert refs.runs_below(".", depth=3) == ["a/seed-1", "b"]
    assert refs.runs_below("a") == ["a/seed-1"]
    assert refs.runs_below("b") == ["b"]
    assert refs.runs_below("linked") == ["linked"]  # named itself, so it is meant


def test_runs_below_tells_of_folders_it_cannot_list(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "good", steps=(1,))
    (tmp_path / "locked").mkdir()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    told: list[MilepostError] = []
    assert refs.runs_below(str(tmp_path), on_unreadable=told.append) == [str(tmp_path / "good")]
    assert [error.where for error in told] == [str(tmp_path / "locked")]
    with pytest.raises(StorageError):
        refs.runs_below(str(tmp_path))
    with pytest.raises(StorageError):
        refs.runs_below(str(tmp_path / "locked"), on_unreadable=told.append)


def test_runs_below_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        refs.runs_below(str(tmp_path / "missing"))
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError):
        refs.runs_below(str(tmp_path / "file"))
