"""What is new is one file and one line: a claim that is planted from outside is seen wherever claims are."""

from __future__ import annotations

import csv
import html
from pathlib import Path

import mlflow
import numpy as np
import pytest
from support import plant_states, small_params

from topoflow import layout, stages
from topoflow.config import parse_params
from topoflow.dynamics.claims import Verdict, listed
from topoflow.layout import Run
from topoflow.report.study import report

RUN = Run("tiny", "helpful", 0)


def ends_small(run: listed.Trajectory) -> list[Verdict]:
    """A toy claim: the last cloud is smaller than the first."""
    sizes = [
        float(np.std(run.recorded.cloud(step, 1))) for step in (run.recorded.steps[0], run.recorded.steps[-1])
    ]
    said = "supported" if sizes[1] < sizes[0] else "not supported"
    statement = "clouds end smaller than they begin"
    return [
        Verdict(
            "small", "H0", said, "size", sizes[1] / sizes[0], None, None, 0.01, "if so", statement, "ratio"
        )
    ]


def test_a_claim_is_one_line_in_the_list_of_claims(tmp_path, monkeypatch):
    monkeypatch.setattr(listed, "CLAIMS", (*listed.CLAIMS, listed.Claim("small", "ends small", ends_small)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    params = parse_params({**small_params(), "objectives": ["helpful"]})
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(params.prompts.n_prompts, 3))
    states = {
        (step, 1): cloud * (1 - step / 8) + 0.01 * rng.normal(size=cloud.shape) for step in (0, 1, 2, 4)
    }
    made = {
        "dtype": "float64",
        "versions": {},
        "hidden_size": 3,
        "sources": params.sources(RUN.model, RUN.objective),
        "study_seed": params.seed,
        "finetune": params.training(RUN.objective),
        "recording": params.recorded(),
    }
    plant_states(RUN, states, weights_sha256="00ff", **made)
    stages.diagrams(params, RUN)
    stages.trajectory(params, RUN)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        run_id = stages.track(params, RUN)
        logged = mlflow.get_run(run_id)
        table = Path(
            mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="topology/verdicts.csv")
        )
    finally:
        mlflow.set_tracking_uri(before)

    found = layout.read_json(RUN.folder("results") / layout.TRAJECTORY_FILE)["claims"]["small_h0"]
    assert found["value"] == pytest.approx(0.5, abs=0.02)
    note = logged.data.tags["mlflow.note.content"]
    assert "small: H0 supported" in note
    assert "clouds end smaller than they begin" in note
    assert logged.data.metrics["claims/value/small_h0"] == found["value"]
    assert [row["verdict"] for row in csv.DictReader(table.open()) if row["claim"] == "small"] == [
        "supported"
    ]
    page = html.unescape(report(params)[0].decode())
    assert "<th>ends small</th>" in page
    assert "clouds end smaller than they begin" in page
