"""Checkpoints as MLflow 3 has them: a LoggedModel each, linked to its run at its step. Weights stay where they are.

A training has them made while it records, so that a run that breaks off has its own; `topoflow track` makes those
that are missing, and logs the metrics of all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topoflow.storage.layout import Run
from topoflow.tracking.store import Row, address, check_destination, every, lacking, lasting, served

if TYPE_CHECKING:
    from topoflow.config import CheckpointSource, Params
    from topoflow.finished import FinishedRun

logger = logging.getLogger(__name__)

MODEL_TYPE = "topoflow checkpoint"
WEIGHTS_TAG, SHA256_TAG = "topoflow.weights", "topoflow.weights_sha256"
PROMPTS = "prompts"  # as short as it is, MLflow shows the name of a metric beside it
# What MLflow's clients raise where a store, or the server of an older MLflow, keeps no logged models.
_KNOWS_NONE = ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a run, before anything is known of its weights."""

    run: Run
    step: int

    @property
    def name(self) -> str:
        """What MLflow calls it.

        >>> Checkpoint(Run("tiny", "helpful", 0), 16).name
        'tiny-helpful-0-step-000016'
        """
        return f"{self.run}-step-{self.step:06d}"

    @property
    def params(self) -> dict[str, str]:
        """Its columns on MLflow's page of models."""
        run = self.run
        return {"model": run.model, "objective": run.objective, "seed": str(run.seed), "step": str(self.step)}


def log_checkpoints(logged: Any, checkpoints: Iterable[Checkpoint]) -> dict[int, Any]:
    """The logged models of checkpoints by their steps: made where they are missing, and linked to their MLflow run.

    A model that an earlier call began and did not finish is made again. Of two models of one step, as after a lost
    answer, the older one stays.

    Parameters
    ----------
    logged : mlflow.entities.Run
    checkpoints : iterable of Checkpoint
        Of one run.

    Returns
    -------
    dict of int to mlflow.entities.LoggedModel
        Empty, after a warning, where the store keeps no logged models.

    Raises
    ------
    InvalidFile, mlflow.MlflowException
        When the store sends files to a server that it is not; when MLflow refuses.
    """
    import mlflow
    from mlflow.entities import LoggedModelOutput

    client, run_id = mlflow.MlflowClient(), logged.info.run_id
    there = _there(client, logged)
    if there is None:
        logger.warning("MLflow at %s keeps no logged models: checkpoints are not among them", address())
        return {}
    wanted = {checkpoint.step: checkpoint for checkpoint in checkpoints}
    held = _one_each(client, there)
    before = {model.model_id for model in held.values()}
    if missing := [wanted[step] for step in sorted(set(wanted) - set(held))]:
        experiment = str(logged.info.experiment_id)
        if not served():
            place = client.get_experiment(experiment).artifact_location
            check_destination(place, f"experiment {experiment}")
        for checkpoint in missing:
            held[checkpoint.step] = mlflow.create_external_model(
                checkpoint.name,
                source_run_id=run_id,
                params=checkpoint.params,
                model_type=MODEL_TYPE,
                experiment_id=experiment,
            )
        held |= _one_each(client, _there(client, logged) or [])
    outputs = client.get_run(run_id).outputs if before else None
    linked = {output.model_id for output in outputs.model_outputs} if outputs else set()
    ours = {step: held[step] for step in wanted}
    if new := [(step, model.model_id) for step, model in ours.items() if model.model_id not in linked]:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step) for step, model_id in new])
    return ours


def _there(client: Any, logged: Any) -> list[Any] | None:
    """The checkpoints among the logged models of an MLflow run; None where the store knows no logged models."""
    from mlflow import MlflowException

    among, query = [str(logged.info.experiment_id)], f"source_run_id = '{logged.info.run_id}'"
    try:
        found = every(lambda token: client.search_logged_models(among, query, page_token=token))
    except NotImplementedError:
        return None
    except MlflowException as error:
        if error.error_code in _KNOWS_NONE:
            return None
        raise
    return [
        model
        for model in found
        if model.model_type == MODEL_TYPE and model.params.get("step", "").isdecimal()
    ]


def _one_each(client: Any, models: Iterable[Any]) -> dict[int, Any]:
    """The oldest whole model of each step; the others are deleted."""
    from mlflow.entities import LoggedModelStatus

    kept: dict[int, Any] = {}
    for model in sorted(models, key=lambda model: (model.creation_timestamp, model.model_id)):
        step = int(model.params["step"])
        if step in kept or model.status != LoggedModelStatus.READY:
            client.delete_logged_model(model.model_id)
        else:
            kept[step] = model
    return kept


def delete_unfinished(client: Any, logged: Any) -> None:
    """Delete the checkpoint that a process had begun to log when it ended: nothing else would ever finish it."""
    _one_each(client, _there(client, logged) or [])


def with_models(
    rows: Iterable[tuple[str, float, int]], models: Mapping[int, Any], prompts_sha256: str
) -> Iterator[Row]:
    """Metrics, each with the model and the prompts that it was measured on, unless that model has it already."""
    held = {step: {metric.key for metric in model.metrics or ()} for step, model in models.items()}
    for key, value, step in rows:
        if step in models and key not in held[step]:
            yield key, value, step, models[step].model_id, PROMPTS, prompts_sha256[:32]
        else:
            yield key, value, step


def say_where_weights_are(models: Mapping[int, Any], params: Params, done: FinishedRun) -> None:
    """Tag the models whose weights are kept with the folder, or the repository of the Hub, and with their SHA-256."""
    from mlflow import MlflowClient

    client, source = MlflowClient(), params.checkpoints(done.run.objective)
    found = _left_by_training(done, models) if source is None else _of_finished(source, done)
    for step, tags in found.items():
        if step in models and (new := lacking(tags, models[step].tags)):
            client.set_logged_model_tags(models[step].model_id, new)


def _left_by_training(done: FinishedRun, models: Mapping[int, Any]) -> dict[int, dict[str, str]]:
    """Tags, by step, of the model that a training began with and of the one that it ended with."""
    found, steps = {}, done.activations.steps
    if steps[0] == 0:
        found[0] = {SHA256_TAG: str(done.activations.manifest["weights_sha256"])}
    last, tuned = models.get(steps[-1]), done.run.folder("tuned")
    unknown = last is not None and SHA256_TAG not in last.tags  # large weights take time
    if unknown and any(tuned.glob("*.safetensors")):
        from topoflow.training.models import identity

        found[steps[-1]] = {WEIGHTS_TAG: lasting(tuned.resolve()).as_posix(), SHA256_TAG: identity(tuned)}
    return found


def _of_finished(source: CheckpointSource, done: FinishedRun) -> dict[int, dict[str, str]]:
    """Tags, by step, of the checkpoints of a finished training, from what was written down when it was recorded."""
    from topoflow.config import HubCheckpoints

    manifest, found = done.activations.manifest, {}
    place = source.id if isinstance(source, HubCheckpoints) else source.path
    place = place.replace("{model}", done.run.model).replace("{seed}", str(done.run.seed))
    for line in manifest.get("checkpoints", []):
        if line["kind"] == "base":
            found[line["step"]] = {SHA256_TAG: str(manifest["weights_sha256"])}
        elif isinstance(source, HubCheckpoints):
            found[line["step"]] = {WEIGHTS_TAG: f"{place} at {line['revision']}"}
        else:
            folder = lasting((Path(place) / line["name"]).resolve())
            found[line["step"]] = {WEIGHTS_TAG: folder.as_posix(), SHA256_TAG: line["sha256"]}
    return found
