"""Names inside a run directory."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.folder import names


@pytest.mark.parametrize(
    ("name", "step", "current"),
    [
        ("step-00000001", 1, True),
        ("step-00000469", 469, True),
        ("step-12345678", 12345678, True),
        ("step-1234567890123", 1234567890123, True),
        ("step-00000400.superseded-1", 400, False),
        ("step-00000400.superseded-12.2", 400, False),
        ("step-0000001", None, False),
        ("step-", None, False),
        ("step-00000001x", None, False),
        ("step-00000001.superseded", None, False),
        ("step-00000001.superseded-x", None, False),
        ("step-00000001.bak", None, False),
        ("xstep-00000001", None, False),
        ("step--0000001", None, False),
        ("latest", None, False),
        (".trash-1-step-00000001", None, False),
    ],
)
def test_checkpoint_folders(name: str, step: int | None, current: bool) -> None:
    assert names.parse_step(name) == step
    assert names.is_current(name) == current


@given(st.integers(0, 10**15), st.integers(1, 10**6))
def test_every_name_made_for_a_step_says_which(step: int, attempt: int) -> None:
    for name in (names.step_folder(step), names.superseded(step, attempt), f"{names.superseded(step, attempt)}.2"):
        assert names.parse_step(name) == step
        assert names.step_in(f"{names.DROPPED}{names.OLD}{name}") == step
    assert names.is_current(names.step_folder(step))
    assert not names.is_current(names.superseded(step, attempt))
    assert names.step_in(names.set_aside(attempt, step).rpartition("/")[2]) == step


def test_names_sort_as_their_steps_do() -> None:
    steps = [0, 1, 9, 10, 99, 12345, 99_999_999]
    assert sorted(map(names.step_folder, steps)) == list(map(names.step_folder, steps))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("1.json", (1, "json")),
        ("12.lock", (12, "lock")),
        ("3.work", (3, "work")),
        ("3.fenced", (3, "fenced")),
        ("3.trace.jsonl", None),
        (".3.lock", None),
        ("x.json", None),
        ("3.work.bak", None),
        ("json", None),
    ],
)
def test_files_of_attempts(name: str, found: tuple[int, str] | None) -> None:
    assert names.parse_attempt(name) == found


def test_every_name_of_an_attempt_counts_its_number_but_the_trace() -> None:
    made = [names.attempt_file(7), names.attempt_lock(7), names.attempt_work(7), names.attempt_fenced(7)]
    assert [names.parse_attempt(path.rpartition("/")[2]) for path in made] == [
        (7, "json"), (7, "lock"), (7, "work"), (7, "fenced"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("items", "stems"),
    [
        (["model", "optimizer"], ["model", "optimizer"]),
        (["model", "Model", "MODEL"], ["model", "Model-2", "MODEL-3"]),
        (["a b", "a/b", "a.b"], ["a_b", "a_b-2", "a_b-3"]),
        (["a", "A", "A-2"], ["a", "A-2", "A-2-2"]),
        (["..", ".", ""], ["item", "item-2", "item-3"]),
        (["模型", "модель"], ["item", "item-2"]),
        (["../../etc/passwd"], ["etc_passwd"]),
        (["x" * 200], ["x" * 80]),
        (["State"], ["State-2"]),
    ],
)
def test_file_stems(items: list[str], stems: list[str]) -> None:
    assert list(names.file_stems(items, reserved=["state"]).values()) == stems


@given(st.lists(st.text(), unique=True), st.lists(st.text(alphabet="aAbB-2_", min_size=1), unique=True))
def test_file_stems_are_plain_and_differ_whatever_the_items_are(items: list[str], more: list[str]) -> None:
    stems = names.file_stems([*items, *(one for one in more if one not in items)])
    assert len({stem.casefold() for stem in stems.values()}) == len(stems)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,90}", stem) for stem in stems.values())


def test_parts_never_collide_with_whole_files() -> None:
    stems = names.file_stems(["model", "model.part-0", "model.part-0.safetensors"]).values()
    files = [stem + names.SUFFIX for stem in stems] + [
        names.part(stem, number) for stem in stems for number in range(9)
    ]
    assert len(set(files)) == len(files)
    assert names.MANIFEST not in files
