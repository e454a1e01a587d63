"""Several real ranks: each writes its share, and any other number of ranks reads it, divided in any other way."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from torchrun import torchrun

import milepost
from milepost.folder.verify import verify_fully
from milepost.ops import refs

WAYS = ("fsdp", "2d", "ddp")


@pytest.fixture(scope="module", name="saved")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    torchrun(4, "save", folder, *WAYS)
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_what_is_on_disk_is_what_all_ranks_hold_together(saved: Path, way: str) -> None:
    folder = saved / way
    right = np.load(folder / "right.npz")
    for name in ("step-2", "async", "each"):
        source = milepost.open(folder / name)
        assert set(source) == set(right)
        for path in right:
            np.testing.assert_array_equal(source[path], right[path], err_msg=path)
        assert source.plain["plain/betas/1"] == 0.99
        assert [one.problem for one in verify_fully(refs.open(folder / name)) if one.problem] == []  # type: ignore[arg-type]
    ranks = {found[1] for path in (folder / "step-2").iterdir() if (found := re.search(r"rank-(\d)", path.name))}
    assert ranks == {"0", "1", "2", "3"}, "replicated tensors are spread over ranks"
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("way", WAYS)
def test_what_did_not_change_is_linked_rank_by_rank(saved: Path, way: str) -> None:
    sizes = 0
    for path in (saved / way / "step-3").glob("*.safetensors"):
        if path.stat().st_nlink > 1:
            assert path.name.startswith("optimizer"), path.name
            sizes += path.stat().st_size
    moments = sum(path.stat().st_size for path in (saved / way / "step-3").glob("optimizer*"))
    assert sizes > moments / 2, "but for files that are mostly header"


@pytest.mark.parametrize(("ranks", "ways"), [(4, WAYS), (2, ("fsdp", "ddp")), (1, ("plain",))])
def test_other_ranks_in_other_ways_load_it(saved: Path, ranks: int, ways: tuple[str, ...]) -> None:
    said = torchrun(ranks, "load", saved, *ways)
    for rank in range(ranks):
        for way in ways:
            assert all(f"<{rank}> {one} to {way}" in said for one in WAYS)


def test_what_cannot_be_stored_is_told_to_all(tmp_path: Path) -> None:
    said = torchrun(2, "unstorable", tmp_path)
    for rank in range(2):
        assert f"<{rank}> rank 1:" in said
    assert "of rank 1/value" in said


def test_a_rank_that_dies_leaves_what_was_there(tmp_path: Path) -> None:
    said = torchrun(2, "death", tmp_path, code=None)
    assert "<0>" in said, "the other rank is told"
    assert sorted(milepost.open(tmp_path / "latest")) == ["model/weight0", "model/weight1"]
    assert "more" not in milepost.open(tmp_path / "latest").plain
