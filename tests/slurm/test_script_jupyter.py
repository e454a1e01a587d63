"""Job scripts for JupyterLab and for notebooks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from milepost.cli.main import main
from milepost.errors import ScriptError
from milepost.slurm.job import UNATTENDED, interactive
from milepost.slurm.script import Wanted, write


def played(script: str, tmp_path: Path) -> tuple[list[str], list[str]]:
    """What the script tells, and the words that srun is given; the token's place is taken by TOKEN."""
    commands = {
        "srun": f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/words; echo "$JUPYTER_TOKEN" > {tmp_path}/token\n',
        "hostname": "#!/bin/bash\necho node7\n",
        "id": "#!/bin/bash\necho me\n",
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_SUBMIT_HOST": "login1"}
    with (tmp_path / "out").open("w") as out:
        subprocess.run(["bash", "-c", script], env=environment, stdout=out, check=True)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
    token = (tmp_path / "token").read_text().strip()
    assert len(token) == 48
    words = (tmp_path / "words").read_text().splitlines()
    assert not any(token in word for word in words), "all users of the node can read a command line"
    return (tmp_path / "out").read_text().replace(token, "TOKEN").splitlines(), words


def test_jupyterlab_says_how_to_get_there_by_ssh(tmp_path: Path) -> None:
    told, words = played(write(Wanted([], jupyterlab=True)), tmp_path)
    port = next(word.partition("=")[2] for word in words if word.startswith("--ServerApp.port="))
    assert int(port) > 1023
    assert told == [
        "JupyterLab: on your own machine run",
        f"    ssh -N -L {port}:127.0.0.1:{port} -J me@login1 me@node7",
        f"and open http://127.0.0.1:{port}/lab?token=TOKEN",
    ]
    assert words[:3] == ["jupyter", "lab", "--ServerApp.ip=127.0.0.1"]


def test_jupyterlab_behind_a_proxy_in_a_container(tmp_path: Path) -> None:
    wanted = Wanted(
        [], jupyterlab=True, proxy="https://ood.site.edu/node/{host}/{port}", container=["apptainer", "exec", "a b.sif"]
    )
    told, words = played(write(wanted), tmp_path)
    port = next(word.partition("=")[2] for word in words if word.startswith("--ServerApp.port="))
    assert told == [f"JupyterLab: https://ood.site.edu/node/node7/{port}/lab?token=TOKEN"]
    assert words[:6] == ["apptainer", "exec", "a b.sif", "jupyter", "lab", "--ServerApp.ip=0.0.0.0"]
    assert f"--ServerApp.base_url=/node/node7/{port}/" in words


def test_a_job_of_jupyterlab_does_not_come_back(tmp_path: Path) -> None:
    script = write(Wanted([], jupyterlab=True, modules=["module load cuda"], options={"gpus": "1"}))
    assert "#SBATCH --no-requeue" in script
    assert "#SBATCH --requeue" not in script
    assert "--signal" not in script
    assert "\nmodule load cuda\n" in script
    assert "#SBATCH --gpus=1" in script


NO_PROXIES = [
    "", "ood.site.edu/{port}", "https://x/{host}", "https://x/$(id)/{port}", 'https://x/"/{port}', "ftp://x/{port}",
    "https://x/{port}\n#SBATCH --uid=0", "https://x/`id`/{port}", "https://x/{port}/{user}",
]  # fmt: skip


@pytest.mark.parametrize("proxy", NO_PROXIES)
def test_a_proxy_that_is_none(proxy: str) -> None:
    with pytest.raises(ScriptError, match="--proxy"):
        write(Wanted([], jupyterlab=True, proxy=proxy))


def test_one_thing_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    for wanted in (
        Wanted([]), Wanted(["python"], jupyterlab=True), Wanted([], jupyterlab=True, array="0-1"),
        Wanted(["python"], proxy="https://x/{port}"),
    ):  # fmt: skip
        with pytest.raises(ScriptError):
            write(wanted)
    assert main(["slurm", "script", "--notebook", "a.ipynb", "--", "python"]) == 2
    assert main(["slurm", "script", "--notebook", "a b.ipynb", "--time", "1h"]) == 0
    assert capsys.readouterr().out.endswith("\nsrun milepost slurm notebook 'a b.ipynb'\n")


def test_a_notebook_without_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ipykernel", object())
    assert interactive()
    monkeypatch.setenv(UNATTENDED, "1")
    assert not interactive()


def notebook(path: Path, *cells: str, kernel: str = "python3") -> Path:
    document = {
        "nbformat": 4, "nbformat_minor": 4,
        "metadata": {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        "cells": [
            {"cell_type": "code", "metadata": {}, "source": cell, "outputs": [], "execution_count": None} for cell in cells
        ],
    }  # fmt: skip
    path.write_text(json.dumps(document))
    return path


def test_a_cell_that_fails_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = notebook(tmp_path / "a.ipynb", "print('before')", "1 / 0", "print('never')")
    assert main(["slurm", "notebook", str(path), "--json"]) == 1
    out, err = capfd.readouterr()
    assert json.loads(out)["problem"] == "ZeroDivisionError: division by zero"
    assert "failed: ZeroDivisionError: division by zero; " in err
    outputs = (tmp_path / "a.out.ipynb").read_text()
    assert "before" in outputs
    assert "never\n" not in outputs


def test_what_is_no_notebook_and_a_kernel_that_is_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.ipynb").write_text("not json")
    for path, told in (
        (tmp_path / "text.ipynb", "that is no notebook"),
        (tmp_path / "none.ipynb", "there is no such notebook"),
        (notebook(tmp_path / "kernel.ipynb", "1", kernel="none-such"), "the kernel of the notebook is not here"),
    ):
        assert main(["slurm", "notebook", str(path)]) != 0
        err = capfd.readouterr().err
        assert told in err
        assert "defect" not in err
