"""The front doors as a user types them, on a study in miniature in its own git and DVC repository.

The tests of this file share one study and stand in the order in which a user would do these things.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from support import Study, lay_down_study, small_params, tracking_to

from topoflow.embedded import embedded_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, model_cache: Path, warm: Path) -> Study:
    folder = tmp_path_factory.mktemp("study")
    params = small_params()
    params["objective"]["tale"] = {"source": "samples", "name": "helpful"}
    params["objective"]["rows"] = {"source": "file", "path": "rows.jsonl"}
    params["model"]["mine"] = {"source": "folder", "path": "weights"}
    params["model"]["second"] = {"source": "embedded", "name": "tiny"}
    lay_down_study(folder, params)
    return Study(folder, model_cache, warm)


def test_mlflow_run_leaves_one_finished_run_with_training_and_topology(study):
    real = Study(study.folder, study.cache)  # each command a Python of its own from the first byte on
    output = real.mlflow_run(objective="helpful")
    assert output.count("Running stage 'finetune@tiny-helpful-0'") == 1
    assert re.search(
        r"^step 1 of 4: loss \d.*, 24 prompts recorded at layers 1, 2, with next-token distributions",
        output,
        re.M,
    )
    assert "What may be said of tiny-helpful-0:" in output
    assert "git add" not in output  # nor what else DVC advises
    assert "dvc push" not in output
    (run,) = study.runs()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tiny-helpful-0"
    assert {"loss", "topology/h1_velocity/layer_02"} <= set(run.data.metrics)
    assert "topoflow.h0_concentration.layer_01" in run.data.tags
    assert run.data.params["objective"] == "helpful"
    assert run.data.tags["topoflow.git_commit"] == study("git", "rev-parse", "HEAD").strip()
    lock = yaml.safe_load(study.read("dvc.lock"))
    outs = {out["path"]: out["md5"] for out in lock["stages"]["finetune@tiny-helpful-0"]["outs"]}
    assert run.data.tags["topoflow.dvc_activations_md5"] == outs["activations/tiny/helpful/seed_0"]


def test_dvc_repro_then_trains_the_other_objectives_only_and_compares(study):
    output = study("dvc", "repro")
    assert "Stage 'finetune@tiny-helpful-0' didn't change, skipping" in output
    assert "Running stage 'finetune@tiny-harmless-0'" in output
    assert "Running stage 'finetune@tiny-mixed-0'" in output
    assert sorted(run.info.run_name for run in study.runs()) == [
        "comparison of 3 runs",
        "tiny-harmless-0",
        "tiny-helpful-0",
        "tiny-mixed-0",
    ]
    assert all(run.info.status == "FINISHED" for run in study.runs())
    for run in study.runs():
        if run.info.run_name == "comparison of 3 runs":
            assert "3 runs side by side" in run.data.tags["mlflow.note.content"]
        else:
            assert "topology/h1_velocity/layer_02" in run.data.metrics
    table = study.read("comparison/comparison.csv").splitlines()
    assert len(table) == 1 + 3  # objectives
    assert (study.folder / "comparison/velocity.png").read_bytes().startswith(b"\x89PNG")


def test_the_evaluation_prompts_are_the_same_for_every_objective_and_in_no_training_row(study):
    prompts = study.read("data/prompts.jsonl").splitlines()
    for objective in ("helpful", "harmless", "mixed"):
        manifest = study.read(f"activations/tiny/{objective}/seed_0/manifest.json")
        assert yaml.safe_load(manifest)["n_prompts"] == len(prompts) == 24
        rows = [yaml.safe_load(line)["prompt"] for line in study.read(f"data/{objective}.jsonl").splitlines()]
        assert not [row for row in rows if row in [yaml.safe_load(prompt) for prompt in prompts]]


def test_a_second_dvc_repro_does_nothing(study):
    assert "Data and pipelines are up to date." in study("dvc", "repro")
    assert len(study.runs()) == 4


def test_a_topology_parameter_retrains_nothing_and_its_revert_computes_nothing(study):
    lock = study.read("dvc.lock")
    study.edit("params.yaml", "subsample_size: 12", "subsample_size: 10")
    output = study("dvc", "repro", "trajectory@tiny-helpful-0")
    assert "Running stage 'diagrams@tiny-helpful-0'" in output
    assert "Running stage 'finetune" not in output
    study.edit("params.yaml", "subsample_size: 10", "subsample_size: 12")
    output = study("dvc", "repro", "trajectory@tiny-helpful-0")
    assert "Running stage" not in output
    assert study.read("dvc.lock") == lock


def test_forcing_everything_gives_the_same_lock_to_the_byte(study):
    lock = study.read("dvc.lock")
    study("dvc", "repro", "--force")
    assert study.read("dvc.lock") == lock
    trained = [run for run in study.runs() if "loss" in run.data.metrics]
    assert len(trained) == 6  # a forced training is a run of its own
    assert all("topology/h1_velocity/layer_02" in run.data.metrics for run in trained)


def test_mlflow_run_of_what_is_done_computes_nothing_and_fills_its_own_run(study):
    output = study.mlflow_run(objective="harmless")
    assert "Running stage" not in output
    newest = study.runs()[0]
    assert newest.info.status == "FINISHED"
    assert {"loss", "topology/h1_velocity/layer_02"} <= set(newest.data.metrics)


def test_an_override_runs_aside_and_is_what_is_recorded(study):
    params, lock = study.read("params.yaml"), study.read("dvc.lock")
    output = study.mlflow_run(objective="helpful", set="topology.n_subsamples=2 trajectory.order=1")
    assert "Running stage 'diagrams@tiny-helpful-0'" in output
    assert "Running stage 'finetune" not in output  # restored from the cache that both share
    assert (study.read("params.yaml"), study.read("dvc.lock")) == (params, lock)
    newest = study.runs()[0]
    assert newest.info.status == "FINISHED"
    assert newest.data.params["topology.n_subsamples"] == "2"
    assert newest.data.params["trajectory.order"] == "1.0"
    assert "order-1 Wasserstein" in newest.data.tags["mlflow.note.content"]
    assert "Data and pipelines are up to date." in study("dvc", "repro")


def test_a_run_aside_goes_on_where_a_kill_has_cut_off_what_dvc_was_writing(study):
    command = ("topoflow", "run", "--objective", "helpful", "--set", "topology.n_subsamples=3")
    study(*command)
    (lock,) = (
        path
        for path in study.folder.glob(".topoflow/studies/*/dvc.lock")
        if "n_subsamples: 3" in path.read_text()
    )
    for end in (0, lock.stat().st_size // 2):
        os.truncate(lock, end)
        os.truncate(lock.parent / ".dvc/tmp/rwlock", 0)
        output = study(*command)
        assert "Running stage" not in output  # restored from DVC's run cache
        assert study.runs()[0].info.status == "FINISHED"


def test_all_weights_can_be_trained_and_are_kept_whole(study):
    study(
        "topoflow", "run", "--objective", "helpful", "--set", "finetune.lora=null finetune.learning_rate=1e-4"
    )
    newest = study.runs()[0]
    assert newest.data.params["finetune.lora"] == "None"
    (aside,) = [
        path
        for path in study.folder.glob(".topoflow/studies/*")
        if (path / "tuned/tiny/helpful/seed_0/model.safetensors").is_file()
    ]
    assert str(study.cache) not in (aside / "tuned/tiny/helpful/seed_0/config.json").read_text()


def test_a_model_and_an_objective_that_the_study_does_not_list_can_be_run(study):
    study("topoflow", "run", "--model", "second", "--objective", "tale", "--set", "recording.layers='[1]'")
    newest = study.runs()[0]
    assert newest.info.run_name == "second-tale-0"
    assert newest.data.params["model_source.name"] == "tiny"
    assert "topology/h1_velocity/layer_01" in newest.data.metrics
    assert "topology/h1_velocity/layer_02" not in newest.data.metrics


def test_a_changed_file_or_folder_is_noticed_and_an_unchanged_one_costs_no_training(study):
    def run() -> str:
        return study("topoflow", "run", "--model", "mine", "--objective", "rows")

    def write_rows(answer: str) -> None:
        rows = [json.dumps({"prompt": f"Question {i}?", "completion": f"{answer} {i}."}) for i in range(20)]
        (study.folder / "rows.jsonl").write_text("\n".join(rows))

    weights = shutil.copytree(embedded_folder("mini"), study.folder / "weights")
    write_rows("Before")
    assert "Running stage 'finetune@mine-rows-0'" in run()
    assert "Running stage 'finetune@mine-rows-0'" not in run()
    write_rows("After")
    assert "Running stage 'finetune@mine-rows-0'" in run()
    (aside,) = study.folder.glob(".topoflow/studies/mine-rows-*")
    assert "After" in (aside / "data/rows.jsonl").read_text()
    assert "Before" not in (aside / "data/rows.jsonl").read_text()
    with open(weights / "chat_template.jinja", "a") as template:
        template.write("{# another #}")
    assert "Running stage 'finetune@mine-rows-0'" in run()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"objective": "honest"}, "objective must be one of harmless, harmless_shuffled"),
        ({"objective": "helpful", "model": "$(touch pwned)"}, "model must be one of"),
        ({"objective": "`touch pwned`"}, "objective must be one of"),
        ({"objective": "helpful", "set": "finetune.max_step=1"}, "did you mean 'max_steps'?"),
        (
            {"objective": "helpful", "colour": "red"},
            "No such option '--colour'. There are --aside, --help, --model, --objective, --seed, --set.",
        ),
    ],
)
def test_mlflow_run_refuses_what_does_not_exist_before_any_training(study, parameters, message):
    output = study.mlflow_run(check=False, **parameters)
    assert message in output
    assert "Running stage" not in output
    assert not (study.folder / "pwned").exists()
    assert study.runs()[0].info.status == "FAILED"


def test_a_failing_stage_fails_the_run_and_keeps_what_was_finished(study):
    fails = "finetune.sft_config={optim_args: nonsense}"  # which only the optimiser reads
    output = study("topoflow", "run", "--objective", "mixed", "--set", fails, check=False)
    assert "Error: " in output
    assert "finished stages are kept" in output
    assert study.runs()[0].info.status == "FAILED"
    (aside,) = study.folder.glob(".topoflow/studies/tiny-mixed-*")
    assert (aside / "data/mixed.jsonl").is_file()
    assert not (aside / "activations/tiny/mixed/seed_0").exists()


def test_an_entry_point_runs_its_stage_alone(study):
    assert "succeeded" in study.mlflow_run("trajectory", objective="helpful")


def test_the_run_of_the_entry_point_plan_holds_what_was_said(study):
    output = study.mlflow_run("plan", objective="helpful", flops="1e9")
    newest = study.runs()[0]
    assert newest.info.status == "FINISHED"
    with tracking_to(study.folder) as mlflow:
        kept = mlflow.artifacts.load_text(f"{newest.info.artifact_uri}/plan.txt")
    assert "checkpoints         4 of 2 layers: 8 cells" in kept
    assert kept in output
