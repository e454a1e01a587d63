"""The launcher's children are what a new interpreter would be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from launcher import TIMED_OUT, Launcher

Play = Callable[..., tuple[int, str]]
BOTH = pytest.mark.parametrize("fresh", [False, True], ids=["fork", "fresh"])


@pytest.fixture(name="play")
def _play(launcher: Launcher, tmp_path: Path) -> Play:
    """Run a script and return its exit code and what it wrote."""
    count = iter(range(100))

    def play(
        text: str, *arguments: str, env: dict[str, str] | None = None, seconds: float = 60, **options: Any
    ) -> tuple[int, str]:
        number = next(count)
        script, output = tmp_path / f"script{number}.py", tmp_path / f"output{number}.txt"
        script.write_text(text)
        command = [sys.executable, script.name, *arguments]
        full = dict(os.environ) if env is None else env
        code = launcher.launch(command, full, tmp_path, output, seconds, **options)
        return code, output.read_text()

    return play


@BOTH
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("pass", 0),
        ("raise SystemExit", 0),
        ("raise SystemExit(0)", 0),
        ("raise SystemExit(75)", 75),
        ("raise SystemExit(256 + 3)", 3),
        ("raise SystemExit('so it is')", 1),
        ("raise ValueError('so it is')", 1),
        ("import sys; sys.exit(-1)", 255),
        ("import os; os._exit(9)", 9),
        ("this is no Python", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_exit_codes(play: Play, text: str, code: int, fresh: bool) -> None:
    assert play(text, fresh=fresh)[0] == code


SEES = """
import os, sys, __main__
import helper_of_the_script
def function(): pass
print(sys.argv, sys.orig_argv[1:], sys.path, os.getcwd(), __name__, __file__, __spec__, __package__, __doc__)
print(__main__.function is function, function.__module__, sys.stdin.read(), sys.stdout.isatty(), sys.flags)
print(sorted(os.environ.items()), os.getsid(0) == os.getpid(), sys.exc_info(), sorted(globals()))
print([number for number in range(3, 50) if os.path.exists(f'/proc/self/fd/{number}')])
import signal
print([(number, signal.getsignal(number)) for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE)])
"""


def test_what_a_script_sees_is_what_it_sees_in_a_new_interpreter(play: Play, tmp_path: Path) -> None:
    (tmp_path / "helper_of_the_script.py").write_text("")
    env = {**os.environ, "OF_THE_REQUEST": "1", "PYTHONHASHSEED": "0"}
    del env["HOME"]
    (code, forked), (other, fresh) = (play(SEES, "one", "--two", env=env, fresh=fresh) for fresh in (False, True))
    assert code == other == 0
    assert forked.replace("script0", "script1") == fresh


@pytest.mark.parametrize("text", ["def f():\n    1 / 0\nf()", "x = (", "import no_such_module"])
def test_what_it_says_of_an_exception(play: Play, text: str) -> None:
    (code, forked), (other, fresh) = (play(text, fresh=fresh) for fresh in (False, True))
    assert code == other == 1
    assert forked.replace("script0", "script1") == fresh
    assert "Error" in forked


ENDS = """
import atexit, sys, threading, time
def late():
    time.sleep(0.1)
    print("thread")
atexit.register(print, "exit handler")
threading.Thread(target=late).start()
print("out", flush=True)
print("err", file=sys.stderr)
"""


@BOTH
def test_output_is_appended_and_what_runs_at_the_end_runs(play: Play, tmp_path: Path, fresh: bool) -> None:
    (tmp_path / "output0.txt").write_text("before\n")
    assert play(ENDS, fresh=fresh) == (0, "before\nout\nerr\nthread\nexit handler\n")


@BOTH
def test_time_is_limited_for_children_too(play: Play, tmp_path: Path, fresh: bool) -> None:
    text = (
        "import subprocess, time, pathlib\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "pathlib.Path('pid').write_text(str(child.pid))\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    for seconds in (1, 4, 16, 64):  # until it is enough for the script to get so far
        code, output = play(text, seconds=seconds, fresh=fresh)
        assert code == TIMED_OUT
        if output:
            break
    assert output == "started\n"
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while _lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_leaves_nothing_behind_for_the_next(play: Play, tmp_path: Path) -> None:
    (tmp_path / "helper_of_the_script.py").write_text("value = 1")
    first = (
        "import os, sys, random, torch, helper_of_the_script as helper\n"
        "helper.value = 2\n"
        "random.seed(0); torch.manual_seed(0)\n"
        "os.environ['LEFT'] = '1'; os.chdir('/'); sys.path.insert(0, '/nowhere')\n"
        "torch.set_num_threads(1); torch.nn.Linear.left = 1; print(helper.value)\n"
    )
    then = (
        "import os, sys, torch\n"
        "assert 'helper_of_the_script' not in sys.modules and not hasattr(torch.nn.Linear, 'left')\n"
        "assert 'LEFT' not in os.environ and os.getcwd() != '/' and '/nowhere' not in sys.path\n"
        "import helper_of_the_script; print(helper_of_the_script.value)\n"
    )
    assert play(first) == (0, "2\n")
    assert play(then) == (0, "1\n")


def test_a_changed_file_is_read_anew(play: Play, tmp_path: Path) -> None:
    for value in (1, 22):
        (tmp_path / "helper_of_the_script.py").write_text(f"value = {value}")
        assert play("import helper_of_the_script; print(helper_of_the_script.value)") == (0, f"{value}\n")


DRAWS = """
import random, numpy, torch
print(random.random()); print(numpy.random.rand()); print(torch.rand(1).item())
print(torch.initial_seed()); print(numpy.random.default_rng().random())
"""


def test_no_generator_is_seeded(play: Play) -> None:
    (_, first), (_, second) = play(DRAWS), play(DRAWS)
    assert len(first.split()) == len(second.split()) == 5
    assert not set(first.split()) & set(second.split())


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_another_hash_seed_is_heeded(play: Play, seed: str) -> None:
    script = "print(hash('gallery'))"
    env = {**os.environ, "PYTHONHASHSEED": seed}
    expected = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert play(script, env=env) == (0, expected.stdout)


def test_fresh_interpreters_differ_in_their_hashes(play: Play) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    (_, first), (_, second) = (play("print(hash('gallery'))", env=env, fresh=True) for _ in range(2))
    assert first != second


def test_forks_have_torch_and_fresh_ones_do_not(play: Play) -> None:
    script = "import sys; print('torch' in sys.modules)"
    assert play(script) == (0, "True\n")
    assert play(script, fresh=True) == (0, "False\n")
    imported_tensorflow = {**os.environ, "KMP_INIT_AT_FORK": "FALSE", "KMP_DUPLICATE_LIB_OK": "True"}
    assert play(script, env=imported_tensorflow) == (0, "True\n")


@BOTH
def test_a_start_up_module_on_the_path_runs_first(play: Play, tmp_path: Path, fresh: bool) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start/sitecustomize.py").write_text("import sys\nprint('first', sys.argv[1:])\nsys.injected = 1\n")
    path = os.pathsep.join([str(tmp_path / "start"), os.environ.get("PYTHONPATH", "")])
    code, output = play("import sys; print(sys.injected)", "x", env={**os.environ, "PYTHONPATH": path}, fresh=fresh)
    assert (code, output) == (0, "first ['x']\n1\n")


def test_other_commands_are_run_as_they_are(launcher: Launcher, tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    for command, code in ([sys.executable, "-c", "raise SystemExit(4)"], 4), (["sh", "-c", "echo $0; exit 5"], 5):
        assert launcher.launch(command, dict(os.environ), tmp_path, output, 60) == code
    assert output.read_text() == "sh\n"


def test_loaders_with_workers(play: Play) -> None:
    text = (
        "import torch\n"
        "from torch.utils.data import DataLoader\n"
        "torch.randn(200, 200) @ torch.randn(200, 200)\n"
        "print(sum(batch.sum().item() for batch in DataLoader(range(12), batch_size=4, num_workers=1)))\n"
    )
    assert play(text) == (0, "66\n")


def test_several_at_once(play: Play) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda number: play(f"print({number}); raise SystemExit({number})"), range(12)))
    assert found == [(number, f"{number}\n") for number in range(12)]


def test_what_still_runs_when_it_is_closed_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, time; pathlib.Path('new').write_text(str(os.getpid()))\n"
        "os.rename('new', 'pid'); time.sleep(600)"
    )
    driver = tmp_path / "driver.py"
    driver.write_text(
        f"import os, sys, pathlib\nsys.path.append({str(Path(__file__).parent)!r})\n"
        "from launcher import Launcher\nhere = pathlib.Path('.')\n"
        "Launcher().launch([sys.executable, 'script.py'], dict(os.environ), here, here / 'output.txt', 600)\n"
    )
    with subprocess.Popen([sys.executable, driver.name], cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    pid = int((tmp_path / "pid").read_text())
    while _lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
