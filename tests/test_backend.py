"""`mlflow run . -b topoflow` as it is typed; the study's work itself is a stand-in in the fast tests."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
import yaml
from click.testing import CliRunner
from support import (
    REPOSITORY,
    call,
    commit_all,
    entry_points_folder,
    lay_down_study,
    path_with,
    small_params,
    tracking_to,
)

from topoflow import backend
from topoflow.cli import main
from topoflow.embedded import embedded_folder
from topoflow.study import preflight
from topoflow.study import run as runs_of_dvc


@pytest.fixture
def study(tmp_path, monkeypatch, fresh_store):
    """A study, a store, and a job whose exit status is that of the stand-in."""
    folder = tmp_path / "study"
    folder.mkdir()
    shutil.copy(REPOSITORY / "MLproject", folder)
    shutil.copy(REPOSITORY / "python_env.yaml", folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(small_params()))
    commit_all(folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def called(monkeypatch):
    """The commands that were run, with what they found in their environment; those with a name in `failing` fail."""
    calls = []

    def run(command, cwd, env):
        calls.append((command, Path(cwd), {k: v for k, v in env.items() if k.startswith("MLFLOW_")}))
        failed = any(word in run.failing for word in command)
        return type("Done", (), {"returncode": 3 if failed else 0})

    run.failing = ()
    calls_of = type("Calls", (), {"list": calls, "fail": lambda *names: setattr(run, "failing", names)})
    monkeypatch.setattr(backend, "call", run)
    return calls_of


def submit(entry_point="main", config=None, **parameters):
    return backend.ProjectBackend().run(
        ".",
        entry_point,
        parameters,
        None,
        {"ENV_MANAGER": None, **(config or {})},
        mlflow.get_tracking_uri(),
        "0",
    )


def runs():
    return mlflow.search_runs(
        search_all_experiments=True, output_format="list", order_by=["attributes.start_time ASC"]
    )


def test_one_objective_is_one_run_of_this_python_in_the_projects_folder(study, called):
    finished = submit(objective="helpful", set="topology.n_subsamples=2 trajectory.order=1")
    (command, cwd, found) = called.list[0]
    assert command == [
        sys.executable, "-m", "topoflow", "run", "--objective", "helpful", "--model", "tiny", "--seed", "0",
        "--set", "topology.n_subsamples=2 trajectory.order=1",
    ]  # fmt: skip
    assert cwd == study
    assert found["MLFLOW_RUN_ID"] == finished.run_id
    assert found["MLFLOW_EXPERIMENT_ID"] == "0"
    assert found["MLFLOW_TRACKING_URI"] == mlflow.get_tracking_uri()
    (run,) = runs()
    assert run.info.run_id == finished.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params["objective"] == "helpful"
    assert run.data.tags["mlflow.project.backend"] == "topoflow"
    assert len(run.data.tags["topoflow.git_commit"]) == 40
    assert (finished.wait(), finished.get_status()) == (True, "FINISHED")


def test_checkpoints_are_recorded_and_a_plan_is_made_with_what_was_not_given_left_empty(study, called):
    (study / "out" / "checkpoint-2").mkdir(parents=True)
    submit("record", checkpoints="out", base="tiny", remove_downloads="true")
    submit("plan", objective="helpful", flops="1e12")
    record, plan = (command[3:] for command, *_ in called.list)
    assert record == [
        "record", "--checkpoints", "out", "--steps", "", "--hub", "", "--revisions", "", "--remove-downloads", "true",
        "--model", "tiny", "--objective", "", "--seed", "0", "--set", "",
    ]  # fmt: skip
    assert plan == [
        "plan",
        "--objective",
        "helpful",
        "--model",
        "tiny",
        "--flops",
        "1e12",
        "--gpu",
        "",
        "--set",
        "",
    ]
    assert [run.info.status for run in runs()] == ["FINISHED", "FINISHED"]


@pytest.mark.parametrize("as_config", [False, True])
def test_several_objectives_and_seeds_are_runs_under_one_parent(study, called, as_config):
    if as_config:
        finished = submit(config={"objectives": ["helpful", "harmless"], "seeds": [0, 1]})
    else:
        finished = submit(objective="helpful,harmless", seed="0, 1")
    parent, *children = runs()
    assert parent.info.run_id == finished.run_id
    assert parent.info.run_name == "4 runs: helpful, 0; helpful, 1; harmless, 0; harmless, 1"
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 5
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {finished.run_id}
    assert sorted((run.data.params["objective"], run.data.params["seed"]) for run in children) == [
        ("harmless", "0"), ("harmless", "1"), ("helpful", "0"), ("helpful", "1"),
    ]  # fmt: skip
    assert {found["MLFLOW_RUN_ID"] for *_, found in called.list} == {run.info.run_id for run in children}


def test_with_an_executor_the_whole_study_is_one_run_which_has_the_others_as_children(study, called):
    config = {"executor": "local", "gpus": "0-1", "workers": 4, "only": ["tiny-mixed-0", "*-helpful-*"]}
    finished = submit(config=config)
    (command, cwd, found) = called.list[0]
    assert command[3:] == [
        "study", "--executor", "local", "--gpus", "0-1", "--workers", "4", "--only", "tiny-mixed-0 '*-helpful-*'",
        "--slurm", "",
    ]  # fmt: skip
    assert (cwd, found["MLFLOW_RUN_ID"]) == (study, finished.run_id)
    (run,) = runs()
    assert (run.info.status, run.data.params["gpus"]) == ("FINISHED", "0-1")
    called.list.clear()
    submit("study", workers="2")
    assert called.list[0][0][3:8] == ["study", "--executor", "local", "--gpus", ""]


def test_a_job_that_fails_fails_its_run_and_its_parent_and_not_the_others(study, called):
    called.fail("harmless")
    with pytest.raises(mlflow.exceptions.ExecutionException, match=r"Run \(ID '\w+'\) failed: harmless"):
        submit(objective="helpful,harmless,mixed")
    parent, *children = runs()
    assert parent.info.status == "FAILED"
    assert {run.data.params["objective"]: run.info.status for run in children} == {
        "helpful": "FINISHED", "harmless": "FAILED", "mixed": "FINISHED",
    }  # fmt: skip
    with pytest.raises(mlflow.exceptions.ExecutionException, match="exit status 3"):
        submit(objective="harmless")


def test_an_interrupted_job_leaves_no_run_running(study, called, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(backend, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        submit(objective="helpful,harmless")
    assert [run.info.status for run in runs()] == ["KILLED", "KILLED"]


@pytest.mark.parametrize(
    ("entry_point", "parameters", "config", "message"),
    [
        ("main", {"objective": "honest"}, {}, "objective must be one of harmless, harmless_shuffled"),
        ("main", {"objective": "helpful,honest"}, {}, "objective must be one of"),
        ("main", {"objective": "helpful,helpful"}, {}, "objectives must be different ones"),
        ("main", {"objective": ""}, {}, "objective must be one of"),
        ("main", {"objective": "--help"}, {}, "objective must be one of|must have a value"),
        ("main", {"objective": "helpful", "model": "$(touch pwned)"}, {}, "model must be one of"),
        ("main", {"objective": "helpful; touch pwned"}, {}, "objective must be one of"),
        ("main", {"objective": "helpful", "set": "finetune.max_step=1"}, {}, "did you mean 'max_steps'"),
        ("main", {"objective": "helpful", "set": "recording.layers=[9]"}, {}, "layers must be at most"),
        ("main", {"objective": "helpful", "seed": "-1"}, {}, "Invalid value for '--seed'"),
        ("main", {"objective": "helpful", "set": "finetune.max_length=1"}, {}, "max_length must be enough"),
        (
            "main",
            {"objective": "helpful", "set": "prompts.n_prompts=100000"},
            {},
            "n_prompts must be at most",
        ),
        ("main", {"objective": "helpful", "set": "compute.gpu=7"}, {}, "compute.gpu must be"),
        ("plan", {"objective": "helpful", "gpu": "v100", "set": "finetune.max_step=1"}, {}, "did you mean"),
        (
            "main",
            {"objective": "helpful", "colour": "red"},
            {},
            "entry point main has no key 'colour'; it has model, ",
        ),
        ("main", {}, {}, "No value given for missing parameter"),
        ("main", {}, {"objectives": []}, "objectives must be a list of at least one"),
        ("main", {"objective": "mixed"}, {"objectives": ["helpful"]}, "objective must be given once"),
        (
            "main",
            {"objective": "mixed"},
            {"objective": "x"},
            "backend-config has no key 'objective'; did you mean",
        ),
        ("main", {}, {"executor": "lsf"}, "executor must be one of local, slurm"),
        ("main", {}, {"executor": "local", "only": ["tiny-honest-0"]}, "only must be a run of the study"),
        ("main", {}, {"workers": -1}, "Invalid value for '--workers'"),
        ("main", {}, {"gpus": "0,0"}, "gpus must be different GPUs"),
        ("main", {}, {"slurm": {"time": 10}}, "slurm must be left out where the executor is local"),
        ("main", {"objective": "mixed"}, {"gpus": "0"}, "entry point study has no key 'objective'"),
        ("main", {}, {"gpus": "0", "seeds": [0]}, "entry point study has no key 'seed'"),
        ("finetune", {"objective": "honest"}, {}, "objective must be one of"),
        ("trajectory", {"objective": "helpful", "model": "big"}, {}, "model must be one of"),
        ("plan", {"objective": "honest"}, {}, "objective must be one of"),
        ("plan", {"objective": "helpful", "flops": "-1"}, {}, "Invalid value for '--flops'"),
        ("plan", {"objective": "helpful", "set": "finetune.max_step=1"}, {}, "did you mean 'max_steps'"),
        ("record", {}, {}, "one of --checkpoints and --hub must be given"),
        ("record", {"hub": "a/b"}, {}, "--hub and --revisions must be given together"),
        ("record", {"hub": "a/b", "revisions": "main", "base": "tiny"}, {}, "must be names that say a step"),
        ("record", {"checkpoints": "$(touch pwned)"}, {}, "must be a folder with checkpoint-N folders"),
        ("record", {"checkpoints": "."}, {}, "must be a folder with checkpoint-N folders"),
        ("record", {"checkpoints": ".", "steps": "2; touch pwned"}, {}, "--steps must be optimiser steps"),
        ("record", {"checkpoints": ".", "base": "big"}, {}, "model must be one of"),
        ("record", {"checkpoints": ".", "remove_downloads": "perhaps"}, {}, "'--remove-downloads'"),
        ("nothing", {"objective": "helpful"}, {}, "Could not find nothing among entry points"),
    ],
)
def test_what_is_refused_leaves_no_run_behind(study, called, entry_point, parameters, config, message):
    with pytest.raises(mlflow.exceptions.ExecutionException, match=message):
        submit(entry_point, config, **parameters)
    assert runs() == []
    assert called.list == []
    assert not (study / "pwned").exists()


@pytest.mark.parametrize(
    ("entry_point", "parameters"),
    [
        ("main", {"objective": "mixed", "set": "finetune.max_steps=2"}),
        ("record", {"checkpoints": "out", "base": "tiny", "name": "theirs"}),
    ],
)
def test_what_is_checked_before_there_is_a_run_is_checked_again_only_if_it_has_changed(
    study, monkeypatch, entry_point, parameters
):
    shutil.copytree(embedded_folder("mini"), study / "out" / "checkpoint-2")
    checks = []
    monkeypatch.setattr(preflight, "check", lambda params, run: checks.append((str(run), params)))
    change = {}

    def begin(*_):
        raise NotImplementedError

    monkeypatch.setattr(runs_of_dvc, "_folder_aside", begin)

    def call(command, cwd, env):
        params = yaml.safe_load((study / "params.yaml").read_text())
        (study / "params.yaml").write_text(yaml.safe_dump({**params, **change}))
        done = CliRunner().invoke(main, command[3:], env=env)
        assert isinstance(done.exception, NotImplementedError), done.output
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(backend, "call", call)
    submit(entry_point, seed="0,1", **parameters)
    assert [run.rpartition("-")[2] for run, _ in checks] == ["0", "1"]
    change["seed"] = 3
    submit(entry_point, **parameters)
    assert [params.seed == 3 for _, params in checks[2:]] == [False, True]


def test_a_project_that_runs_something_else_is_refused(study, called):
    project = yaml.safe_load((study / "MLproject").read_text())
    project["entry_points"]["compare"]["command"] = "sh -c true"
    (study / "MLproject").write_text(yaml.safe_dump(project))
    with pytest.raises(
        mlflow.exceptions.ExecutionException, match="must be one that runs `python -m topoflow`"
    ):
        submit("compare")
    assert runs() == []


@pytest.mark.slow
def test_as_typed_from_another_folder_it_needs_no_environment_and_its_exit_code_is_the_jobs(
    tmp_path, model_cache, warm, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # MLflow puts files of runs into the folder in which a store is first opened
    study = tmp_path / "study"
    lay_down_study(study, small_params())
    plugins = path_with(entry_points_folder(tmp_path / "plugins"))

    def typed(*arguments: str):
        return call(
            tmp_path, "mlflow", "run", "study", "-b", "topoflow", *arguments, check=False, programs=warm,
            PYTHONPATH=plugins, TOPOFLOW_CACHE=str(model_cache), MLFLOW_TRACKING_URI="sqlite:///mlflow.db",
        )  # fmt: skip

    refused = typed("-P", "objective=honest")
    assert refused.returncode == 1
    assert "objective must be one of harmless, harmless_shuffled" in refused.stderr
    with tracking_to(tmp_path):
        assert runs() == []
        done = typed("-P", "objective=helpful", "--run-name", "mine")
        assert done.returncode == 0, done.stderr
        (run,) = runs()
        assert (run.info.status, run.info.run_name) == ("FINISHED", "mine")
        assert {"loss", "topology/h1_velocity/layer_02"} <= set(run.data.metrics)
        assert run.data.tags["mlflow.project.backend"] == "topoflow"
        (used,) = run.inputs.dataset_inputs
        assert used.dataset.source_type == "topoflow_activations"
        profile = json.loads(used.dataset.profile)
        assert profile["dvc_md5"] == run.data.tags["topoflow.dvc_activations_md5"]
        assert not (study / "mlflow.db").exists()
        refused = typed("-P", "objective=helpful", "-P", "set=finetune.max_length=1")
        assert refused.returncode == 1
        assert "max_length must be enough for at least one training row" in refused.stderr
        assert len(runs()) == 1
        failed = typed("-P", "objective=helpful", "-P", "set=finetune.sft_config.optim_args=nonsense")
        assert failed.returncode == 1
        assert "finished stages are kept" in failed.stderr
        assert [run.info.status for run in runs()] == ["FINISHED", "FAILED"]
