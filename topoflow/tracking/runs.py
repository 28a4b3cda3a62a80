"""One MLflow run a fine-tuning: the training logs into it live, the topology is added when it is known.

The activation set's SHA-256 is the thread between the processes: training tags its run with it, and
`log_topology` finds the run by that tag. No run id stands in any file that DVC versions.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import yaml

from topoflow import layout, storage
from topoflow.config import Params
from topoflow.dynamics.verdicts import TABLE
from topoflow.layout import Run
from topoflow.topology.persistence import choose_engine
from topoflow.tracking.note import DEFINITIONS, write_comparison_note, write_note

logger = logging.getLogger(__name__)

ACTIVATIONS_TAG = "topoflow.activations"
TRAJECTORY_TAG = "topoflow.trajectory"
COMPARISON_TAG = "topoflow.comparison"
NOTE_TAG = "mlflow.note.content"
# MLflow takes at most this many metrics in one request
_BATCH = 1000
# rows of a picture of Betti curves
_N_DISTANCES = 256


@dataclass(frozen=True)
class TrackedRun:
    """An MLflow run that training logs into."""

    run_id: str

    def tag_activations(self, sha256: str) -> None:
        """Say which activation set the training left, once it is whole."""
        import mlflow

        mlflow.MlflowClient().set_tag(self.run_id, ACTIVATIONS_TAG, sha256)


@contextmanager
def training_run(name: str) -> Iterator[TrackedRun]:
    """Join the run of `MLFLOW_RUN_ID` (as under `mlflow run`), or start one called `name`.

    A joined run belongs to the process that started it: it is left running here, also after an error.
    """
    import mlflow

    joined = os.environ.get("MLFLOW_RUN_ID")
    mlflow.search_experiments(max_results=1)  # creates a fresh store's tables before anything is at stake
    try:
        # a bare start_run joins the run of the environment and removes it there: with run_id= it would stay,
        # and Hugging Face's callback would try to start the run again
        with mlflow.start_run(run_name=None if joined else name) as run:
            yield TrackedRun(run.info.run_id)
    finally:
        if joined:
            mlflow.MlflowClient().update_run(joined, status="RUNNING")


def log_topology(params: Params, run: Run, run_id: str | None = None) -> str:
    """Add the topology of one fine-tuning to its MLflow run.

    Parameters
    ----------
    params : Params
        The study.
    run : Run
        Which run of it.
    run_id : str, optional
        The MLflow run to fill. Without it, the newest run with the same activation set that ended well and has
        no topology yet; else one that holds this very topology, which then gets the metrics it lacks (as after a
        change of `track.summaries`); else a new run.

    Returns
    -------
    str
        The id of the run that holds the topology.
    """
    import mlflow

    client = mlflow.MlflowClient()
    done = _Done.open(run)
    done.check_parameters(params)
    started_here = False
    if run_id is None:
        run_id, full = _find_run(client, done.activations.sha256, done.sha256)
        if run_id is not None and full:
            _log_metrics(client, run_id, _topology_metrics(params, done.results), lacking=True)
            return run_id
        if run_id is None:
            run_id = str(client.create_run(_experiment_id(), run_name=str(run)).info.run_id)
            started_here = True
    logged = client.get_run(run_id).data
    _log_params(client, run_id, params, done, logged.params)
    if ACTIVATIONS_TAG not in logged.tags:
        # the activations were restored by DVC: this run has not seen the training, so it is replayed
        _log_metrics(client, run_id, _loss_metrics(done.results / layout.LOSS_FILE))
    _log_metrics(client, run_id, _topology_metrics(params, done.results))
    _log_dataset(client, run_id, done.activations)
    with tempfile.TemporaryDirectory() as folder:
        note = _write_artifacts(Path(folder), params, done)
        client.log_artifacts(run_id, folder, "topology")
    for key, value in {**_tags(done), NOTE_TAG: note}.items():
        client.set_tag(run_id, key, value)
    if started_here:
        client.set_terminated(run_id)
    return run_id


@dataclass(frozen=True)
class _Done:
    """What the stages have left of one run: two verified sets and the folder of results."""

    run: Run
    activations: storage.StoredSet
    diagrams: storage.StoredSet
    results: Path

    @classmethod
    def open(cls, run: Run) -> _Done:
        return cls(
            run,
            storage.open_set(run.folder("activations"), storage.ACTIVATIONS),
            storage.open_set(run.folder("diagrams"), storage.DIAGRAMS),
            run.folder("results"),
        )

    @property
    def sha256(self) -> str:
        """Identifies the topology: the diagrams and what was made of them."""
        findings = (self.results / layout.TRAJECTORY_FILE).read_bytes()
        return storage.sha256(self.diagrams.sha256.encode() + findings)

    def check_parameters(self, params: Params) -> None:
        """Refuse to log parameters that are not those of the results: what is recorded is what ran."""
        found = layout.read_json(self.results / layout.TRAJECTORY_FILE)
        made = {**self.diagrams.manifest, **self.activations.manifest, "order": found["order"]}
        topology = params.topology
        wanted = {
            "sources": params.sources(self.run.model, self.run.objective),
            "study_seed": params.seed,
            "seed": self.run.seed,
            "finetune": asdict(params.finetune),
            "recording": asdict(params.recording),
            "n_subsamples": topology.n_subsamples,
            "subsample_size": topology.subsample_size,
            "maxdim": topology.maxdim,
            "engine": choose_engine(topology.engine, topology.maxdim),
            "order": params.trajectory.order,
        }
        for key, value in json.loads(storage.json_bytes(wanted)).items():
            if made[key] != value:
                raise ValueError(
                    f"params.yaml says {key} = {value}, and the results of {self.run} were "
                    f"made with {made[key]}; bring them up to date with: dvc repro"
                )
        self.diagrams.check_made_from(self.activations)
        if found["diagrams"] != self.diagrams.sha256:
            raise ValueError(
                f"{self.results} was made from another {self.diagrams.folder} (SHA-256 {found['diagrams'][:12]}) than "
                f"the one there now ({self.diagrams.sha256[:12]}); bring it up to date with: dvc repro"
            )


class _Drawable(Protocol):
    """What the pictures of a run are drawn from."""

    @property
    def run(self) -> Run: ...

    @property
    def diagrams(self) -> storage.StoredSet: ...

    @property
    def results(self) -> Path: ...


def locate_run(run_id: str) -> tuple[Run, Path]:
    """The run of a study that an MLflow run holds, and the folder of that study on this machine.

    Raises
    ------
    ValueError
        When there is no such MLflow run, topoflow has not filled it, or its sets are not where they were.
    """
    import mlflow

    try:
        logged = mlflow.MlflowClient().get_run(run_id)
    except mlflow.MlflowException as error:
        raise ValueError(
            f"run id must be that of a run in {mlflow.get_tracking_uri()}: {error.message}"
        ) from None
    tags = logged.data.tags
    if TRAJECTORY_TAG not in tags:
        raise ValueError(
            f"run {run_id} must hold the topology of a fine-tuning, and it has no tag {TRAJECTORY_TAG}"
        )
    run = Run(tags["topoflow.model"], tags["topoflow.objective"], int(tags["topoflow.seed"]))
    datasets = logged.inputs.dataset_inputs if logged.inputs else []
    digest = tags[ACTIVATIONS_TAG][:32]
    sources = [json.loads(used.dataset.source)["uri"] for used in datasets if used.dataset.digest == digest]
    root = Path(sources[0]).parents[len(run.folder("activations").parts) - 1]
    found = root / run.folder("diagrams") / storage.MANIFEST
    if not found.is_file() or storage.sha256_of_file(found) != tags["topoflow.diagrams"]:
        raise ValueError(
            f"run {run_id} ({run}) was made from the diagrams {tags['topoflow.diagrams'][:12]} in "
            f"{root / run.folder('diagrams')}, and they are not there; bring them back with: dvc checkout"
        )
    return run, root


def log_comparison(folder: Path, facts: Mapping[str, Any]) -> str:
    """Log a comparison as an MLflow run of its own, once; returns the run's id."""
    import mlflow

    mlflow.search_experiments(max_results=1)  # a fresh store is set up by one process alone
    client = mlflow.MlflowClient()
    digest = storage.sha256(storage.json_bytes(facts))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    if there := client.search_runs(experiments, f"tags.`{COMPARISON_TAG}` = '{digest}'"):
        return str(there[0].info.run_id)
    run_id = str(client.create_run(_experiment_id(), run_name="comparison").info.run_id)
    _log_metrics(client, run_id, _claim_metrics(facts["claims"], 0))
    client.log_artifacts(run_id, str(folder), "comparison")
    client.set_tag(run_id, NOTE_TAG, write_comparison_note(facts))
    client.set_tag(run_id, COMPARISON_TAG, digest)
    client.set_terminated(run_id)
    return run_id


def _find_run(client: Any, activations: str, trajectory: str) -> tuple[str | None, bool]:
    """The run to fill and whether it is full already; a failed or killed run is left as it is."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"tags.`{ACTIVATIONS_TAG}` = '{activations}'"
    runs = client.search_runs(experiments, query, order_by=["attributes.start_time DESC"])
    for run in runs:  # each training that ended well gets its topology, also one that repeats another
        if TRAJECTORY_TAG not in run.data.tags and run.info.status in ("FINISHED", "RUNNING"):
            return run.info.run_id, False
    for run in runs:
        if run.data.tags.get(TRAJECTORY_TAG) == trajectory:
            return run.info.run_id, True
    return None, False


def _experiment_id() -> str:
    """The experiment that a bare `mlflow.start_run()` would use."""
    from mlflow.tracking.fluent import _get_experiment_id

    return str(_get_experiment_id())


# --- parameters and tags ------------------------------------------------------------------------


def _log_params(client: Any, run_id: str, params: Params, done: _Done, present: Mapping[str, str]) -> None:
    """Every parameter that decided this run, as `section.key`."""
    from mlflow.entities import Param

    sections = asdict(params)
    chosen = {
        "model": done.run.model,
        "objective": done.run.objective,
        "seed": done.run.seed,
        "study_seed": params.seed,
        **_flat("model_source", sections["model"][done.run.model]),
        **_flat("text", sections["objective"][done.run.objective]),
    }
    for section in ("prompts", "prepare", "finetune", "recording", "topology", "trajectory"):
        chosen.update(_flat(section, sections[section]))
    wanted = {key: str(value)[:6000] for key, value in chosen.items()}
    for key, value in wanted.items():
        if present.get(key, value) != value:
            raise ValueError(
                f"run {run_id} has the parameter {key}={present[key]}, and {key}={value} is what ran"
            )
    client.log_batch(run_id, params=[Param(k, v) for k, v in wanted.items() if k not in present])


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: inner for name in value for key, inner in _flat(f"{prefix}.{name}", value[name]).items()}


def _tags(done: _Done) -> dict[str, str]:
    manifest = done.activations.manifest
    tags = {
        "topoflow.model": done.run.model,
        "topoflow.objective": done.run.objective,
        "topoflow.seed": str(done.run.seed),
        "topoflow.weights_sha256": manifest["weights_sha256"],
        "topoflow.prompts_sha256": manifest["prompts_sha256"],
        ACTIVATIONS_TAG: done.activations.sha256,
        "topoflow.diagrams": done.diagrams.sha256,
        TRAJECTORY_TAG: done.sha256,
    }
    if commit := git_commit():
        tags["topoflow.git_commit"] = commit
    if revision := _dvc_revision(done.activations.folder):
        tags["topoflow.dvc_activations_md5"] = revision
    return tags


def git_commit() -> str | None:
    """The commit of the study's folder, with `+changes` where the tree differs from it."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def _dvc_revision(folder: Path) -> str | None:
    """The hash under which dvc.lock has a folder, and a remote would hold it."""
    try:
        lock = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    for stage in lock.get("stages", {}).values():
        for out in stage.get("outs", []):
            if out["path"] == folder.as_posix():
                return str(out["md5"])
    return None


# --- metrics ------------------------------------------------------------------------------------

_Metric = tuple[str, float, int]


def _topology_metrics(params: Params, results: Path) -> Iterator[_Metric]:
    """(key, value, optimiser step). Keys end in the layer, so that MLflow draws one section a quantity."""
    for row in layout.read_table(results / layout.VELOCITY_FILE):
        layer, step = f"layer_{int(row['layer']):02d}", int(row["step"])
        for name in ("h1_velocity", "h0_velocity", "h1_displacement", "h0_displacement"):
            yield f"topology/{name}/{layer}", row[name], step
    summaries = layout.read_table(results / layout.SUMMARIES_FILE)
    for row in summaries:
        layer, step = f"layer_{int(row['layer']):02d}", int(row["step"])
        for name in params.track.summaries:
            yield f"topology/{name}/{layer}", row[name], step
    facts = layout.read_json(results / layout.TRAJECTORY_FILE)
    last_step = max(int(row["step"]) for row in summaries)
    for layer, findings in facts["layers"].items():
        for name, value in findings.items():
            if value is not None:
                yield f"trajectory/{name}/{layer}", value, last_step
    yield from _claim_metrics(facts["claims"], last_step)
    for row in layout.read_table(results / layout.BEHAVIOUR_FILE):
        for name in ("velocity", "displacement"):
            yield f"behaviour/{name}", row[name], int(row["step"])


def _claim_metrics(claims: Mapping[str, Mapping[str, Any]], step: int) -> Iterator[_Metric]:
    for claim, found in claims.items():
        for name in ("value", "low", "high", "p"):
            if found[name] is not None:
                yield f"claims/{claim}/{name}", found[name], step


def _loss_metrics(path: Path) -> Iterator[_Metric]:
    """The training's own metrics under the names that Hugging Face's MLflow callback gives them."""
    for row in layout.read_table(path):
        for name, value in row.items():
            if name != "step":
                yield name, value, int(row["step"])


def _log_metrics(client: Any, run_id: str, metrics: Iterator[_Metric], lacking: bool = False) -> None:
    """Log in few requests; with `lacking`, only metrics of which the run has no value at all."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    present = client.get_run(run_id).data.metrics if lacking else {}
    # a missing value is no metric: neither 0 nor NaN
    entities = [
        Metric(key, value, now, step)
        for key, value, step in metrics
        if key not in present and math.isfinite(value)
    ]
    for start in range(0, len(entities), _BATCH):
        client.log_batch(run_id, metrics=entities[start : start + _BATCH])


# --- dataset and artifacts ----------------------------------------------------------------------


def _log_dataset(client: Any, run_id: str, activations: storage.StoredSet) -> None:
    """The activation set as a dataset input of the run."""
    from mlflow.entities import DatasetInput, InputTag

    from topoflow.tracking.dataset import dataset_of

    dataset = dataset_of(activations)._to_mlflow_entity()
    tags = [InputTag("mlflow.data.context", "topology")]
    client.log_inputs(run_id, [DatasetInput(dataset, tags)])


def _write_artifacts(folder: Path, params: Params, done: _Done) -> str:
    """Pictures, tables, definitions and the note, into a folder; returns the note."""
    for path in sorted(done.results.iterdir()):
        (folder / path.name).write_bytes(path.read_bytes())
    for name, picture in _pictures(params, done).items():
        (folder / name).write_bytes(picture)
    (folder / "definitions.json").write_bytes(storage.json_bytes(DEFINITIONS))
    findings = layout.read_json(done.results / layout.TRAJECTORY_FILE)
    layout.write_table(folder / "verdicts.csv", TABLE, _in_order(findings["claims"]))
    note = write_note(findings, done.activations.manifest, done.diagrams.manifest)
    (folder / "note.md").write_text(note, encoding="utf-8")
    return note


def _in_order(claims: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    return [[claim[name] for name in TABLE] for claim in claims.values()]


def _pictures(params: Params, done: _Drawable) -> dict[str, bytes]:
    from topoflow.tracking import checkpoint_figures, evolution_figures, figures, persistence_figures, style

    order, title, results, stored = (
        params.trajectory.order,
        f"{done.run.model}, {done.run.objective}, seed {done.run.seed}",
        done.results,
        done.diagrams,
    )
    steps, velocity = layout.read_velocity(results / layout.VELOCITY_FILE, "h1_velocity")
    _, spread = layout.read_velocity(results / layout.VELOCITY_FILE, "h1_velocity_std")
    ends = [
        layout.read_velocity(results / layout.VELOCITY_FILE, f"h1_velocity_{end}")[1]
        for end in ("low", "high")
    ]
    bands = {layer: (ends[0][layer], ends[1][layer]) for layer in velocity}
    found = layout.read_json(results / layout.TRAJECTORY_FILE)["layers"]
    floors = {
        int(key.removeprefix("layer_")): float(numbers["h1_sampling_floor"])
        for key, numbers in found.items()
        if numbers["h1_sampling_floor"] is not None
    }
    loss = layout.read_table(results / layout.LOSS_FILE)
    losses = (np.array([row["step"] for row in loss]), np.array([row["loss"] for row in loss], float))
    answers = layout.read_table(results / layout.BEHAVIOUR_FILE)  # empty where behaviour was not recorded
    behaviour = (steps, np.array([row["velocity"] for row in answers], float)) if answers else None
    layers = list(velocity)
    rows = layout.read_table(results / layout.DISTANCES_FILE)
    distances = {layer: np.zeros((len(steps), len(steps))) for layer in layers}
    places = {int(step): at for at, step in enumerate(steps)}
    for row in rows:
        pair = places[int(row["step"])], places[int(row["other_step"])]
        for i, j in (pair, pair[::-1]):
            distances[int(row["layer"])][i, j] = row["h1_distance"]
    rows = layout.read_table(results / layout.CONTROLS_FILE)  # of each layer the first step, then the last
    controls = {
        name: {
            kind: np.array([row[f"{kind}_{name}"] for row in rows]).reshape(-1, 2)
            for kind in ("recorded", "matched", "isotropic")
        }
        for name in layout.CONTROL_SUMMARIES
    }
    # the layer that moves most shows best what moving means
    busiest = max(layers, key=lambda layer: float(velocity[layer].sum()))
    peak = int(steps[1 + int(np.argmax(velocity[busiest]))])
    panels = [
        (f"{name}, step {step}", stored.diagrams(step, busiest)[0])
        for name, step in (("first", int(steps[0])), ("peak", peak), ("last", int(steps[-1])))
    ]
    shown = f"{title}: layer {busiest}, one subsample of {stored.manifest['subsample_size']} prompts"
    drawn = {
        "velocity.png": figures.velocity_figure(
            steps,
            velocity,
            spread,
            order=order,
            title=f"H1 velocity, {title}",
            bands=bands,
            floors=floors,
            behaviour=behaviour,
            loss=losses,
        ),
        "heatmap.png": figures.heatmap_figure(
            steps,
            layers,
            np.array([velocity[layer] for layer in layers]),
            label=f"H1 velocity (order-{order:g} Wasserstein, Euclidean ground; filtration distance)",
            title=f"H1 velocity by layer, {title}",
        ),
        "distances.png": checkpoint_figures.distances_figure(
            steps, distances, order=order, title=f"Distances between checkpoints, {title}"
        ),
        "controls.png": checkpoint_figures.controls_figure(
            layers, (int(steps[0]), int(steps[-1])), controls, title=f"Against Gaussian clouds, {title}"
        ),
        "betti.png": evolution_figures.betti_figure(
            stored.steps,
            {layer: _betti_curves(stored, layer) for layer in stored.layers},
            title=f"Holes through training, {title}",
        ),
        "summaries.png": evolution_figures.summaries_figure(
            *_summaries(results, list(evolution_figures.SUMMARIES)), title=f"Summaries of diagrams, {title}"
        ),
        "diagrams.png": persistence_figures.diagrams_figure(panels, title=f"Persistence diagrams, {shown}"),
        "barcodes.png": persistence_figures.barcodes_figure(panels, title=f"Barcodes, {shown}"),
    }
    return {name: style.png_bytes(figure) for name, figure in drawn.items()}


def _betti_curves(
    stored: storage.StoredSet, layer: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Distances from a layer's first birth of a hole to its last death, and b1 at each checkpoint."""
    from topoflow.topology.betti import mean_betti_numbers

    cells = [[h1 for _, h1 in stored.diagrams(step, layer)] for step in stored.steps]
    ends = np.concatenate([diagram.ravel() for cell in cells for diagram in cell])
    ends = ends[np.isfinite(ends)]
    low, high = (float(ends.min()), float(ends.max())) if ends.size else (0.0, 1.0)
    distances = np.linspace(low, high, _N_DISTANCES)
    return distances, np.array([mean_betti_numbers(cell, distances) for cell in cells])


def _summaries(
    results: Path, names: list[str]
) -> tuple[list[int], dict[str, dict[int, npt.NDArray[np.float64]]]]:
    """The checkpoints of a run, and of each named summary its values by layer."""
    rows = layout.read_table(results / layout.SUMMARIES_FILE)
    layers = sorted({int(row["layer"]) for row in rows})
    values = {
        name: {layer: np.array([row[name] for row in rows if row["layer"] == layer]) for layer in layers}
        for name in names
    }
    return sorted({int(row["step"]) for row in rows}), values
