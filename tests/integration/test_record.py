"""`topoflow record` as a user types it, on the folders that a Trainer of transformers has left.

The tests of this file share one training of adapters and stand in the order in which a user would do these things.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_trainers import trainer
from support import Study, lay_down_study, path_with, small_params, tracking_to

from topoflow import storage
from topoflow.embedded import embedded_folder
from topoflow.storage import layout

pytestmark = pytest.mark.slow

RECORD = ("topoflow", "record", "--checkpoints", "../adapters")
# Kills a stage once it has written so many files of states, and notes the names of those that are written. Read at
# the start of every Python, so it must be light.
SITECUSTOMIZE = """
import os, signal, sys

if "finetune" in sys.orig_argv:
    replace, names = os.replace, []

    def replaced(source, target, **options):
        replace(source, target, **options)
        place, name = os.path.split(str(target))
        if name.endswith(".npy") and os.path.basename(place).startswith("step_"):
            names.append(f"{os.path.basename(place)}/{name}")
            with open(os.environ["NAMES_WRITTEN"], "w") as file:
                file.write(" ".join(names))
            if len(names) == int(os.environ["KILLED_AFTER"]):
                os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replaced
"""


def train(base: Path, folder: Path, max_steps: int, lora: bool) -> None:
    """A user's own training with transformers' Trainer, saved every second step; it goes on where it was left."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    set_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    if lora:
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens = tokenizer([f"Question {i}? Answer {i * i}." for i in range(16)])["input_ids"]
    rows = [{"input_ids": ids[:20], "labels": ids[:20]} for ids in tokens]
    made = trainer(
        model, folder, given={"train_dataset": rows, "processing_class": tokenizer}, max_steps=max_steps,
        per_device_train_batch_size=1, logging_steps=1, save_strategy="steps", save_steps=2,
        lr_scheduler_type="constant",
    )  # fmt: skip
    made.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, model_cache: Path, warm: Path) -> Path:
    """The user's folders beside their studies: `base`, and a training of adapters for it that saved steps 2, 4, 6."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(embedded_folder("mini"), home / "base")
    train(home / "base", home / "adapters", 6, lora=True)
    return home


@pytest.fixture(scope="module")
def study(home: Path, model_cache: Path, warm: Path) -> Study:
    lay_down_study(home / "study", small_params())
    return Study(home / "study", model_cache, warm)


def recorded(study: Study) -> storage.StoredSet:
    """The activation set of the one run aside."""
    (folder,) = study.folder.glob(".topoflow/studies/*/activations/base/adapters/seed_0")
    return storage.open_set(folder, storage.ACTIVATIONS)


def steps_of(study: Study, run_id: str, metric: str) -> list[int]:
    with tracking_to(study.folder) as mlflow:
        return [found.step for found in mlflow.MlflowClient().get_metric_history(run_id, metric)]


def test_the_checkpoints_of_a_folder_become_one_finished_run(study, home):
    output = study(*RECORD)
    assert "Running stage 'finetune@base-adapters-0'" in output
    (run,) = study.runs()
    assert f"MLflow run {run.info.run_id} holds the topology of the checkpoints." in output
    assert (run.info.status, run.info.run_name) == ("FINISHED", "base-adapters-0")
    assert steps_of(study, run.info.run_id, "topology/h1_velocity/layer_02") == [2, 4, 6]
    assert "topoflow.h0_concentration.layer_01" in run.data.tags
    state = json.loads((home / "adapters/checkpoint-6/trainer_state.json").read_text())
    losses = {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}
    with tracking_to(study.folder) as mlflow:
        logged = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert {metric.step: metric.value for metric in logged} == losses
    assert len(losses) == 6
    assert run.data.params["text.path"] == str(home / "adapters")
    assert not [key for key in run.data.params if key.startswith(("finetune.", "prepare."))]
    assert run.data.tags["topoflow.activations"] == recorded(study).sha256
    assert "checkpoint" in run.data.tags["mlflow.note.content"]
    assert len(run.inputs.dataset_inputs) == 1


def test_the_states_are_those_that_transformers_and_peft_give_of_each_checkpoint(study, home):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stored = recorded(study)
    assert (stored.steps, stored.layers) == ((0, 2, 4, 6), (1, 2))
    (prompts,) = study.folder.glob(".topoflow/studies/*/data/prompts.jsonl")
    prompt = layout.read_json_lines(prompts)[0]
    tokenizer = AutoTokenizer.from_pretrained(home / "base")
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    firsts = []
    for step in stored.steps:
        model: Any = AutoModelForCausalLM.from_pretrained(home / "base", dtype="float32").eval()
        if step:
            model = PeftModel.from_pretrained(model, home / f"adapters/checkpoint-{step}").eval()
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states
        for layer in stored.layers:
            expected, found = hidden[layer][0, -1].numpy(), stored.point_cloud(step, layer)[0]
            assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        firsts.append(found)
    assert len(np.unique(firsts, axis=0)) == 4  # each step moved them


def test_typed_again_it_computes_nothing_and_fills_a_run_of_its_own(study):
    first = recorded(study).sha256
    assert "Running stage 'finetune" not in study(*RECORD)
    newest, _ = study.runs()
    assert newest.info.status == "FINISHED"
    assert newest.data.tags["topoflow.activations"] == first
    assert steps_of(study, newest.info.run_id, "loss") == [1, 2, 3, 4, 5, 6]


def test_a_kill_between_two_checkpoints_costs_those_that_were_not_whole(
    study, home, model_cache, tmp_path, warm
):
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    other = Study(home / "other", model_cache, warm)
    lay_down_study(other.folder, small_params())
    noted = {"PYTHONPATH": path_with(tmp_path), "NAMES_WRITTEN": str(tmp_path / "written")}
    files = ("layer_01.npy", "layer_02.npy", "behaviour.npy", "roots.npy")
    of_steps = [[f"step_{step:06d}/{name}" for name in files] for step in (0, 2, 4, 6)]
    # two checkpoints are whole, and of the third there is one layer
    output = other(*RECORD, check=False, KILLED_AFTER="9", **noted)
    assert "finished stages are kept" in output
    assert (tmp_path / "written").read_text().split() == [*of_steps[0], *of_steps[1], of_steps[2][0]]
    assert [run.info.status for run in other.runs()] == ["FAILED"]
    assert not list(other.folder.glob(".topoflow/studies/*/activations/**/manifest.json"))

    other(*RECORD, KILLED_AFTER="0", **noted)
    assert (tmp_path / "written").read_text().split() == [*of_steps[2], *of_steps[3]]
    finished, failed = other.runs()
    assert (finished.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert recorded(other).sha256 == recorded(study).sha256
    assert steps_of(other, finished.info.run_id, "topology/h1_velocity/layer_02") == [2, 4, 6]


def test_checkpoints_that_training_has_added_are_recorded_too(study, home):
    train(home / "base", home / "adapters", 8, lora=True)
    assert "Running stage 'finetune@base-adapters-0'" in study(*RECORD)
    assert recorded(study).steps == (0, 2, 4, 6, 8)
    assert steps_of(study, study.runs()[0].info.run_id, "topology/h1_velocity/layer_02") == [2, 4, 6, 8]


def test_the_entry_point_of_the_mlflow_project_records_whole_models_under_their_own_names(study, home):
    train(home / "base", home / "models", 4, lora=False)
    output = study.mlflow_run("record", checkpoints="../models", steps="2,4", name="theirs")
    assert "Running stage 'finetune@models-theirs-0'" in output
    newest = study.runs()[0]
    assert newest.info.status == "FINISHED"
    params = newest.data.params
    assert (params["checkpoints"], params["model"], params["objective"]) == ("../models", "models", "theirs")
    assert steps_of(study, newest.info.run_id, "topology/h1_velocity/layer_02") == [4]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"checkpoints": "$(touch pwned)"}, "must be a folder with checkpoint-N folders in it"),
        ({"checkpoints": "../models", "name": "`touch pwned`"}, "`touch pwned`"),
        ({"checkpoints": "../models", "steps": "2;touch pwned"}, "--steps must be optimiser steps"),
        ({"hub": "a/b"}, "--hub and --revisions must be given together"),
        ({}, "one of --checkpoints and --hub must be given"),
    ],
)
def test_what_the_entry_point_refuses_runs_no_stage_and_no_shell(study, parameters, message):
    output = study.mlflow_run("record", check=False, **parameters)
    assert message in output
    assert "Running stage" not in output
    assert not list(study.folder.rglob("pwned"))
    assert study.runs()[0].info.status == "FAILED"
