"""Which bytes are shared with the checkpoint before: whole items, parts, and when a file is not worth a link any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.core.boxes import Box
from milepost.core.dtypes import dtype
from milepost.core.layout import Entry
from milepost.core.manifest import File, Manifest, Shard, Summary, Tensor
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.retention import Keep, components
from milepost.folder.run import Listed
from milepost.folder.sharing import MOST_PARTS, Base, reuse
from milepost.folder.snapshot import Piece
from milepost.folder.verify import verify_fully
from milepost.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from harness.driving import Job

FLOAT = dtype("float32")


def base(files: Mapping[str, Mapping[str, int]], header: int = 0, **changes: Tensor) -> Base:
    """A checkpoint that holds so many bytes of each tensor in each file, with digests called as the tensors."""
    tensors, records = {}, {}
    for file, held in files.items():
        records[file] = File(header + sum(held.values()), "d")
        for name, size in held.items():
            tensors[name] = Tensor("float32", (size // 4,), (Shard(file, name, name),))
    return Base("step-1", Manifest(Summary("1.0", "r", 1, 1), {}, tensors | changes, records))


def entries(sizes: Mapping[str, int]) -> list[Entry]:
    return [Entry(name, FLOAT, (size // 4,), 0, size) for name, size in sizes.items()]


def reused(before: Base | None, sizes: Mapping[str, int], changed: str = "") -> tuple[dict[str, list[str]], list[str]]:
    """File -> names taken from it, and names to write; the names in `changed` have other bytes than before."""
    names = list(sizes)
    digests = [f"other {name}" if name in changed else name for name in names]
    found = reuse(before, [Piece(name) for name in names], entries(sizes), digests)
    linked = {file: [piece.path for piece in taken] for file, taken in found.linked.items()}
    return linked, [names[index] for index in found.rest]


def test_without_a_base_all_is_written() -> None:
    assert reused(None, {"a": 400, "b": 400}) == ({}, ["a", "b"])


def test_what_is_the_same_is_linked_whole() -> None:
    sizes = {"a": 400, "b": 400}
    assert reused(base({"m": sizes}), sizes) == ({"m": ["a", "b"]}, [])


def test_what_changed_is_written_beside() -> None:
    sizes = {"a": 400, "b": 400}
    assert reused(base({"m": sizes}), sizes, changed="b") == ({"m": ["a"]}, ["b"])


@pytest.mark.parametrize(("alive", "linked"), [(396, False), (400, True), (404, True)])
def test_a_file_is_linked_if_half_of_it_is_alive(alive: int, linked: bool) -> None:
    sizes = {"a": alive, "b": 800 - alive}
    assert reused(base({"m": sizes}), sizes, changed="b") == (({"m": ["a"]}, ["b"]) if linked else ({}, ["a", "b"]))


def test_the_header_counts_as_dead() -> None:
    sizes = {"a": 4092, "b": 4}
    assert reused(base({"m": sizes}, header=4096), sizes) == ({"m": ["a", "b"]}, [])
    assert reused(base({"m": sizes}, header=4100), sizes) == ({}, ["a", "b"])


def test_each_file_is_judged_by_itself() -> None:
    before = base({"m.part-0": {"a": 400, "b": 400}, "m.part-1": {"c": 400, "d": 404}})
    sizes = {"a": 400, "b": 400, "c": 400, "d": 404}
    assert reused(before, sizes, changed="bd") == ({"m.part-0": ["a"]}, ["b", "c", "d"])


@pytest.mark.parametrize("parts", [MOST_PARTS - 1, MOST_PARTS])
def test_an_item_over_too_many_files_is_written_anew(parts: int) -> None:
    names = [f"t{number}" for number in range(parts)]
    before = base({f"m.part-{number}": {name: 400} for number, name in enumerate(names)})
    linked, rest = reused(before, dict.fromkeys(names, 400))
    assert (len(linked), len(rest)) == ((parts, 0) if parts < MOST_PARTS else (0, parts))


@pytest.mark.parametrize(
    "before",
    [
        Tensor("int32", (100,), (Shard("m", "a", "a"),)),
        Tensor("float32", (10, 10), (Shard("m", "a", "a"),)),
        Tensor("float32", (100,), (Shard("m", "b", "a"),)),
        Tensor("float32", (100,), (Shard("not listed", "a", "a"),)),
        Tensor("float32", (100,), (Shard("m", "a", "a", None, (0,), (100,)),)),
        Tensor("float32", (100,), (Shard("m", "a", "a", None, (0,), (50,)), Shard("m", "a", "a", None, (50,), (50,)))),
        Tensor("float32", (100,), same_as="b"),
    ],
    ids=["dtype", "shape", "key", "file", "box", "boxes", "tied"],
)
def test_equal_bytes_of_another_thing_are_not_shared(before: Tensor) -> None:
    assert reused(base({"m": {"b": 400}}, a=before), {"a": 400}) == ({}, ["a"])


def test_boxes_are_shared_by_where_they_are() -> None:
    halves = [Box((0,), (50,)), Box((50,), (50,))]
    shards = tuple(Shard("m", f"a[{n}]", f"d{n}", None, *box) for n, box in enumerate(halves))
    before = base({"m": {"a[0]": 200, "a[1]": 200}}, a=Tensor("float32", (100,), shards))
    for digest, box, shared in (("d1", halves[1], True), ("d1", halves[0], False), ("other", halves[1], False)):
        entry = Entry("a[1]", FLOAT, (50,), 0, 200)
        found = reuse(before, [Piece("a", box)], [entry], [digest])
        assert (found.linked == {"m": {Piece("a", box): shards[1]}}) is shared
        assert found.rest == ([] if shared else [0])


# -- over many saves ------------------------------------------------------------------------------------------------------

SIZES = {"a": 9000, "b": 6000, "c": 4000, "d": 500, "e": 3000}


@given(
    st.lists(st.sets(st.sampled_from(sorted(SIZES))), min_size=1, max_size=14),
    st.sampled_from([None, 1, 3]),
    st.data(),
)
def test_however_a_state_changes_it_is_whole_and_little_of_it_is_dead(
    changes: list[set[str]], last: int | None, data: st.DataObject
) -> None:
    from harness.driving import Job, read

    disk = MemoryStorage()
    job = Job(disk, Keep(last=last))
    state = {name: np.zeros(size // 4, np.float32) for name, size in SIZES.items()}
    total = sum(array.nbytes for array in state.values())
    for step, changed in enumerate(changes, 1):
        state |= {name: np.full(SIZES[name] // 4, step, np.float32) for name in changed}
        present = {name for name in state if name not in data.draw(st.sets(st.sampled_from(sorted(SIZES)), max_size=1))}
        taken = {name: array for name, array in state.items() if name in present}
        saved = job.save(step, {"model": taken}, loss=1.0)
        checkpoint = Checkpoint(disk.child(saved.folder))
        assert {path: array.tolist() for path, array in read(checkpoint).items()} == {
            f"model/{name}": array.tolist() for name, array in taken.items()
        }
        assert [one.problem for one in verify_fully(checkpoint)] == [None] * len(checkpoint.manifest.files)
        files = checkpoint.manifest.files
        assert len(files) <= MOST_PARTS
        assert sum(file.size - 4096 for file in files.values()) <= 2 * total
    job.end()


# -- through the whole writer ---------------------------------------------------------------------------------------------


def model(step: int, changes: str = "head") -> dict[str, Any]:
    arrays = {"body": np.arange(5000, dtype=np.float32), "head": np.zeros(2000, np.float32)}
    arrays[changes] = arrays[changes] + step
    return {"model": arrays}


def files(disk: MemoryStorage, saved: Listed) -> list[str]:
    return [name for name in disk.list(saved.folder) if name != "manifest.json"]


def test_an_item_that_did_not_change_is_one_file_however_often_it_is_saved(
    disk: MemoryStorage, open_job: Callable[..., Job]
) -> None:
    job = open_job(disk)
    saved = [job.commit(step, model(0)) for step in (1, 2, 3)]
    assert [files(disk, one) for one in saved] == [["model.safetensors"]] * 3
    assert len({disk.stat(f"{one.folder}/model.safetensors").identity for one in saved}) == 1
    assert [one.summary.new_bytes == 0 for one in saved if one.summary] == [False, True, True]
    assert all(Checkpoint(disk.child(one.folder)).manifest.files["model.safetensors"].plain for one in saved)


def test_an_item_of_which_a_part_changed_is_linked_in_part(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    job = open_job(disk)
    saved = [job.commit(step, model(step)) for step in (1, 2, 3)]
    parts = ["model.part-0.safetensors", "model.part-1.safetensors"]
    assert [files(disk, one) for one in saved] == [["model.safetensors"], parts, parts]
    body = {disk.stat(f"{saved[0].folder}/model.safetensors").identity}
    body |= {disk.stat(f"{one.folder}/model.part-0.safetensors").identity for one in saved[1:]}
    assert len(body) == 1
    assert [one.summary.new_bytes for one in saved[1:] if one.summary] == [4096 + 8000] * 2
    last = Checkpoint(disk.child(saved[2].folder))
    assert not any(file.plain for file in last.manifest.files.values())
    assert last.resolve("model/body").shards[0].file == "model.part-0.safetensors"
    assert last.resolve("model/head").shards[0].file == "model.part-1.safetensors"


def test_an_item_of_which_most_changed_is_written_whole(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    job = open_job(disk)
    saved = [job.commit(step, model(step, changes="body")) for step in (1, 2, 3)]
    assert [files(disk, one) for one in saved] == [["model.safetensors"]] * 3
    assert all(one.summary.new_bytes == one.summary.bytes for one in saved if one.summary)


def test_a_tensor_less_is_a_dead_one_in_the_file(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    job = open_job(disk)
    job.commit(1, model(0))
    less = job.commit(2, {"model": {"body": model(0)["model"]["body"]}})
    assert files(disk, less) == ["model.part-0.safetensors"], "the plain name is for what holds this item and no more"
    more = job.commit(3, model(0))
    assert files(disk, more) == ["model.part-0.safetensors", "model.part-1.safetensors"]


def test_tied_tensors_that_are_tied_no_more_keep_no_stale_header(
    disk: MemoryStorage, open_job: Callable[..., Job]
) -> None:
    job = open_job(disk)
    body = np.arange(5000, dtype=np.float32)
    job.commit(1, {"model": {"body": body, "again": body}})
    alone = job.commit(2, {"model": {"body": body}})
    assert files(disk, alone) == ["model.part-0.safetensors"], "its header says that `again` is the same"


def test_the_first_save_after_a_restore_links_to_what_was_verified(
    disk: MemoryStorage, open_job: Callable[..., Job]
) -> None:
    first = open_job(disk)
    first.commit(1, model(0))
    first.end()
    second = open_job(disk)
    saved = second.commit(2, {"model": second.state["model"]})
    assert saved.summary is not None
    assert saved.summary.new_bytes == 0


def test_a_job_that_began_anew_links_to_nothing(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    first = open_job(disk)
    first.commit(1, model(0))
    first.end()
    saved = open_job(disk, resume="never").commit(2, model(0))
    assert saved.summary is not None
    assert saved.summary.new_bytes == saved.summary.bytes


@pytest.mark.parametrize(("last", "independent"), [(2, 2), (3, 2), (4, 3), (None, 2), (1, 2)])
def test_so_many_kept_checkpoints_share_no_file(
    disk: MemoryStorage, open_job: Callable[..., Job], last: int | None, independent: int
) -> None:
    job = open_job(disk, Keep(last=last, independent=independent))
    for step in range(1, 13):
        job.save(step, model(0), loss=1.0)
        kept = [one.folder for one in job.run.checkpoints()]
        assert len(components(job.run, kept)) >= min(independent, len(kept))
    alone = Keep(last=last)
    assert alone.independent == 1


def test_by_default_all_may_share_one_file(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    job = open_job(disk, Keep(last=4))
    for step in range(1, 6):
        job.save(step, model(0), loss=1.0)
    assert len(components(job.run, [one.folder for one in job.run.checkpoints()])) == 1
