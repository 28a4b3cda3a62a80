"""Experiments of DVC, which are computed in a copy of the study that DVC deletes, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import Study, lay_down_study, small_params, tracking_to

pytestmark = pytest.mark.slow

TRACK = "track@tiny-helpful-0"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, model_cache: Path, warm: Path) -> Study:
    """A study that is committed and has computed nothing yet."""
    folder = tmp_path_factory.mktemp("experiments") / "study"
    lay_down_study(folder, {**small_params(), "objectives": ["helpful"]})
    return Study(folder, model_cache, warm)


def check_that_all_is_there(study: Study, run: object) -> None:
    """What a run of an experiment logged is in the study's own store, files included, and no path of the copy."""
    with tracking_to(study.folder) as mlflow:
        assert run.info.status == "FINISHED"
        assert run.data.tags["topoflow.trajectory"]
        files = mlflow.MlflowClient().list_artifacts(run.info.run_id, "topology")
        assert "topology/velocity.csv" in [file.path for file in files]
        assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/topology/velocity.csv").startswith(
            "layer,"
        )
    (used,) = run.inputs.dataset_inputs
    assert ".dvc/tmp" not in f"{used.dataset.source} {run.info.artifact_uri}"


def test_an_experiment_in_a_temporary_copy_logs_into_the_study_s_own_store(study):
    study("dvc", "exp", "run", "--temp", TRACK, MLFLOW_EXPERIMENT_NAME="mine")  # MLflow makes that one
    (run,) = study.runs()
    check_that_all_is_there(study, run)
    assert not list((study.folder / ".dvc/tmp/exps").glob("**/mlflow.db"))


def test_a_queued_experiment_with_another_parameter_logs_beside_it(study):
    study("dvc", "exp", "run", "--queue", "-S", "topology.n_subsamples=2", TRACK)
    study("dvc", "exp", "run", "--run-all")
    run, first = study.runs()
    assert (run.data.params["topology.n_subsamples"], first.data.params["topology.n_subsamples"]) == (
        "2",
        "3",
    )
    check_that_all_is_there(study, run)
