"""Runs of a study as jobs: real processes and a real Slurm, whose `topoflow run` is a stand-in of a few lines."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import submitit
import yaml
from click.testing import CliRunner
from slurm_node import MISSING, one_node
from support import REPOSITORY, path_with, put, refused, small_params

from topoflow.cli import main
from topoflow.config import load_params
from topoflow.errors import CommandFailed
from topoflow.storage.layout import Run
from topoflow.study import executor
from topoflow.study import run as runs
from topoflow.study.executor import Cell, chosen_runs, compute, slots

needs_slurm = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

# Stands for `topoflow run` in jobs: it says what it was given, and waits for a file `go`, or one with its run's name.
# Each call is a line in `calls`. What it has done it finds again, as a training its last saved step.
STAND_IN = """
import json, os, sys, time
from pathlib import Path
from topoflow.storage.files import locked

option = dict(zip(sys.argv[2::2], sys.argv[3::2]))
name = f"{option['--model']}-{option['--objective']}-{option['--seed']}"

def note(what):
    with open("calls", "a") as calls:
        calls.write(json.dumps([what, name, time.monotonic(), os.environ.get("CUDA_VISIBLE_DEVICES"),
                                os.environ.get("MLFLOW_RUN_CONTEXT"), "--aside" in sys.argv, os.getpid()]) + "\\n")

with locked(name, f"the run {name}"):
    note("begin")
    step = Path(f"{name}.step")
    start = int(step.read_text()) if step.exists() else 0
    print(f"step {start} of 4: loss 1", flush=True)
    step.write_text("2")
    while not Path("go").exists() and not Path(name).exists():
        time.sleep(0.05)
    if Path(f"{name}.fails").exists():
        print("Error: max_length must be longer\\nERROR: failed to reproduce", flush=True)
        sys.exit(3)
    print(f"step 4 of 4: from {start}", flush=True)
    note("end")
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study's folder, the current one, in which `python -m topoflow` is the stand-in."""
    folder = tmp_path / "study"
    (folder / "topoflow").mkdir(parents=True)
    home = REPOSITORY / "topoflow"
    (folder / "topoflow" / "__init__.py").write_text(
        f"exec(open({str(home / '__init__.py')!r}).read())\n__path__.append({str(home)!r})\n"
    )
    (folder / "topoflow" / "__main__.py").write_text(textwrap.dedent(STAND_IN))
    params = {**small_params(), "seeds": [0, 1]}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", path_with())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


def cells(*names: str, aside: bool = False) -> list[Cell]:
    return [Cell(Run("tiny", name, 0), os.getcwd(), aside, parent="1234") for name in names]


def calls(what: str) -> list[tuple]:
    """What the stand-ins noted: the run, when, its GPU, its tags, whether it was put aside, and its process."""
    lines = Path("calls").read_text().splitlines() if Path("calls").exists() else []
    return [tuple(line[1:]) for line in map(json.loads, lines) if line[0] == what]


def steps(name: str) -> list[str]:
    """What the stand-ins of a run wrote to its log, without how they were interrupted."""
    lines = executor.log_file(Run("tiny", name, 0)).read_text().splitlines()
    return [line for line in lines if line.startswith("step ")]


def when(condition, then) -> threading.Thread:
    """Do something, in a thread, as soon as a condition holds."""

    def wait():
        deadline = time.monotonic() + 120
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


# --- which runs, and where ----------------------------------------------------------------------


def test_runs_are_chosen_by_name_or_pattern_in_the_order_of_the_study(study):
    params = load_params()
    assert chosen_runs(params) == params.runs()
    named = chosen_runs(params, ["tiny-mixed-1", "*-helpful-*"])
    assert [str(run) for run in named] == ["tiny-helpful-0", "tiny-helpful-1", "tiny-mixed-1"]
    with refused(name="only", got="tiny-helpful-2"):
        chosen_runs(params, ["tiny-mixed-1", "tiny-helpful-2"])


@pytest.mark.parametrize(
    ("gpus", "workers", "visible", "expected"),
    [
        ("0-7", None, None, list("01234567")),
        ("2,GPU-8f3,4-5", None, None, ["2", "GPU-8f3", "4", "5"]),
        ("0-1", 3, None, ["0", "1", "0"]),
        ("0-7", 2, None, ["0", "1"]),
        (None, None, "3,1", ["3", "1"]),
        (None, None, "", [None]),
        (None, 2, "", [None, None]),
        (None, None, None, [None]),  # this machine has no GPU
    ],
)
def test_each_job_has_a_gpu_where_there_are_some(monkeypatch, gpus, workers, visible, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots(gpus, workers) == expected


@pytest.mark.parametrize("gpus", ["", "0,0", "0-2,1", "3-1", "0,,1"])
def test_gpus_that_are_none_or_the_same_are_refused(gpus):
    with refused(name="gpus", got=gpus):
        slots(gpus)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"executor": "lsf"}, "executor"),
        ({"slurm": {"time": 10}}, "slurm"),
        ({"executor": "slurm", "gpus": "0"}, "gpus"),
        ({"executor": "slurm", "slurm": {"tine": 10}}, "slurm"),
        ({"only": ["tiny-honest-0"]}, "only"),
    ],
)
def test_what_is_refused_begins_nothing_and_leaves_no_mlflow_run(
    study, arguments, name, monkeypatch, fresh_store
):
    import mlflow

    monkeypatch.setattr(executor.shutil, "which", lambda _: "/usr/bin/sbatch")
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda _: 2))
    with refused(name=name):
        executor.study(**arguments)
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []
    assert calls("begin") == []


def write(key: str, value: Any) -> None:
    params = put(yaml.safe_load(Path("params.yaml").read_text()), key, value)
    Path("params.yaml").write_text(yaml.safe_dump(params))


def test_a_study_whose_training_arguments_are_in_a_file_is_refused_since_its_runs_have_other_ones(study):
    write("finetune.sft_config", "sft.yaml")
    Path("sft.yaml").write_text("weight_decay: 0.1\n")
    with refused(name="finetune.sft_config", got="sft.yaml"):
        executor.study()


@pytest.mark.parametrize("gpus", [None, "0-3"])
def test_a_study_whose_runs_are_all_to_use_one_gpu_is_refused_before_anything_is_begun(
    study, gpus, fresh_store
):
    import mlflow

    write("compute.gpu", 1)
    with refused(name="compute.gpu", expected="left out of a study", got=1):
        executor.study(gpus=gpus)
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []
    assert calls("begin") == []


# --- on this machine ----------------------------------------------------------------------------


def test_jobs_share_two_gpus_and_one_that_fails_stops_no_other(study, capfd):
    for name in ("helpful", "go"):
        (study / name).touch()
    (study / "tiny-harmless-0.fails").touch()
    failed = compute(cells("helpful", "harmless", "mixed", "benign"), executor.local("4,5"))
    assert failed == [Run("tiny", "harmless", 0)]
    began, ended = calls("begin"), calls("end")
    assert {name for name, *_ in began} - {name for name, *_ in ended} == {"tiny-harmless-0"}
    assert {gpu for _, _, gpu, *_ in began} == {"4", "5"}
    assert all(json.loads(tags) == {"mlflow.parentRunId": "1234"} for *_, tags, _, _ in began)
    assert not any(aside for *_, aside, _ in began)
    said = capfd.readouterr().err
    assert "tiny-helpful-0: waiting\n" in said
    assert "tiny-helpful-0: done\n" in said
    assert "tiny-harmless-0: failed, Error: max_length must be longer\n" in said


def test_no_more_jobs_run_at_a_time_than_there_are_workers(study, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    thread = when(lambda: len(calls("begin")) == 2, lambda: (time.sleep(2), Path("go").touch()))
    assert compute(cells("helpful", "harmless", "mixed"), executor.local(workers=2)) == []
    thread.join()
    events = sorted([(at, 1) for _, at, *_ in calls("begin")] + [(at, -1) for _, at, *_ in calls("end")])
    running = [sum(change for _, change in events[: n + 1]) for n in range(len(events))]
    assert max(running) == 2


def test_a_job_that_is_killed_has_failed_and_its_log_says_how_far_it_was(study, capfd):
    def kill():
        (pid,) = {pid for name, *_, pid in calls("begin") if name == "tiny-helpful-0"}
        job = psutil.Process(pid).parent()
        job.kill()
        psutil.Process(pid).kill()
        Path("go").touch()

    thread = when(lambda: len(calls("begin")) == 2, kill)
    assert compute(cells("helpful", "mixed"), executor.local("0,1")) == [Run("tiny", "helpful", 0)]
    thread.join()
    assert (
        "tiny-helpful-0: failed, ended without a result, after: step 0 of 4: loss 1" in capfd.readouterr().err
    )


def test_a_job_that_must_yield_goes_on_where_it_was(study):
    """By the signal that Slurm sends before it takes a node away; here submitit's local executor begins it again."""

    def preempt():
        pid = calls("begin")[0][-1]
        psutil.Process(pid).parent().send_signal(signal.SIGUSR2)

    def goes_on():
        return len(calls("begin")) == 2

    threads = [when(lambda: calls("begin"), preempt), when(goes_on, Path("go").touch)]
    assert compute(cells("helpful"), executor.local("0")) == []
    for thread in threads:
        thread.join()
    assert steps("helpful") == ["step 0 of 4: loss 1", "step 2 of 4: loss 1", "step 4 of 4: from 2"]


def test_ctrl_c_ends_the_jobs_and_waits_for_them(study, capfd):
    thread = when(lambda: len(calls("begin")) == 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        compute(cells("helpful", "harmless", "mixed"), executor.local("0,1"))
    thread.join()
    there = [psutil.Process(pid) for *_, pid in calls("begin") if psutil.pid_exists(pid)]
    assert psutil.wait_procs(there, timeout=10)[1] == []  # on their way out
    assert len(calls("begin")) == 2
    assert "Traceback" not in capfd.readouterr().err


def test_submitits_debug_executor_runs_a_job_in_this_process(study):
    (study / "go").touch()
    (cell,) = cells("helpful")
    assert submitit.DebugExecutor(folder=study / "jobs").submit(cell).result() == 0
    assert calls("end")[0][0] == "tiny-helpful-0"


def test_a_table_says_where_each_run_is():
    from rich.console import Console

    found = {
        Run("tiny", "helpful", 0): executor.Standing("running", "step 2 of 4: [bold]", time.monotonic() - 80),
        Run("tiny", "mixed", 0): executor.Standing("failed", "Error: no"),
    }
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(executor._table(found))
    text = console.export_text()
    assert "1 running, 1 failed" in text
    row = next(line for line in text.splitlines() if "tiny-helpful-0" in line)
    assert all(word in row for word in ("running", "1.3 min", "step 2 of 4: [bold]"))


# --- on a cluster -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slurm():
    with one_node() as given:
        yield given


@pytest.fixture
def cluster(slurm, study, monkeypatch):
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    return executor.cluster(
        options={"gpus_per_node": None, "time": 60, "cpus_per_task": 1, "signal_delay_s": 5}
    )


def job_of(name: str) -> str:
    """The id of the job of a run, by its place in the array."""
    listed = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i"], capture_output=True, text=True
    )
    ids = sorted(listed.stdout.split(), key=lambda job: int(job.partition("_")[2] or 0))
    return ids[["helpful", "harmless", "mixed"].index(name)]


@needs_slurm
@pytest.mark.slow
def test_on_slurm_jobs_are_requeued_preempted_and_killed_and_the_others_end_well(cluster, capfd):
    """One array: `helpful` is put back by the administrator, `harmless` must yield, the job of `mixed` is killed."""

    def disturb():
        subprocess.run(["scontrol", "requeue", job_of("helpful")], check=True)
        for signalled in ("TERM", "USR2"):  # as Slurm does where a partition has a GraceTime
            subprocess.run(["scancel", f"--signal={signalled}", job_of("harmless")], check=True)
            time.sleep(1)
        subprocess.run(["scancel", "--signal=KILL", job_of("mixed")], check=True)

    def again():
        return {name for name, *_ in calls("begin") if sum(one == name for one, *_ in calls("begin")) == 2}

    threads = [
        when(lambda: len(calls("begin")) == 3, disturb),
        when(lambda: again() == {"tiny-helpful-0", "tiny-harmless-0"}, Path("go").touch),
    ]
    failed = compute(cells("helpful", "harmless", "mixed", aside=True), cluster)
    for thread in threads:
        thread.join()
    assert failed == [Run("tiny", "mixed", 0)]
    for name in ("helpful", "harmless"):
        assert steps(name) == ["step 0 of 4: loss 1", "step 2 of 4: loss 1", "step 4 of 4: from 2"]
    assert all(aside for *_, aside, _ in calls("begin"))
    assert "tiny-mixed-0: failed, ended without a result, after: step 0 of 4" in capfd.readouterr().err


@needs_slurm
@pytest.mark.slow
def test_ctrl_c_cancels_the_array(cluster):
    thread = when(lambda: len(calls("begin")) == 2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        compute(cells("helpful", "harmless", aside=True), cluster)
    thread.join()
    deadline = time.monotonic() + 60
    while (
        left := subprocess.run(["squeue", "--noheader"], capture_output=True).stdout
    ) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == b""


@needs_slurm
@pytest.mark.slow
def test_workers_are_how_many_jobs_of_the_array_run_at_a_time(cluster, slurm):
    place = executor.cluster(1, {"gpus_per_node": None, "cpus_per_task": 1})
    thread = when(lambda: len(calls("begin")) == 1, lambda: (time.sleep(2), Path("go").touch()))
    assert compute(cells("helpful", "harmless", aside=True), place) == []
    thread.join()
    (first, second), ends = calls("begin"), calls("end")
    assert second[1] > ends[0][1] > first[1]


def test_a_cluster_that_does_not_answer_ends_no_job(monkeypatch, tmp_path):
    (tmp_path / "squeue").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    job = submitit.SlurmJob(tmp_path, "12_0")
    assert executor._squeue([job]) == {"12_0": ("UNKNOWN", "squeue does not answer")}


# --- the whole study ----------------------------------------------------------------------------


@pytest.fixture
def planned(study, monkeypatch, fresh_store):
    """A study whose DVC is a stand-in: what `undone` says, and what was asked for."""
    asked = []
    monkeypatch.setattr(runs, "make_inputs", lambda _, of: asked.append(("inputs", len(of))))
    monkeypatch.setattr(runs, "undone", lambda of: [run for run in of if not Path(f"{run}.done").exists()])
    monkeypatch.setattr(runs, "finish", lambda *_: asked.append(("finish", os.environ["MLFLOW_RUN_CONTEXT"])))

    def done(left, place):
        asked.append(("compute", [str(cell.run) for cell in left]))
        failing = [cell.run for cell in left if Path(f"{cell.run}.fails").exists()]
        for cell in left:
            if cell.run not in failing:
                Path(f"{cell.run}.done").touch()
        return failing

    monkeypatch.setattr(executor, "compute", done)
    return asked


def test_a_rerun_computes_what_failed_alone_and_only_then_all_is_compared(planned):
    import mlflow

    Path("tiny-mixed-1.fails").touch()
    with refused(CommandFailed, command="topoflow run (tiny-mixed-1)") as caught:
        executor.study()
    assert ".topoflow/cells/tiny-mixed-1.log" in caught.value.remedy
    assert [what for what, _ in planned] == ["inputs", "compute"]
    Path("tiny-mixed-1.fails").unlink()
    planned.clear()
    assert executor.study() == []
    (parent, _) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    context = json.dumps({"mlflow.parentRunId": parent.info.run_id})
    assert planned == [("inputs", 6), ("compute", ["tiny-mixed-1"]), ("finish", context)]
    statuses = [
        run.info.status for run in mlflow.search_runs(search_all_experiments=True, output_format="list")
    ]
    assert statuses == ["FINISHED", "FAILED"]
    assert "MLFLOW_RUN_CONTEXT" not in os.environ


def test_runs_that_were_left_out_are_named_and_the_comparison_waits_for_them(planned):
    result = CliRunner().invoke(main, ["study", "--only", "*-helpful-* *-mixed-*", "--workers", "2"])
    assert result.exit_code == 0, result.output
    assert "Left out, and not done: tiny-harmless-0, tiny-harmless-1." in result.output
    assert [what for what, _ in planned] == ["inputs", "compute"]


def test_a_list_of_what_is_left_is_commands_that_can_be_typed_anywhere(planned):
    Path("tiny-helpful-0.done").touch()
    result = CliRunner().invoke(main, ["study", "--list", "--only", "*-helpful-*"])
    assert result.output == "topoflow run --model tiny --objective helpful --seed 1 --aside\n"
    main.commands["run"].make_context("run", result.output.split()[2:])


def test_dask_runs_the_commands_of_the_list_as_the_page_on_clusters_says(study, monkeypatch):
    from distributed import LocalCluster

    page = (REPOSITORY / "docs/how-to/clusters.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "--list" in block]
    listed = "topoflow run --model tiny --objective helpful --seed {} --aside"
    command = f'#!/bin/sh\nif [ "$2" = --list ]; then printf "{listed.format(0)}\n{listed.format(1)}\n"'
    (study / "bin").mkdir()
    (study / "bin" / "topoflow").write_text(f'{command}; else exec {sys.executable} -m topoflow "$@"; fi\n')
    (study / "bin" / "topoflow").chmod(0o755)
    monkeypatch.setenv("PATH", str(study / "bin"), prepend=os.pathsep)
    Path("go").touch()
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        exec(code.replace("tcp://scheduler:8786", cluster.scheduler_address), {})
    assert sorted(name for name, *_ in calls("end")) == ["tiny-helpful-0", "tiny-helpful-1"]
    assert all(aside for *_, aside, _ in calls("end"))


def test_the_papers_36_runs_are_one_array_and_none_is_left_out(planned, monkeypatch):
    """The preset of the paper with its four models, as small as can be."""
    preset = yaml.safe_load((REPOSITORY / "topoflow/presets/hh_rlhf_7b.yaml").read_text())
    small, names = small_params(), ["pythia", "qwen", "llama", "mistral"]
    preset["models"] = names
    preset["model"] = {name: {"source": "embedded", "name": "mini"} for name in names}
    preset |= {key: small[key] for key in ("finetune", "recording", "topology", "prepare", "prompts")}
    preset["objective"] = {name: small["objective"][name] for name in preset["objectives"]}
    Path("params.yaml").write_text(yaml.safe_dump(preset))
    assert executor.study() == []
    (_, names) = planned[1]
    assert len(set(names)) == len(names) == 36
    assert "mistral-mixed-2" in names
    assert planned[2][0] == "finish"
