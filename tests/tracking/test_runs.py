"""How a run is spoken of; what is logged into it is tested with the stages, and with a server in test_ui.py."""

from __future__ import annotations

import mlflow

from topoflow.tracking.runs import where_to_look


def test_who_ran_something_is_told_where_to_look(tmp_path, fresh_store, monkeypatch):
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("mine", artifact_location=str(tmp_path / "files"))
    run_id = client.create_run(experiment).info.run_id
    page = f"#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"
    assert where_to_look(run_id) == f"mlflow ui, then open http://127.0.0.1:5000/{page}"
    monkeypatch.setattr("topoflow.tracking.runs.server", lambda: "http://host:1")
    assert where_to_look(run_id) == f"http://host:1/{page}"
