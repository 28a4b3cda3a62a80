"""`mlflow.models.evaluate` with topoflow's evaluator: what a real store holds afterwards."""

from __future__ import annotations

import math

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models.evaluation.evaluator_registry import _model_evaluation_registry
from support import user

from topoflow import SUMMARY_NAMES, vietoris_rips_diagrams
from topoflow.recording.callback import tokenize_prompts
from topoflow.recording.hidden_states import record_states
from topoflow.topology.summaries import barcode_summary
from topoflow.tracking.evaluator import TopologyEvaluator

PROMPTS = [f"Prompt number {i * i}: {'why ' * (i % 4)}" for i in range(14)]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch, fresh_store):
    """A real store, and the evaluator as MLflow registers it by its entry point."""
    monkeypatch.chdir(tmp_path)
    _model_evaluation_registry.register("topoflow", TopologyEvaluator)


def evaluate(model, data=PROMPTS, **config):
    return mlflow.models.evaluate(
        model, data, model_type="topology", evaluators="topoflow", evaluator_config=config
    )


def run_of(result):
    return mlflow.get_run(result.run_id)


def summary_of(cloud) -> dict[str, float]:
    found = dict(zip(SUMMARY_NAMES, barcode_summary(vietoris_rips_diagrams(cloud)), strict=True))
    return {name: value for name, value in found.items() if math.isfinite(value)}


def test_a_transformers_model_gets_41_numbers_a_layer_a_table_and_a_picture(model, tokenizer):
    with mlflow.start_run() as run:
        result = evaluate(model, tokenizer=tokenizer, layers=[2, 4])
    assert result.run_id == run.info.run_id
    logged = run_of(result).data.metrics
    states = record_states(
        model, tokenize_prompts(tokenizer, PROMPTS, 512), [2, 4], pad_token_id=tokenizer.pad_token_id
    )
    wanted = {
        f"topology/{name}/layer_{layer:02d}": value
        for layer in (2, 4)
        for name, value in summary_of(states[layer]).items()
    }
    assert logged == pytest.approx(wanted)
    assert result.metrics == pytest.approx(wanted)
    table = pd.read_csv(mlflow.artifacts.download_artifacts(f"runs:/{result.run_id}/topology/summaries.csv"))
    assert list(table.columns) == ["layer", *SUMMARY_NAMES]
    assert list(table.layer) == ["layer_02", "layer_04"]
    picture = mlflow.artifacts.download_artifacts(f"runs:/{result.run_id}/topology/diagrams.png")
    with open(picture, "rb") as file:
        assert file.read(4) == b"\x89PNG"
    assert result.artifacts["diagrams"].content.size[0] > 700
    assert len(result.artifacts["summaries"].content) == 2


def test_a_pipeline_brings_its_own_tokenizer(model, tokenizer):
    from transformers import pipeline

    with_pipeline = evaluate(pipeline("text-generation", model=model, tokenizer=tokenizer), layers=2)
    with_model = evaluate(model, tokenizer=tokenizer, layers=2)
    assert with_pipeline.metrics == with_model.metrics


def test_messages_are_rendered_by_the_chat_template(model, tokenizer):
    data = pd.DataFrame({"id": range(8), "prompt": [[user(p)] for p in PROMPTS[:8]]})
    data["prompt"] = data["prompt"].astype(object)
    result = evaluate(model, data, tokenizer=tokenizer, layers=[4], column="prompt")
    states = record_states(
        model,
        tokenize_prompts(tokenizer, list(data["prompt"]), 512),
        [4],
        pad_token_id=tokenizer.pad_token_id,
    )
    wanted = summary_of(states[4])
    assert run_of(result).data.metrics["topology/h0_death_mean/layer_04"] == pytest.approx(
        wanted["h0_death_mean"]
    )


def test_a_function_returns_the_states_of_its_layers():
    clouds = {
        0: np.random.default_rng(0).normal(size=(20, 3)),
        7: np.random.default_rng(1).normal(size=(20, 3)),
    }
    seen = []

    def states(data):
        seen.append(len(data))
        return clouds

    result = evaluate(states, [[float(i)] for i in range(20)])
    assert seen == [20]
    assert run_of(result).data.metrics == pytest.approx(
        {
            f"topology/{name}/layer_{layer:02d}": value
            for layer, cloud in clouds.items()
            for name, value in summary_of(cloud).items()
        }
    )


def test_a_pyfunc_model_returns_an_array_or_a_frame(tmp_path):
    class Square(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return pd.DataFrame(np.asarray(model_input, float))

    mlflow.pyfunc.save_model(str(tmp_path / "square"), python_model=Square(), pip_requirements=[])
    square = pd.DataFrame({"x": [0.0, 1, 1, 0], "y": [0.0, 0, 1, 1]})
    result = evaluate(mlflow.pyfunc.load_model(str(tmp_path / "square")), square)
    logged = run_of(result).data.metrics
    assert logged["topology/h1_count/states"] == 1
    assert logged["topology/h1_birth_mean/states"] == pytest.approx(1)
    assert logged["topology/h1_death_mean/states"] == pytest.approx(math.sqrt(2))


def test_subsamples_are_drawn_as_asked_for():
    cloud = np.random.default_rng(0).normal(size=(20, 3))
    result = evaluate(lambda _: cloud, [[0.0]] * 20, n_subsamples=3, subsample_size=5)
    assert result.metrics["topology/h0_count/states"] == 4


@pytest.mark.parametrize(
    ("data", "config", "message"),
    [
        (PROMPTS, {}, "tokenizer must be given in evaluator_config"),
        (PROMPTS, {"colour": 1}, "evaluator_config has no key 'colour'"),
        (PROMPTS, {"layers": 9, "tokenizer": True}, "layers must be between 1 and"),
        (PROMPTS, {"subsample_size": 99, "layers": 2, "tokenizer": True}, "subsample_size must be at most"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), {}, "column must be named where the data have several"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), {"column": "c"}, "column must be one of a, b, got 'c'"),
        (pd.DataFrame({"a": [1.5, 2.5]}), {}, "data must be prompts"),
    ],
)
def test_what_cannot_serve_is_refused_by_name(model, tokenizer, data, config, message):
    if "tokenizer" in config:
        config = {**config, "tokenizer": tokenizer}
    with pytest.raises(mlflow.MlflowException, match=message):
        evaluate(model, data, **config)


@pytest.mark.parametrize("states", [np.zeros((3, 2)), np.zeros(14), {}, {1: [["a"]] * 14}])
def test_states_of_another_shape_are_refused(states):
    with pytest.raises(mlflow.MlflowException, match="model must be one that returns"):
        evaluate(lambda _: states)


def test_other_model_types_are_left_to_other_evaluators():
    assert not TopologyEvaluator.can_evaluate(model_type="classifier", evaluator_config={})
