"""What the help says is true: its examples are run, its commands are all there."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import milepost
from milepost.cli.main import main
from milepost.folder.retention import Keep

GROUPS = {
    "Look into runs and checkpoints": ["ls", "show", "cat", "stats", "diff", "verify"],
    "Keep and remove checkpoints": ["tag", "pin", "prune"],
    "Take checkpoints elsewhere": ["transfer", "export"],
    "Prove that a script resumes": ["audit"],
}
COMMANDS = [name for names in GROUPS.values() for name in names]


def help_of(*arguments: str) -> str:
    import contextlib
    import io

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert main([*arguments, "--help"]) == 0
    return shown.getvalue()


def examples() -> list[str]:
    return [
        line.strip()
        for command in COMMANDS
        for line in help_of(command).splitlines()
        if line.startswith("      milepost ")
    ]


def test_every_command_is_listed_in_a_group(cli: Any) -> None:
    shown = cli("--help").out
    for title, names in GROUPS.items():
        group = shown.partition(f"{title}:\n")[2].partition("\n\n")[0]
        assert re.findall(r"^  (\w+)  ", group, re.M) == names


def test_without_a_command_the_help_is_shown(cli: Any) -> None:
    done = cli()
    assert (done.code, done.out) == (2, "")
    assert done.err.strip() == cli("--help").out.strip()


def test_version(cli: Any) -> None:
    assert cli("--version") == (0, f"milepost {milepost.__version__}\n", "")


@pytest.mark.parametrize(
    "command", [*COMMANDS, "doctor", "slurm script", "slurm submit", "slurm status", "slurm stage", "slurm notebook"]
)
def test_each_help_has_examples_and_the_keys_of_its_json(cli: Any, command: str) -> None:
    shown = help_of(*command.split())
    assert shown.startswith(f"Usage: milepost {command} ")
    assert f"      milepost {command} " in shown
    assert "  JSON:\n" in shown
    assert "--json" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_the_guide_names_what_there_is() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text()
    calls = re.findall(r"^\$ milepost (\w+)(.*)", guide, re.MULTILINE)
    assert {command for command, _ in calls} == set(GROUPS["Look into runs and checkpoints"])
    every = "".join(map(help_of, GROUPS["Look into runs and checkpoints"]))
    for command, rest in calls:
        assert set(re.findall(r"--[a-z-]+", rest)) <= set(re.findall(r"--[a-z-]+", help_of(command)))
    assert set(re.findall(r"`(--[a-z-]+)", guide)) <= set(re.findall(r"--[a-z-]+", every))


TRAINING = """
import sys
import numpy as np
import milepost

with milepost.Checkpointer("runs/train", w=np.zeros(3), every=milepost.Every(steps=10), progress=False) as run:
    for _ in run.epochs(int(sys.argv[2]) if sys.argv[1:] else 25):
        for batch in run.batches(np.arange(15.0).reshape(5, 3)):
            run.step(w=run["w"] + batch, loss=batch.sum())
"""


NETS = """
def build():
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for layer in ("fc1", "fc2"):
                self.register_module(layer, torch.nn.LayerNorm(3))

    return Net()


def module():
    import tensorflow as tf

    net = tf.Module()
    net.bias = tf.Variable(tf.zeros(3))
    return net
"""


@pytest.fixture
def example_folder(start_job: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that the examples name."""
    job = start_job(tmp_path / "runs" / "mnist", keep=Keep(last=None, best="val_loss"))
    for step in range(200, 1601, 200):
        model = {f"fc{layer}.{part}": np.full(3, step / 7) for layer in (1, 2) for part in ("weight", "bias")}
        state = {"model": model, "optimizer": {"lr": 0.1}, "vars": {"patience": 3}}
        job.save(step, state, val_loss=1 / step, score=step / 2)
    job.end()
    tensors = {name: torch.from_numpy(array) for name, array in model.items()}
    for name in ("model.pt", "a.pt"):
        torch.save(tensors, tmp_path / name)
    torch.save({name: tensor + 1e-9 for name, tensor in tensors.items()}, tmp_path / "b.pt")
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "train.py").write_text(TRAINING)
    (tmp_path / "nets.py").write_text(NETS)
    np.savez(tmp_path / "bias.npz", bias=np.ones(3, np.float32))
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("example", examples())
def test_the_examples_work(cli: Any, example_folder: Path, example: str) -> None:
    command = re.split(r"   +| \| ", example)[0]
    cli("tag", "runs/mnist@step=400", "paper")
    if "--remove" in command:
        cli("pin", "runs/mnist@step=1200")
    if "prune" in command and "--dry-run" not in command:
        command += " --yes"  # nobody is there to be asked
    done = cli(*(sys.executable if word == "python" else word for word in shlex.split(command)[1:]))
    assert done.code == (1 if " diff runs" in command else 0)  # earlier and later checkpoints differ
    assert done.err.replace("it was at step 400 before\n", "") == ""
    assert done.out or "--npy" in command


def test_json_documents_have_the_keys_that_the_help_names(cli: Any, example_folder: Path) -> None:
    """Every key of a real document stands in the help."""
    calls = {
        "ls": ["runs/mnist"], "show": ["runs/mnist"], "cat": ["runs/mnist", "vars/patience"],
        "stats": ["runs/mnist"], "diff": ["runs/mnist@~1", "runs/mnist"], "verify": ["runs/mnist"],
        "tag": ["runs/mnist", "paper"], "pin": ["runs/mnist"], "prune": ["runs/mnist", "--dry-run"],
        "export": ["runs/mnist", "orbax/1", "--format", "orbax"],
        "transfer": ["model.pt", "--model", "nets:build"],
        "audit": ["--at", "7", "--", sys.executable, "train.py", "--epochs", "2"],
    }  # fmt: skip
    for command, arguments in calls.items():
        text = help_of(command).partition("  JSON:\n")[2]
        missing = {key for key in _keys(cli(command, "--json", *arguments).json) if not re.search(rf"\b{key}\b", text)}
        assert missing == set(), command


def _keys(value: Any) -> set[str]:
    """The keys of nested objects, but for those of maps from names, metrics and what wrote the checkpoint."""
    if isinstance(value, list):
        return set().union(*map(_keys, value))
    if not isinstance(value, dict):
        return set()
    own = {
        "files",
        "tensors",
        "values",
        "metrics",
        "written_by",
        "owner",
        "layers",
        "log2",
        "skipped",
        "loaded",
        "cast",
    }
    return set(value) | set().union(*(_keys(item) for key, item in value.items() if key not in own))
