"""Which store is tracked to, also in the copy of a study that DVC computes an experiment in and then deletes."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from support import tracking_to

from topoflow.tracking.store import absolute_uri, address, open_store, set_tags
from topoflow.tracking.unfinished import Note


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study, while this process runs in a copy of it as a stage under `dvc exp run --temp` does."""
    copy = tmp_path / "study/.dvc/tmp/exps/standalone/tmp1"
    (copy / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "study"))
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0" * 40)
    with tracking_to("sqlite:///mlflow.db"):
        yield tmp_path / "study"


@pytest.mark.slow
def test_the_files_of_a_new_experiment_lie_in_the_study_and_not_in_its_copy(study, monkeypatch):
    for name in ("of a fresh store", "of a store that is there"):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
        open_store()
    assert address() == f"sqlite:///{study}/mlflow.db"
    made = mlflow.search_experiments()
    assert len(made) == 3
    assert {Path(experiment.artifact_location).parent for experiment in made} == {study / "mlruns"}


def test_the_note_of_a_run_that_is_killed_in_a_copy_is_left_in_the_study(study):
    note = Note()
    note.leave()
    assert len(list((study / ".topoflow/runs").iterdir())) == 1
    assert not (Path.cwd() / ".topoflow").exists()


@pytest.mark.parametrize("given", ["./runs", "runs", "file:runs", "file:./runs"])
def test_a_store_of_files_that_is_named_relative_to_the_study_is_that_of_the_study(study, given):
    assert absolute_uri(given) == f"file://{study}/runs"


@pytest.mark.parametrize(
    "given", ["https://a:b@example.org/x", "databricks", "databricks://p", "postgresql://h/d", "file:///x/y"]
)
def test_an_address_that_means_the_same_everywhere_stays_as_it_is(study, given):
    assert absolute_uri(given) == given


def test_more_tags_than_mlflow_takes_at_once_are_all_set_and_the_last_of_them_last(fresh_store, monkeypatch):
    asked = []
    ask = mlflow.MlflowClient.log_batch

    def log_batch(self, run_id, **batch):
        asked.append([tag.key for tag in batch["tags"]])
        return ask(self, run_id, **batch)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", log_batch)
    with mlflow.start_run() as run:
        pass
    tags = {f"topoflow.value.{number}": str(number) for number in range(250)} | {"mark": "whole"}
    set_tags(run.info.run_id, tags)
    assert mlflow.get_run(run.info.run_id).data.tags.items() >= tags.items()
    assert [len(some) for some in asked] == [100, 100, 51]
    assert asked[-1][-1] == "mark"
