"""The benchmark runs from end to end on a tiny model. What it measures there means nothing and is not looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
TITLES = (
    "save call",
    "optimizer step",
    "every 5 steps",
    "every step",
    "plain write",
    "plain read",
    "memory",
    "frozen",
    "import",
    "ls",
    "show",
    "stats",
    "diff",
)


@pytest.fixture(autouse=True)
def bench_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of ``bench/`` import one another as scripts do."""
    monkeypatch.syspath_prepend(BENCH)


def test_a_quick_run_measures_every_figure_and_writes_them_into_the_page(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- bench: begin -->\nan earlier table\n<!-- bench: end -->\nafter\n")
    options = [
        "--quick",
        "--scale",
        "tiny",
        "--peers",
        "milepost,torch.save",
        "--docs",
        str(page),
        "--json",
        str(tmp_path / "all.json"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads that spin make a tiny model no faster
    ran = subprocess.run(
        [sys.executable, str(BENCH / "run.py"), *options], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert "failed" not in ran.stderr, ran.stderr

    results = json.loads((tmp_path / "all.json").read_text())["results"]
    assert {group: sorted(peers) for group, peers in results.items()} == {
        "training": ["milepost", "torch.save"],
        "restore": ["milepost", "torch.save"],
        "frozen": ["milepost"],
        "import": ["milepost"],
        "ls": ["milepost"],
        "look": ["milepost"],
        "keras": ["jax", "tensorflow", "torch"],
    }
    text = page.read_text()
    assert text.startswith("before\n<!-- bench: begin -->\n")
    assert text.endswith("<!-- bench: end -->\nafter\n")
    assert "an earlier table" not in text
    rows = [line for line in text.splitlines() if "`make bench ARGS=" in line]
    for title in TITLES:
        assert any(title in row.split("|")[1] for row in rows), title
    peers = [
        line for line in text.splitlines() if "milepost" in line and "torch.save" in line and "command" not in line
    ]
    assert len(peers) == 1, text
    assert any("in the page cache; no fsync" in line for line in text.splitlines())
    assert any("model.fit waits" in line and "BackupAndRestore" in line for line in text.splitlines())


def test_the_interval_of_a_median_needs_six_samples() -> None:
    from intervals import median

    assert median([5, 1, 4, 2, 3]) == (3, 1, 5, 5, False)  # the extremes enclose the median with 1 - 2/2**5 = 94 %
    assert median([6, 1, 5, 2, 4, 3]) == (3.5, 1, 6, 6, True)
    # From tables of the binomial distribution: of 20 samples the 6th and the 15th (95.9 %).
    assert median(range(1, 21)) == (10.5, 6, 15, 20, True)


def test_slowdown_is_the_ratio_of_mean_steps() -> None:
    from intervals import slowdown

    found = slowdown([1.0] * 8, [[1.5] * 4, [1.0] * 4])
    assert found.value == pytest.approx(0.25)
    assert (found.low, found.high) == (pytest.approx(0.25), pytest.approx(0.25))
    noisy = slowdown([0.9, 1.1, 1.0, 1.0], [[1.0, 1.2, 1.1, 1.1]])
    assert noisy.value == pytest.approx(0.1)
    assert noisy.low < noisy.value < noisy.high
    assert slowdown([0.9, 1.1], [[1.0, 1.2]]) == slowdown([0.9, 1.1], [[1.0, 1.2]])


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    from report import put

    page = tmp_path / "page.md"
    page.write_text("# Mine\n")
    with pytest.raises(SystemExit, match="has no lines"):
        put("table", page)
    assert page.read_text() == "# Mine\n"


def test_plain_reads_and_writes_move_all_bytes(tmp_path: Path) -> None:
    import plain_io

    path = tmp_path / "plain.bin"
    size = plain_io.BLOCK + plain_io.PAGE
    assert plain_io.write(path, size) > 0
    assert path.stat().st_size == size
    assert plain_io.read(path, keep=True) > 0
    assert plain_io.read(path, keep=False) > 0
