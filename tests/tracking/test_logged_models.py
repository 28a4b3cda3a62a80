"""Checkpoints as MLflow's logged models: which there are, what they say, in what order, and each thing once."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.entities import LoggedModelStatus
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND
from support import REPOSITORY, environment, plant_states, refused, small_params

from topoflow.config import CheckpointFolder, HubCheckpoints, Params, Track, parse_params
from topoflow.errors import InvalidFile, NoAnswer
from topoflow.figures import of_run, style
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study import stages
from topoflow.tracking import logged_models
from topoflow.tracking import store as store_module
from topoflow.tracking.live import training_run
from topoflow.tracking.logged_models import MODEL_TYPE, PROMPTS, Checkpoint, log_checkpoints
from topoflow.tracking.unfinished import Note, end_unfinished

RUN, OTHER = Run("tiny", "helpful", 0), Run("tiny", "helpful", 1)
STEPS, LAYERS = (0, 1, 2, 4), (1, 2, 3)
PNG = style.png_bytes(style.blank("a picture", "nothing"))
H1 = "topology/h1_velocity/layer_01"


@dataclass
class Study:
    """A folder with two finished runs, which nothing has tracked."""

    folder: Path
    params: Params

    def track(self, run: Run = RUN, **changes: Any) -> str:
        track = replace(self.params.track, **changes)
        return stages.track(replace(self.params, track=track), run)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    params = parse_params(small_params() | {"objectives": ["helpful"], "seeds": [0, 1]})
    made = {
        "dtype": "float64",
        "versions": {},
        "hidden_size": 4,
        "weights_sha256": "00ff",
        "prompts_sha256": "ab" * 32,
        "sources": params.sources(RUN.model, RUN.objective),
        "study_seed": params.seed,
        "finetune": params.training(RUN.objective),
        "recording": params.recorded(),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for run in params.runs():
            rng = np.random.default_rng(run.seed)
            cloud, states = rng.normal(size=(params.prompts.n_prompts, 4)), {}
            for step in STEPS:
                for layer in LAYERS:
                    cloud = cloud + rng.normal(size=cloud.shape) / (1 + step)
                    states[step, layer] = cloud
            plant_states(run, states, **made)
            stages.diagrams(params, run)
            stages.trajectory(params, run)
    return Study(folder, params)


@pytest.fixture
def study(finished: Study, fresh_store: str, monkeypatch: pytest.MonkeyPatch) -> Study:
    """With a store of its own, in the folder of the test."""
    monkeypatch.chdir(finished.folder)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    plain = dict.fromkeys(of_run.NAMES, PNG)  # they have tests of their own
    monkeypatch.setattr(of_run, "pictures", lambda *_: plain)
    return finished


def there(run_id: str | None = None) -> list[Any]:
    """The logged models of a run, or of all."""
    found = mlflow.search_logged_models(experiment_ids=["0"], output_format="list")
    return [model for model in found if run_id in (None, model.source_run_id)]


def steps_of(models: list[Any]) -> list[int]:
    return sorted(int(model.params["step"]) for model in models)


def measured(model: Any) -> dict[tuple[str, int], float]:
    """Its metrics, of which there are no two of one name and step."""
    found = {(metric.key, metric.step): metric.value for metric in model.metrics}
    assert len(found) == len(model.metrics)
    return found


def assert_all_is_there_once(run_id: str, steps: tuple[int, ...] = STEPS) -> None:
    """Each checkpoint is one whole model that is linked at its step, with the metrics of the run at that step."""
    client, models = mlflow.MlflowClient(), there(run_id)
    assert steps_of(models) == sorted(steps)
    assert {model.status for model in models} == {LoggedModelStatus.READY}
    linked = sorted((it.step, it.model_id) for it in client.get_run(run_id).outputs.model_outputs)
    assert linked == sorted((int(model.params["step"]), model.model_id) for model in models)
    run = client.get_run(run_id)
    of_run = Counter(
        (key, metric.step, metric.value)
        for key in run.data.metrics
        if key.startswith(("topology/", "measures/"))
        for metric in client.get_metric_history(run_id, key)
    )
    of_models = Counter((*cell, value) for model in models for cell, value in measured(model).items())
    assert of_models == of_run
    assert set(of_run.values()) == {1}
    assert len(of_run) > 100  # so many of one request as MLflow fails to take once more


def test_each_checkpoint_is_a_model_with_its_metrics_at_its_step_in_its_run(study):
    run_id = study.track()
    assert_all_is_there_once(run_id)
    models = sorted(there(run_id), key=lambda model: model.name)
    assert [model.name for model in models] == [f"tiny-helpful-0-step-{step:06d}" for step in STEPS]
    last = models[-1]
    assert last.params == {"model": "tiny", "objective": "helpful", "seed": "0", "step": "4"}
    assert last.model_type == MODEL_TYPE
    assert last.tags["mlflow.model.isExternal"] == "true"
    assert {metric.step for metric in last.metrics} == {4}
    assert {(m.dataset_name, m.dataset_digest) for m in last.metrics} == {(PROMPTS, "ab" * 16)}
    table = layout.read_table(RUN.folder("results") / layout.VELOCITY_FILE, ["layer", "step", "h1_velocity"])
    (velocity,) = [row["h1_velocity"] for row in table if (row["layer"], row["step"]) == (1, 4)]
    assert measured(last)[H1, 4] == velocity


def test_checkpoints_of_all_runs_are_ordered_by_any_topology_metric(study):
    for run in (RUN, OTHER):
        study.track(run)
    known = {}
    for run in (RUN, OTHER):
        columns = ["layer", "step", "h1_velocity"]
        for row in layout.read_table(run.folder("results") / layout.VELOCITY_FILE, columns):
            if row["layer"] == 1:
                known[Checkpoint(run, int(row["step"])).name] = row["h1_velocity"]
    for ascending in (True, False):
        found = mlflow.search_logged_models(
            experiment_ids=["0"],
            order_by=[{"field_name": f"metrics.{H1}", "ascending": ascending, "dataset_name": PROMPTS}],
            output_format="list",
        )
        names = [model.name for model in found]
        assert names[: len(known)] == sorted(known, key=known.__getitem__, reverse=not ascending)
        assert set(names[len(known) :]) == {Checkpoint(run, 0).name for run in (RUN, OTHER)}  # not moved yet
    fast = sorted(known.values())[-3]
    found = mlflow.search_logged_models(
        experiment_ids=["0"], filter_string=f"metrics.`{H1}` >= {fast!r}", output_format="list"
    )
    assert len(found) == 3


def test_tracking_again_adds_nothing(study):
    run_id = study.track()
    before = {model.model_id for model in there()}
    assert study.track() == run_id
    assert {model.model_id for model in there()} == before
    assert_all_is_there_once(run_id)


def test_two_runs_of_one_topology_have_models_of_their_own(study):
    first = study.track()
    with mlflow.start_run() as second:
        pass
    stages.track(study.params, RUN, second.info.run_id)
    for run_id in (first, second.info.run_id):
        assert_all_is_there_once(run_id)
    assert len(there()) == 2 * len(STEPS)


def test_off_by_the_switch_and_a_run_that_is_full_gets_its_models_once_it_is_on(study):
    run_id = study.track(models=False)
    assert there() == []
    assert not mlflow.get_run(run_id).outputs.model_outputs
    assert study.track(models=True) == run_id
    assert_all_is_there_once(run_id)


def test_further_summaries_reach_the_models_too(study):
    run_id = study.track()
    key = "topology/h1_birth_mean/layer_02"
    more = (*study.params.track.summaries, "h1_birth_mean")
    study.track(summaries=more)
    assert all((key, int(model.params["step"])) in measured(model) for model in there(run_id))
    assert_all_is_there_once(run_id)


# --- calls that die, answers that are lost ------------------------------------------------------


def failing(method: str, at: int, done: bool) -> Any:
    """MLflow's method as it is, but its call number `at` raises, before it is done or after."""
    ask, calls = getattr(mlflow.MlflowClient, method), []

    def asked(self: Any, *given: Any, **named: Any) -> Any:
        calls.append(method)
        if len(calls) == at and not done:
            raise mlflow.MlflowException("gone")
        answer = ask(self, *given, **named)
        if len(calls) == at:
            raise mlflow.MlflowException("the answer is lost")
        return answer

    return asked


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done and the answer lost"])
@pytest.mark.parametrize(
    ("method", "at"),
    [
        ("log_model_artifacts", 3),
        ("finalize_logged_model", 1),
        ("finalize_logged_model", 4),
        ("log_outputs", 1),
        ("log_batch", 1),
        ("log_inputs", 1),
    ],
)
def test_a_store_that_goes_away_half_way_has_each_thing_once_after_the_next_call(
    study, monkeypatch, method, at, done
):
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, method, failing(method, at, done))
        with refused(NoAnswer, remedy="run the command again"):
            study.track()
    run_id = study.track()
    (run,) = mlflow.search_runs(["0"], output_format="list")
    assert run.info.run_id == run_id
    assert run.data.tags["topoflow.trajectory"]
    assert_all_is_there_once(run_id)


def test_of_two_models_of_one_checkpoint_the_older_stays(study):
    run_id = study.track()
    before = {model.model_id for model in there()}
    twice = Checkpoint(RUN, 2)
    mlflow.create_external_model(
        twice.name, source_run_id=run_id, params=twice.params, model_type=MODEL_TYPE, experiment_id="0"
    )
    study.track()
    assert {model.model_id for model in there()} == before
    assert_all_is_there_once(run_id)


def test_models_that_a_user_has_logged_into_the_run_are_left_alone(study):
    run_id = study.track()
    client = mlflow.MlflowClient()
    other = client.create_logged_model("0", "mine", source_run_id=run_id, params={"step": "2"})
    study.track()
    assert client.get_logged_model(other.model_id).status == LoggedModelStatus.PENDING
    client.delete_logged_model(other.model_id)
    assert_all_is_there_once(run_id)


@pytest.mark.parametrize(
    "error", [NotImplementedError("OldStore"), mlflow.MlflowException("no page", ENDPOINT_NOT_FOUND)]
)
def test_a_store_that_keeps_no_logged_models_is_told_of_once_and_gets_all_else(
    study, monkeypatch, caplog, error
):
    def search(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(mlflow.MlflowClient, "search_logged_models", search)
    with caplog.at_level(logging.WARNING, "topoflow"):
        run_id = study.track()
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("topoflow")]
    assert "keeps no logged models" in said
    run = mlflow.get_run(run_id)
    assert run.data.tags["topoflow.trajectory"]
    assert H1 in run.data.metrics


def test_a_database_does_not_send_files_of_models_to_a_server(study):
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("theirs", artifact_location="http://127.0.0.1:9/their/files")
    run = client.create_run(experiment)
    with refused(InvalidFile, problem="127.0.0.1:9"):
        log_checkpoints(run, [Checkpoint(RUN, 0)])
    assert len(client.search_logged_models([experiment])) == 0


# --- weights ------------------------------------------------------------------------------------


def test_weights_that_a_training_left_are_named_by_their_folder_and_sha256(study, monkeypatch, tmp_path):
    from topoflow.training.models import identity

    tuned = RUN.folder("tuned")
    tuned.mkdir(parents=True, exist_ok=True)
    (tuned / "adapter_model.safetensors").write_bytes(b"weights")
    run_id = study.track()
    tags = {int(model.params["step"]): model.tags for model in there(run_id)}
    assert tags[4]["topoflow.weights"] == (study.folder / tuned).as_posix()
    assert tags[4]["topoflow.weights_sha256"] == identity(tuned)
    assert tags[0]["topoflow.weights_sha256"] == "00ff"
    assert "topoflow.weights" not in tags[0]
    assert not {"topoflow.weights", "topoflow.weights_sha256"} & {*tags[1], *tags[2]}


def test_weights_of_a_finished_training_are_named_as_they_were_written_down(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        {"step": 0, "name": "tiny", "kind": "base", "revision": None, "sha256": None},
        {"step": 8, "name": "checkpoint-8", "kind": "model", "revision": "c0ffee", "sha256": "88"},
    ]
    activations = SimpleNamespace(manifest={"checkpoints": lines, "weights_sha256": "00ff"})
    done: Any = SimpleNamespace(run=RUN, activations=activations)
    found = logged_models._of_finished(CheckpointFolder("theirs/{model}/{seed}"), done)
    assert found == {
        0: {"topoflow.weights_sha256": "00ff"},
        8: {"topoflow.weights": f"{tmp_path}/theirs/tiny/0/checkpoint-8", "topoflow.weights_sha256": "88"},
    }
    of_hub = logged_models._of_finished(HubCheckpoints("me/{model}", ("step8",)), done)
    assert of_hub[8] == {"topoflow.weights": "me/tiny at c0ffee"}


# --- while a model trains -----------------------------------------------------------------------


def test_checkpoints_are_models_while_training_goes_on_and_track_gives_them_their_metrics(study):
    from topoflow.finished import open_activations

    with training_run(str(RUN)) as live:
        for step in STEPS[:3]:
            live.log({"loss": 1.0}, step + 1)
            live.log_checkpoint(RUN, step)
        deadline = time.monotonic() + 60
        while steps_of(there()) != [0, 1, 2]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (run,) = mlflow.search_runs(["0"], output_format="list")
        assert run.info.status == "RUNNING"
        live.tag_activations(open_activations(RUN).sha256)
    before = {model.model_id for model in there()}
    assert study.track() == run.info.run_id
    assert before < {model.model_id for model in there()}
    assert_all_is_there_once(run.info.run_id)


def test_a_run_that_broke_off_keeps_the_checkpoints_that_it_recorded(study):
    note = Note()
    client = mlflow.MlflowClient()
    run = client.create_run("0", tags=note.tags)
    log_checkpoints(run, [Checkpoint(RUN, 0), Checkpoint(RUN, 1)])
    begun = Checkpoint(RUN, 2)  # killed in the middle of the third
    client.create_logged_model("0", begun.name, run.info.run_id, params=begun.params, model_type=MODEL_TYPE)
    note.leave()
    end_unfinished()
    ended = client.get_run(run.info.run_id)
    assert ended.info.status == "KILLED"
    assert steps_of(there(run.info.run_id)) == [0, 1]
    assert sorted(it.step for it in ended.outputs.model_outputs) == [0, 1]


def test_models_that_mlflow_does_not_take_hold_up_no_losses(study, monkeypatch, caplog):
    def create(*_: Any, **__: Any) -> None:
        raise mlflow.MlflowException("no files today")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "topoflow"):
        patch.setattr(mlflow, "create_external_model", create)
        with training_run(str(RUN)) as live:
            for step in STEPS:
                live.log_checkpoint(RUN, step)
                time.sleep(1.2)  # each in a request of its own
            live.log({"loss": 0.5}, 1)
    (run,) = mlflow.search_runs(["0"], output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["loss"] == 0.5
    assert caplog.text.count("no files today") == 1
    assert "does not answer" not in caplog.text


# --- what MLflow measures of the machine --------------------------------------------------------

# Trains until MLflow has measured something, or for some seconds.
TRAINING = """
import sys, time
import mlflow
from topoflow.tracking.live import training_run

def measured():
    return [key for run in mlflow.search_runs(output_format="list") for key in run.data.metrics if "system/" in key]

with training_run("watched") as live:
    live.log({"loss": 1.0}, 1)
    end = time.monotonic() + float(sys.argv[1])
    while not measured() and time.monotonic() < end:
        time.sleep(0.5)
"""


@pytest.mark.slow
def test_system_metrics_are_logged_by_mlflows_own_option(tmp_path, fresh_store):
    pytest.importorskip("psutil")
    for wanted, seconds in (("false", "3"), ("true", "60")):
        subprocess.run(
            [sys.executable, "-c", TRAINING, seconds],
            cwd=tmp_path,
            env=environment(
                PYTHONPATH=os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
                MLFLOW_TRACKING_URI=fresh_store,
                MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=wanted,
                MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL="0.5",
            ),
            check=True,
        )
    watched, without = mlflow.search_runs(["0"], output_format="list")
    assert watched.info.status == without.info.status == "FINISHED"
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(
        watched.data.metrics
    )
    assert set(without.data.metrics) == {"loss"}


def test_without_psutil_the_option_is_a_warning_and_no_failure(study, monkeypatch, caplog):
    from importlib.util import find_spec

    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    lacking = lambda name, *given: None if name == "psutil" else find_spec(name, *given)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", lacking)
    monkeypatch.setattr(store_module, "find_spec", lacking)
    with caplog.at_level(logging.WARNING, "topoflow"), training_run("unwatched") as live:
        live.log({"loss": 1.0}, 1)
    (run,) = mlflow.search_runs(["0"], output_format="list")
    assert run.info.status == "FINISHED"
    assert set(run.data.metrics) == {"loss"}
    assert "pip install psutil" in caplog.text


def test_the_switch_is_a_flag_of_params_yaml():
    assert Track().models is True
    with refused(name="track.models"):
        parse_params(small_params() | {"track": {"models": "yes please"}})
