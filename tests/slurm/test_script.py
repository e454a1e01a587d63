"""Job scripts: what stands in them, and what is refused."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slurm_play import asked

from milepost.errors import ScriptError, SlurmError
from milepost.slurm.script import Wanted, directive, time_limit, write
from milepost.slurm.site import Site, read_site, seconds
from milepost.slurm.submit import submit

Play = Callable[..., None]
SITE = Site("cgroup", True, {"batch": 86400.0, "any": None}, "batch")
TRAIN = ["python", "train.py"]


def directives(script: str) -> list[str]:
    return [line.partition("  #")[0].rstrip() for line in script.splitlines() if line.startswith("#SBATCH")]


def test_a_plain_script() -> None:
    script = write(Wanted([*TRAIN, "--run", "runs/mnist"]))
    assert directives(script) == [
        "#SBATCH --job-name=train",
        "#SBATCH --time=04:00:00",
        "#SBATCH --signal=USR1@120",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=%x-%j.out",
    ]
    assert script.splitlines()[-1] == "srun python train.py --run runs/mnist"
    assert script.startswith("#!/bin/bash\n")


@pytest.mark.parametrize(
    "wanted", [Wanted(TRAIN), Wanted(TRAIN, array="0-3", container=["apptainer", "exec", "a.sif"])]
)
def test_bash_can_read_it(wanted: Wanted, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text(write(wanted, SITE))
    subprocess.run(["bash", "-n", tmp_path / "job.sh"], check=True)


@pytest.mark.parametrize(
    "word", ["a b", "$HOME", "$(touch x)", "`id`", "it's", 'say "x"', "a;b", "*", "--lr=1e-3", "ü", "a\nb", "", "\\"]
)
@pytest.mark.parametrize("array", [None, "0-1"])
def test_words_arrive_as_they_were_given(word: str, array: str | None, tmp_path: Path) -> None:
    script = write(Wanted(["printf", "%s|", word, "end"], array=array))
    (tmp_path / "srun").write_text('#!/bin/bash\nexec "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{word}|end|"


def test_the_number_of_the_task_stays_a_variable() -> None:
    line = write(Wanted([*TRAIN, "runs/a b-$SLURM_ARRAY_TASK_ID/$HOME"], array="0-1")).splitlines()[-1]
    told = subprocess.run(
        ["bash", "-c", f"printf '%s|' {line}"],
        env={"SLURM_ARRAY_TASK_ID": "7 8", "HOME": "/h"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "srun|python|train.py|runs/a b-7 8/$HOME|"
    assert "'$SLURM_ARRAY_TASK_ID'" in write(Wanted([*TRAIN, "$SLURM_ARRAY_TASK_ID"]))


@pytest.mark.parametrize(
    ("word", "told"),
    [("$DATA_DIR/x", "a b/x"), ("--data=${DATA_DIR}s", "--data=a bs"), ("$DATA_DIRS", "$DATA_DIRS"), ("it's", "it's"),
     ("${SLURM_ARRAY_TASK_ID}${DATA_DIR}", "3a b"), ("${DATA_DIR", "${DATA_DIR"), ("$(id)$DATA_DIR", "$(id)a b")],
)  # fmt: skip
def test_the_data_stays_a_variable(word: str, told: str) -> None:
    line = write(Wanted(["x", word], data="d.tar", array="3")).splitlines()[-1]
    done = subprocess.run(
        ["bash", "-c", f"printf '%s|' {line}"], env={"DATA_DIR": "a b", "SLURM_ARRAY_TASK_ID": "3"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"srun|x|{told}|"


@pytest.mark.parametrize("bad", ["a\nb", "a\0b", "a\rb", "a\x1b[2J", "a\u2028b", "a\x85b", 'a"b', "a\\b"])
def test_values_that_would_leave_their_line_are_refused(bad: str) -> None:
    with pytest.raises(ScriptError, match="cannot stand in a job script"):
        write(Wanted(TRAIN, options={"comment": bad}))
    with pytest.raises(ScriptError):
        write(Wanted(TRAIN, array=bad))
    with pytest.raises(ScriptError):
        write(Wanted(TRAIN, time=bad))
    with pytest.raises(ScriptError):
        write(Wanted(TRAIN, signal=bad))


@pytest.mark.parametrize("name", ["", "a b", "x\n#SBATCH --uid", "-", "UPPER", "a=b"])
def test_names_that_are_no_options_are_refused(name: str) -> None:
    with pytest.raises(ScriptError, match="no option"):
        directive(name, "1")


@pytest.mark.parametrize(
    ("command", "name"),
    [(["python", "/x/my\ntrain it.py"], "my_train_it"), (["python", "-m", "lab.pretrain", "x"], "pretrain"),
     (["milepost", "slurm", "notebook", "a/b.ipynb"], "b"), (["./fit", "-m"], "fit")],
)  # fmt: skip
def test_the_name_of_the_job(command: list[str], name: str) -> None:
    assert directives(write(Wanted(command)))[0] == f"#SBATCH --job-name={name}"


def test_values_with_spaces_are_quoted() -> None:
    assert directive("comment", "two words") == '#SBATCH --comment="two words"'
    assert directive("comment", "a #b") == '#SBATCH --comment="a #b"'


def test_what_is_said_by_hand_wins() -> None:
    script = write(Wanted(TRAIN, options={"output": "logs/%j.txt", "partition": "gpu"}))
    found = directives(script)
    assert "#SBATCH --output=logs/%j.txt" in found
    assert "#SBATCH --partition=gpu" in found
    assert len([line for line in found if "--output" in line]) == 1


def test_an_option_without_a_value() -> None:
    assert "#SBATCH --exclusive" in directives(write(Wanted(TRAIN, options={"exclusive": None})))


@pytest.mark.parametrize("name", ["time", "--time", "signal", "array", "requeue", "no-requeue"])
def test_what_has_an_option_of_its_own(name: str) -> None:
    with pytest.raises(ScriptError, match="option of its own"):
        write(Wanted(TRAIN, options={name: "1"}))


@pytest.mark.parametrize("array", ["", "x", "0-", "1 2", "0-9%", "-1", "0--1", "1,,2"])
def test_an_array_that_is_none(array: str) -> None:
    with pytest.raises(ScriptError, match="no array"):
        write(Wanted(TRAIN, array=array))


@pytest.mark.parametrize("array", ["0", "0-9", "1,3,5-7", "0-99:10%4"])
def test_an_array(array: str) -> None:
    assert f"#SBATCH --array={array}" in directives(write(Wanted(TRAIN, array=array)))


@pytest.mark.parametrize("signal", ["", "FOO", "KILL", "B:USR1", "USR1@30", "SIG"])
def test_a_signal_that_is_none(signal: str) -> None:
    with pytest.raises(ScriptError, match="no signal"):
        write(Wanted(TRAIN, signal=signal))


@pytest.mark.parametrize(
    ("time", "warning", "sent"), [("4h", None, 120), ("2m", None, 30), ("1m", 59, 59), ("7d", 65535, 65535)]
)
def test_a_warning(time: str, warning: int | None, sent: int) -> None:
    script = write(Wanted(TRAIN, time=time, warning=warning, signal="SIGTERM"))
    assert f"#SBATCH --signal=TERM@{sent}" in directives(script)


@pytest.mark.parametrize(("time", "warning"), [("4h", 0), ("1m", 60), ("1h", 4000), ("7d", 65536)])
def test_a_warning_that_is_not_within_the_job(time: str, warning: int) -> None:
    with pytest.raises(ScriptError, match="not within"):
        write(Wanted(TRAIN, time=time, warning=warning))


def test_the_processors_of_the_job_are_those_of_the_training() -> None:
    script = write(Wanted(TRAIN, options={"cpus-per-task": "8"}))
    assert "\nexport SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK\n" in script


def test_module_lines_stand_as_they_are_and_are_not_run(tmp_path: Path) -> None:
    line = f"module load cuda/12 && touch {tmp_path}/ran"
    script = write(Wanted(TRAIN, modules=[line, "source venv/bin/activate"]))
    assert f"\n{line}\nsource venv/bin/activate\n" in script
    assert not (tmp_path / "ran").exists()


def test_where_requeueing_is_forbidden() -> None:
    assert "#SBATCH --no-requeue" in directives(write(Wanted(TRAIN, requeue=False)))
    assert "scontrol requeue" not in write(Wanted(TRAIN, requeue=False, container=["x"]))


@pytest.mark.parametrize(
    ("text", "slurm"),
    [("4h", "04:00:00"), ("1d12h", "1-12:00:00"), ("90m", "01:30:00"), ("90min", "01:30:00"), ("36h", "1-12:00:00"),
     ("30", "30"), ("1-0", "1-0"), ("02:30:00", "02:30:00")],
)  # fmt: skip
def test_times(text: str, slurm: str) -> None:
    assert time_limit(text) == slurm


@pytest.mark.parametrize("text", ["", "soon", "4h;rm", "-1", "1:2:3:4", "infinite", "0", "0h", "00:00:00"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ScriptError, match="no time limit"):
        time_limit(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("30", 1800), ("30:10", 1810), ("2:00:00", 7200), ("1-2", 93600), ("1-02:03", 93780), ("1-02:03:04", 93784),
     ("infinite", None), ("n/a", None)],
)  # fmt: skip
def test_times_of_slurm(text: str, value: float | None) -> None:
    assert seconds(text) == value


def test_a_limit_beyond_that_of_the_partition_is_refused() -> None:
    write(Wanted(TRAIN, time="24h"), SITE)
    with pytest.raises(ScriptError, match="does not allow jobs of that length"):
        write(Wanted(TRAIN, time="25h"), SITE)
    write(Wanted(TRAIN, time="25h", options={"partition": "any"}), SITE)
    write(Wanted(TRAIN, time="25h", options={"partition": "batch,any"}), SITE)
    with pytest.raises(ScriptError, match="no such partition"):
        write(Wanted(TRAIN, options={"partition": "batch,gpu"}), SITE)


def test_how_the_cluster_is_set_up(slurm: Play) -> None:
    slurm(
        scontrol="printf '%s\\n' 'JobRequeue              = 1' 'KillWait                = 30 sec' "
        "'ProctrackType           = proctrack/cgroup'",
        sinfo="printf '%s\\n' 'batch* 1-00:00:00' 'any infinite'",
    )
    assert read_site() == SITE


# -- what the lines behind a container do ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "state", "requeued"),
    [(75, "RUNNING", True), (75, "COMPLETING", False), (75, "", False), (76, "RUNNING", False), (0, "RUNNING", False)],
)
def test_the_script_requeues_for_a_container(
    slurm: Play, tmp_path: Path, code: int, state: str, requeued: bool
) -> None:
    slurm(srun=f"exit {code}", squeue=f"echo {state}", scontrol="")
    script = write(Wanted(TRAIN, container=["apptainer", "exec", "a.sif"], array="0-9"))
    environment = {
        "PATH": str(tmp_path / "commands"), "SLURM_JOB_ID": "40", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "7",
    }  # fmt: skip
    done = subprocess.run(["/bin/bash", "-c", script], env=environment, check=False)
    assert done.returncode == code
    assert ("scontrol requeue 40_7" in asked(tmp_path)) == requeued


# -- submitting ----------------------------------------------------------------------------------------------------------


def test_a_chain(slurm: Play, tmp_path: Path) -> None:
    slurm(sbatch=f'echo x >> {tmp_path}/count; read -d "" all < {tmp_path}/count; set -- $all; echo "$#;cluster"')
    assert submit("job.sh", chain=3) == ["1", "2", "3"]
    assert asked(tmp_path) == [
        "sbatch --parsable job.sh",
        "sbatch --parsable --dependency=afterany:1 job.sh",
        "sbatch --parsable --dependency=afterany:2 job.sh",
    ]


@pytest.mark.parametrize("chain", [0, -1, 51])
def test_a_chain_has_a_bound(slurm: Play, tmp_path: Path, chain: int) -> None:
    slurm(sbatch="echo 1")
    with pytest.raises(ScriptError, match="at least one job"):
        submit("job.sh", chain=chain)
    assert asked(tmp_path) == []


def test_a_job_that_is_refused(slurm: Play) -> None:
    slurm(sbatch="echo 'Batch job submission failed: Invalid account' >&2; exit 1")
    with pytest.raises(SlurmError, match="Invalid account"):
        submit("job.sh")


# -- the command line --------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    from milepost.cli.main import main

    code = main(list(arguments))
    return code, *capsys.readouterr()


def test_script_on_the_command_line(slurm: Play, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--sbatch", "gpus=1", "--container", "apptainer exec 'my image.sif'", "--module", "module load x", "--"]
    code, out, err = run(capsys, "slurm", "script", *words, "python", "train.py", "--help")
    assert code == 0
    assert "#SBATCH --gpus=1" in out
    assert "\nmodule load x\n" in out
    assert f"srun {shlex.join(['apptainer', 'exec', 'my image.sif', 'python', 'train.py', '--help'])}\n" in out
    assert "cannot be asked" in err


def test_an_array_whose_command_does_not_name_its_task(slurm: Play, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["slurm", "script", "--array", "0-2", "--", "python", "train.py"]
    assert "does not name its task" in run(capsys, *words, "runs/x")[2]
    assert "does not name its task" not in run(capsys, *words, "runs/${SLURM_ARRAY_TASK_ID}")[2]


def test_mistakes_on_the_command_line(slurm: Play, capsys: pytest.CaptureFixture[str]) -> None:
    for mistake in (
        ["--sbatch", "=1"],
        ["--sbatch", "comment=a\nb"],
        ["--container", "run 'a"],
        ["--sbatch", "time=5"],
    ):
        code, out, err = run(capsys, "slurm", "script", *mistake, "--", "python")
        assert (code, out) == (2, "")
        assert "defect" not in err
    code, out, err = run(capsys, "slurm", "submit", "job.sh")
    assert (code, out) == (10, "")
    assert "sbatch is not here" in err


def test_submit_on_the_command_line(slurm: Play, capsys: pytest.CaptureFixture[str]) -> None:
    slurm(sbatch="echo 7")
    assert run(capsys, "slurm", "submit", "job.sh") == (0, "submitted 7\n", "")
    assert run(capsys, "slurm", "submit", "job.sh", "--chain", "2", "--json")[1].split() == ['{', '"jobs":', '[', '"7",', '"7"', ']', '}']  # fmt: skip  # noqa: E501
