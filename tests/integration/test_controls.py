"""Negative controls as a user has them: shuffled answers end to end, and a variant that DVC trains again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import Study, lay_down_study, small_params

from topoflow.storage.layout import Run, read_columns

pytestmark = pytest.mark.slow


def manifest(study: Study, objective: str) -> dict[str, object]:
    folder = Run("tiny", objective, 0).folder("activations")
    return dict(json.loads(study.read(f"{folder}/manifest.json")))


def test_controls_are_trained_and_a_changed_variant_is_trained_again(
    tmp_path: Path, model_cache: Path, warm: Path
):
    params = small_params()
    constant = {"lr_scheduler_type": "constant"}
    params["finetune"]["max_steps"] = 8
    params["recording"]["schedule"] = {"twins": 3}
    params["objectives"] = ["harmless", "shuffled_harmless", "constant"]
    params["objective"]["shuffled_harmless"] = {"source": "shuffled", "of": "harmless"}
    params["objective"]["constant"] = {"source": "variant", "of": "harmless", "finetune": constant}
    lay_down_study(tmp_path, params)
    study = Study(tmp_path, model_cache, warm)

    study("topoflow", "run", "--objective", "shuffled_harmless")
    (run,) = study.runs()
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny-shuffled_harmless-0")
    assert run.data.params["text.of"] == "harmless"
    assert manifest(study, "shuffled_harmless")["sources"]["text"] == {  # type: ignore[index]
        "shuffled_harmless": {"of": "harmless"},
        "harmless": {"name": "harmless"},
    }

    study("dvc", "repro", "finetune@tiny-harmless-0", "track@tiny-constant-0")
    assert study.runs()[0].data.params["finetune.lr_scheduler_type"] == "constant"
    made = [manifest(study, name) for name in ("harmless", "constant")]
    assert made[0]["steps"] == made[1]["steps"]
    harmless, varied = (one["finetune"] for one in made)
    assert varied == {**harmless, **constant}  # type: ignore[dict-item]
    rates = read_columns(
        tmp_path / Run("tiny", "constant", 0).folder("results") / "loss.csv", ["learning_rate"]
    )
    assert set(rates["learning_rate"]) == {params["finetune"]["learning_rate"]}
    prepared = [study.read(f"data/{name}.jsonl").splitlines() for name in ("harmless", "constant")]
    assert prepared[0] == prepared[1][1:]

    study.edit("params.yaml", "lr_scheduler_type: constant", "learning_rate: 0.0")
    output = study("dvc", "repro", "finetune@tiny-harmless-0", "finetune@tiny-constant-0")
    assert "Stage 'finetune@tiny-harmless-0' didn't change, skipping" in output
    assert "Running stage 'finetune@tiny-constant-0'" in output
    assert manifest(study, "constant")["finetune"] == {**harmless, "learning_rate": 0}  # type: ignore[dict-item]
