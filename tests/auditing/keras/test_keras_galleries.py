"""Scripts that use Keras or TensorFlow: every planted fault is found and named, and no script that does it right is accused.

``make test`` audits a third of the scripts, each on one backend of Keras; ``make test-keras`` all of them, on every backend.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from galleries import NAMES, Backend, Backends, Gallery

from milepost.auditing.audit import audit
from milepost.auditing.report import Report, Verdict
from milepost.errors import AuditError

GALLERY, SAVER = Gallery("gallery"), Gallery("saver")
STEP = 7
"""In the middle of the second epoch."""
SECONDS = 1200.0
"""More than enough on any machine."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"backend", "kind", "name"} <= set(metafunc.fixturenames):
        every = metafunc.config.getoption("--every-backend", default=False)
        gallery, kind = metafunc.function.of
        cases = [(backend, kind, name) for backend, name in gallery.cases(kind, every=every)]
        metafunc.parametrize(("backend", "kind", "name"), cases, indirect=["backend"])


def of(gallery: Gallery, kind: str) -> Any:
    """Marks a test that is run for all scripts of a kind."""

    def mark(test: Any) -> Any:
        test.of = gallery, kind
        return test

    return mark


def audited(backend: Backend, script: Path, folder: Path, **options: Any) -> Report:
    command = [sys.executable, str(script)]
    options = {"environment": {**os.environ, **backend.environment}, "seconds": SECONDS, **options}
    return audit(command, cwd=folder, launch=backend.launcher.launch, **options)


def resume_command(script: Path) -> str | None:
    return f"{sys.executable} {script} --resume {{checkpoint}}" if "--resume" in script.read_text() else None


def texts_of(report: Report) -> list[str]:
    return [cause.text for cause in report.causes]


@pytest.mark.parametrize("gallery", [GALLERY, SAVER])
def test_the_galleries_are_whole(gallery: Gallery) -> None:
    assert set(gallery.expected) == set(gallery.names("faulty")) == set(gallery.names("clean"))
    for name in gallery.names("faulty"):
        assert "Forgotten: " in gallery.path("faulty", name).read_text().splitlines()[0]
        assert "Forgotten" not in gallery.path("clean", name).read_text()
    for backend in NAMES:
        assert sum(backend in gallery.backends(name) for name in gallery.expected) >= 8


@of(GALLERY, "faulty")
def test_a_fault_is_found_and_named(backend: Backend, kind: str, name: str, tmp_path: Path) -> None:
    expected = GALLERY.expected[name]
    report = audited(backend, GALLERY.path(kind, name), tmp_path, at=[expected.get("at", STEP)])
    assert report.verdict is Verdict.NOT_EXACT
    texts = texts_of(report)
    assert any(words in text for words in expected["causes"] for text in texts), texts
    told = [
        *(cause.path for cause in report.causes),
        *(one.path for row in report.rows for one in row.differences),
    ]
    assert any(piece in one for piece in expected["names"] for one in told), told


@of(GALLERY, "clean")
def test_a_script_that_does_it_right_is_not_accused(backend: Backend, kind: str, name: str, tmp_path: Path) -> None:
    report = audited(backend, GALLERY.path(kind, name), tmp_path, at=[STEP])
    assert report.verdict is Verdict.EXACT, str(report)
    assert all(row.compared > 5 for row in report.rows)
    assert report.remarks == ()


@of(SAVER, "faulty")
def test_a_fault_of_a_script_without_milepost(backend: Backend, kind: str, name: str, tmp_path: Path) -> None:
    script, expected = SAVER.path(kind, name), SAVER.expected[name]
    report = audited(backend, script, tmp_path, saver="keras", resume_command=resume_command(script), at=[5])
    assert report.verdict is Verdict.NOT_EXACT
    texts = texts_of(report)
    for words in expected["causes"]:
        assert any(words in text for text in texts), texts
    assert not any(words in text for words in expected.get("not", []) for text in texts), texts
    assert list(tmp_path.iterdir()) == []


@of(SAVER, "clean")
def test_a_script_without_milepost_that_saves_all_it_needs(
    backend: Backend, kind: str, name: str, tmp_path: Path
) -> None:
    script = SAVER.path(kind, name)
    report = audited(backend, script, tmp_path, saver="keras", resume_command=resume_command(script), at=[5])
    assert report.verdict is Verdict.EXACT, str(report)
    assert all(row.compared > 5 for row in report.rows)
    assert list(tmp_path.iterdir()) == []


NOTHING_SAVED = """
import keras, numpy as np
keras.utils.set_random_seed(7)
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
x = np.ones((40, 5), "float32")
{train}
"""


def written(backends: Backends, folder: Path, train: str) -> Report:
    script = folder / "train.py"
    script.write_text(NOTHING_SAVED.format(train=train))
    return audited(backends.get("torch"), script, folder, saver="keras")


def test_what_cannot_be_observed_leaves_the_answer_open(backends: Backends, tmp_path: Path) -> None:
    report = written(backends, tmp_path, "model.fit(x, x[:, :1], batch_size=8, verbose=0)")
    assert report.verdict is Verdict.INCOMPLETE
    assert "is never called" in report.unseen[0]
    own = "model.fit(x, x[:, :1], batch_size=8, verbose=0)\nimport tensorflow as tf\ntf.train.Checkpoint().write('own')"
    report = written(backends, tmp_path, own)
    assert report.verdict is Verdict.INCOMPLETE
    assert "tf.train.Checkpoint.write" in report.unseen[0]


def test_a_loop_of_ones_own_is_not_watched_without_milepost(backends: Backends, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"no step of model\.fit was seen"):
        written(backends, tmp_path, "model.train_on_batch(x, x[:, :1])")
