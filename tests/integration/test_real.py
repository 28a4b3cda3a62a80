"""A real pretrained model on real text, as small as it can be: SmolLM2-135M-Instruct on HH-RLHF and AlpacaEval."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support import SHARED_DATA, call, lay_down_study, small_params, tracking_to

from topoflow import storage
from topoflow.storage import layout

HARMLESS = SHARED_DATA / "hh-rlhf" / "harmless-base" / "test.jsonl.gz"
HELPFUL = SHARED_DATA / "alpaca-eval" / "helpful.jsonl.gz"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (HARMLESS.is_file() and HELPFUL.is_file()), reason="the real text is not at hand"),
]


@pytest.fixture(scope="module")
def study(tmp_path_factory, model_cache, warm):
    folder = tmp_path_factory.mktemp("real")
    params = small_params()
    params["objective"] = {
        "hh_harmless": {"source": "file", "path": str(HARMLESS)},
        "alpaca": {"source": "file", "path": str(HELPFUL)},
    }
    params.update(models=["smollm2"], objectives=["hh_harmless", "alpaca"])
    params["prompts"] = {"source": "mix", "of": {"hh_harmless": 1, "alpaca": 1}, "n_prompts": 24}
    params["finetune"].update(max_steps=2, max_length=256, learning_rate=5e-4)
    params["recording"].update(layers=5, max_length=128, batch_size=8, schedule={"every": 1})
    lay_down_study(folder, params)
    for objective in ("hh_harmless", "alpaca"):
        command = ("topoflow", "run", "--model", "smollm2", "--objective", objective)
        call(folder, *command, programs=warm, TOPOFLOW_CACHE=str(model_cache))
    return folder


def test_the_model_is_the_pinned_one(study):
    described = json.loads((study / "models/smollm2.json").read_text())
    assert (described["architecture"], described["n_layers"], described["hidden_size"]) == ("llama", 30, 576)
    assert described["n_parameters"] == pytest.approx(134.5e6, rel=0.01)
    assert described["chat_template"]


@pytest.mark.parametrize("objective", ["hh_harmless", "alpaca"])
def test_real_training_moves_real_states(study, objective):
    stored = storage.open_set(study / "activations/smollm2" / objective / "seed_0", storage.ACTIVATIONS)
    assert stored.steps == (0, 1, 2)
    assert stored.layers == (1, 8, 16, 23, 30)
    first, last = stored.point_cloud(0, 30), stored.point_cloud(2, 30)
    assert first.shape == (24, 576)
    assert np.isfinite(last).all()
    assert not np.array_equal(first, last)
    _, velocity = layout.read_velocity(
        study / "results/smollm2" / objective / "seed_0" / "velocity.csv", "h0_velocity"
    )
    assert all((v > 0).all() for v in velocity.values())
    losses = layout.read_table(study / "results/smollm2" / objective / "seed_0" / "loss.csv")
    assert all(0.5 < row["loss"] < 6 for row in losses)  # nats a token, of a model that knows English


def test_both_objectives_start_from_the_same_states(study):
    first = [
        storage.open_set(
            study / "activations/smollm2" / objective / "seed_0", storage.ACTIVATIONS
        ).point_cloud(0, 16)
        for objective in ("hh_harmless", "alpaca")
    ]
    assert np.array_equal(*first)


def test_each_objective_has_one_finished_run(study):
    with tracking_to(study) as mlflow:
        runs = mlflow.search_runs(output_format="list")
    assert sorted(run.info.run_name for run in runs) == ["smollm2-alpaca-0", "smollm2-hh_harmless-0"]
    assert all(run.info.status == "FINISHED" for run in runs)
    assert all("topology/h1_velocity/layer_30" in run.data.metrics for run in runs)
