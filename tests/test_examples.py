"""The scripts in examples/, as a user runs them, on a model small enough."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import REPOSITORY, call, llama, tracking_to

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two blocks whose tokenizer has no chat template, as a folder."""
    from topoflow.embedded.recipe import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    folder = tmp_path_factory.mktemp("model")
    llama(len(tokenizer), num_hidden_layers=2, eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(folder: Path, warm: Path, script: str, model: Path, *arguments: str) -> str:
    path = ["python", *arguments, str(REPOSITORY / "examples" / f"{script}.py"), str(model)]
    return call(
        folder, *path, "--max-steps", "2", programs=warm, PYTHONPATH=str(REPOSITORY), CUDA_VISIBLE_DEVICES="",
        MLFLOW_TRACKING_URI="sqlite:///mlflow.db", HF_HUB_OFFLINE="1",
    ).stdout  # fmt: skip


@pytest.mark.parametrize(
    ("script", "own_metric", "own_parameter"),
    [
        ("trainer", "loss", "per_device_train_batch_size"),
        ("dpo", "rewards/margins", "beta"),
        ("grpo", "reward", "num_generations"),
    ],
)
def test_the_run_holds_the_trainers_metrics_and_parameters_and_the_topology(
    tmp_path, warm, saved, script, own_metric, own_parameter
):
    run(tmp_path, warm, script, saved)
    with tracking_to(tmp_path) as mlflow:
        (logged,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
        velocity = mlflow.MlflowClient().get_metric_history(
            logged.info.run_id, "topology/h1_velocity/layer_02"
        )
    assert logged.info.status == "FINISHED"
    assert [metric.step for metric in velocity] == [1, 2]
    assert logged.data.metrics["grad_norm"] > 0  # something is learned from
    assert {own_metric, "topology/h1_count/layer_01", "topology/h0_total_persistence/layer_02"} <= set(
        logged.data.metrics
    )
    assert {own_parameter, "learning_rate", "max_steps", "num_hidden_layers", "hidden_size"} <= set(
        logged.data.params
    )
    assert len(logged.data.params) > 100  # all of Hugging Face's callback, which drops a batch at a clash


def test_without_mlflow_the_callback_holds_what_was_found(tmp_path, saved):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['mlflow'] = None")
    result = call(
        tmp_path, sys.executable, str(REPOSITORY / "examples" / "sft.py"), str(saved), "--max-steps", "2",
        PYTHONPATH=f"{tmp_path}:{REPOSITORY}", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1",
    )  # fmt: skip
    lines = result.stdout.splitlines()[-2:]
    assert [line.split()[0] for line in lines] == ["0", "2"]
    assert lines[0].endswith("None")
    assert float(lines[1].split()[1]) > 0
    assert not (tmp_path / "mlflow.db").exists()
