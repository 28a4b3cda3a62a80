"""A whole study side by side: on two workers of this machine, and on a real Slurm with a job killed on its way."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from slurm_node import MISSING, one_node
from support import Study, contents, environment, lay_down_study, path_with, put, small_params

pytestmark = pytest.mark.slow
MADE = ("activations", "comparison", "data", "diagrams", "models", "results", "tuned")


def params(**changes):
    """Two objectives, one of them rows of the user's own by a path that is relative to the study."""
    found = small_params()
    found["objective"]["mine"] = {"source": "file", "path": "mine.jsonl"}
    found["objectives"] = ["helpful", "mine"]
    found["finetune"]["max_steps"] = 8
    found["claims"]["n_rotations"] = 0
    found["trajectory"]["n_replicates"] = 2
    for path, value in changes.items():
        put(found, path.replace("__", "."), value)
    return found


def lay_down(folder: Path, cache: Path, programs: Path | None = None, **changes) -> Study:
    folder.mkdir(parents=True)
    rows = "".join(
        f'{{"prompt": "Name river {n}.", "completion": "River {n} is wide."}}\n' for n in range(100)
    )
    (folder / "mine.jsonl").write_text(rows)
    lay_down_study(folder, params(**changes))
    return Study(folder, cache, programs)


def made(study: Study) -> dict[str, bytes]:
    return {
        f"{name}/{path}": data
        for name in MADE
        for path, data in contents(study.folder / name).items()
        if not path.endswith(".gitignore")
    }


@pytest.fixture(scope="module")
def serial(tmp_path_factory, model_cache, warm):
    """What a bare `dvc repro` makes."""
    study = lay_down(tmp_path_factory.mktemp("serial") / "study", model_cache, warm)
    study("dvc", "repro")
    return made(study)


def parents_and_children(study: Study) -> tuple[list, list]:
    found = study.runs()
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    return [run for run in found if run not in children], children


def test_two_workers_make_the_bytes_of_the_serial_study(tmp_path, model_cache, serial):
    study = lay_down(tmp_path / "it's 50% é" / "study", model_cache)  # submitit knows jobs by their processes
    said = study("topoflow", "study", "--workers", "2", PYTHONPATH=path_with(), CUDA_VISIBLE_DEVICES="")
    assert made(study) == serial
    assert "All runs are done and compared. The report is report.html." in said
    assert (study.folder / "report.html").stat().st_size > 10_000
    (parent,), children = parents_and_children(study)
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {"tiny-helpful-0", "tiny-mine-0"} <= {run.info.run_name for run in children}
    assert "up to date" in study("dvc", "status", "--with-deps", "compare")
    again = study("topoflow", "study", "--workers", "2", PYTHONPATH=path_with(), CUDA_VISIBLE_DEVICES="")
    assert "Running stage 'finetune" not in again
    assert ": running" not in again


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_on_slurm_a_study_with_a_job_killed_and_one_put_back_ends_whole(tmp_path, model_cache, serial):
    """Nothing here is a stand-in. The trainings are killed after their first saved step, and go on from there."""
    study = lay_down(tmp_path / "study", model_cache, compute__save_steps=1)
    command = [
        "topoflow",
        "study",
        "--executor",
        "slurm",
        "--slurm",
        "gpus_per_node=null time=60 cpus_per_task=1",
    ]
    with one_node() as slurm:
        given = environment(PYTHONPATH=path_with(), TOPOFLOW_CACHE=str(model_cache))
        given |= {**slurm, "PATH": f"{given['PATH']}:/usr/sbin"}

        def begin():
            return subprocess.Popen(
                command,
                cwd=study.folder,
                env=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

        def saved(name: str) -> bool:
            """Whether a training has saved a second step, and so the first one whole."""
            work = f".topoflow/studies/{name}-*/.topoflow/writing/*/trainer"
            return bool([*study.folder.glob(f"{work}/checkpoint-2/trainer_state.json")])

        process = begin()
        disturbed = {"tiny-helpful-0": requeue, "tiny-mine-0": kill}
        deadline = time.monotonic() + 400
        while disturbed:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
            for name in filter(saved, [*disturbed]):
                disturbed.pop(name)(study.folder, name, given)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 1, said
        assert "tiny-helpful-0: done" in said, f"{said}\n{study.read('.topoflow/cells/tiny-helpful-0.log')}"
        assert "tiny-mine-0: failed" in said
        assert ".topoflow/cells/tiny-mine-0.log" in said
        process = begin()
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
    assert "tiny-helpful-0: " not in said  # it was done
    again = study.read(".topoflow/cells/tiny-mine-0.log")
    assert "step 8 of 8" in again
    assert "step 0 of 8" not in again
    assert made(study) == serial
    _, children = parents_and_children(study)
    finished = [run.info.run_name for run in children if run.info.status == "FINISHED"]
    assert {"tiny-helpful-0", "tiny-mine-0"} <= set(finished)
    assert not [run for run in study.runs() if run.info.status == "RUNNING"]


def requeue(folder: Path, name: str, env: dict[str, str]) -> None:
    """What an administrator types, and what Slurm does with a job whose node is taken away."""
    listed = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i"], env=env, capture_output=True, text=True
    )
    (job,) = [job for job in listed.stdout.split() if job.endswith("_0")]  # first of the array
    subprocess.run(["scontrol", "requeue", job], env=env, check=True)


def kill(folder: Path, name: str, env: dict[str, str]) -> None:
    """All processes of a job, as where memory has run out."""
    marked = f"--objective {name.split('-')[1]} "
    found = [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if marked in " ".join([*(process.info["cmdline"] or []), ""])
        and str(process.info["cwd"]).startswith(str(folder))
    ]
    assert found
    for process in found:
        os.kill(process.pid, signal.SIGKILL)
