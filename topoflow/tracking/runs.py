"""One MLflow run a fine-tuning: the training logs into it live, the topology is added when it is known.

The activation set's SHA-256 is the thread between the processes: training tags its run with it, and
`log_topology` finds the run by that tag. No run id stands in any file that DVC versions.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from topoflow import storage
from topoflow.config import Params, flat
from topoflow.dynamics.claims.reading import TABLE, table_row
from topoflow.dynamics.measures import listed
from topoflow.errors import InvalidArgument, InvalidFile, NoAnswer, quoted
from topoflow.finished import FinishedRun, asked, dominated, told_of_classes
from topoflow.names import (
    CLASS_VELOCITIES,
    DISPLACEMENT,
    H1_UNMATCHED,
    H1_VELOCITY,
    LAYER_NUMBERS,
    LAYER_STEPS,
    VELOCITY,
    column,
    metric_name,
)
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.tracking.logged_models import Checkpoint, log_checkpoints, say_where_weights_are, with_models
from topoflow.tracking.note import (
    OF_CLASSES,
    Page,
    definitions,
    prompts_behind,
    texts,
    write_comparison_note,
    write_note,
)
from topoflow.tracking.plugin import context_tags
from topoflow.tracking.store import (
    Row,
    address,
    answering,
    check_destination,
    experiments,
    lacking,
    log_batches,
    loggable,
    open_store,
    served,
    set_tags,
    start_run,
    tagged,
    without_password,
)
from topoflow.tracking.unfinished import ACTIVATIONS_TAG, end_unfinished

logger = logging.getLogger(__name__)

TRAJECTORY_TAG = "topoflow.trajectory"
COMPARISON_TAG = "topoflow.comparison"
BEGUN_TAG = "topoflow.begun"  # of a run that this module made: the topology that it is to hold
NOTE_TAG = "mlflow.note.content"


@answering()
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

    Raises
    ------
    InvalidArgument, InvalidFile
        When MLflow does not take it all: called again, it logs the rest, and nothing twice. As `FinishedRun.open` and
        `check_parameters` do.
    """
    import mlflow

    done = FinishedRun.open(run)
    done.check_parameters(params)
    end_unfinished()  # what the training could not say of its run, which is the one to fill
    open_store()
    client = mlflow.MlflowClient()
    if run_id is not None:
        _fill(client, client.get_run(run_id), params, done)
        return run_id
    among = experiments(client)
    found = _find_run(client, among, done.activations.sha256, done.sha256)
    if found and found.data.tags.get(TRAJECTORY_TAG) == done.sha256:  # it is full
        present = found.data.metrics
        rows = _metrics(params, done, _models(found, params, done))
        log_batches(found, (row for row in rows if len(row) > 3 or row[0] not in present))
        set_tags(found.info.run_id, lacking(_claim_tags(done.facts["claims"]), found.data.tags))
        return str(found.info.run_id)
    if found:
        _fill(client, found, params, done)
        return str(found.info.run_id)
    # one that a call began that did not come to its end, or a new one: MLflow has not seen the training
    begun = [it for it in tagged(client, among, BEGUN_TAG, done.sha256) if TRAJECTORY_TAG not in it.data.tags]
    run_id = begun[0].info.run_id if begun else None
    with start_run(str(done.run), {BEGUN_TAG: done.sha256}, run_id) as taken:
        _fill(client, taken, params, done)
        return str(taken.info.run_id)


def _fill(client: Any, run: Any, params: Params, done: FinishedRun) -> None:
    """Log all of a topology, and last the tags that say that it is all there."""
    from topoflow.tracking.dataset import dataset_of

    run_id, tags = str(run.info.run_id), run.data.tags
    _check_destination(run)
    losses = _missing_losses(client, run, done.results / layout.LOSS_FILE)
    named = _params_of(params, done, run)
    log_batches(run, chain(losses, _metrics(params, done, _models(run, params, done))), named)
    dataset = dataset_of(done.activations)
    _log_dataset(client, run_id, dataset)
    with tempfile.TemporaryDirectory() as folder:
        prompts = done.prompts() if params.track.prompts_text else []
        answered = asked(done.facts, prompts)
        note = _write_artifacts(Path(folder), done, _page(run), answered)
        client.log_artifacts(run_id, folder, "topology")
    _log_table_once(client, run_id, _TEXTS, *texts(done.facts, answered))
    _log_table_once(client, run_id, _PROMPTS, *prompts_behind(done.facts, done.results, prompts))
    tags = {**lacking(context_tags(), tags), **_tags(done, dataset.source.dvc_md5), NOTE_TAG: note}
    set_tags(run_id, {**tags, TRAJECTORY_TAG: done.sha256})  # last: it says that the run is full


@answering()
def log_plan(text: str) -> None:
    """Keep what a run will cost as plan.txt, in the MLflow run that this process is part of, under `mlflow run`."""
    import mlflow

    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        client = mlflow.MlflowClient()
        _check_destination(client.get_run(run_id))
        client.log_text(run_id, text, "plan.txt")


@answering()
def locate_run(run_id: str) -> tuple[Run, Path]:
    """The run of a study that an MLflow run holds, and the folder of that study on this machine.

    Raises
    ------
    InvalidArgument, InvalidFile
        When there is no such MLflow run, topoflow has not filled it, or its sets are not where they were.
    """
    import mlflow

    try:
        logged = mlflow.MlflowClient().get_run(run_id)
    except mlflow.MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise InvalidArgument("run id", f"that of a run in {address()}", run_id) from None
    tags = logged.data.tags
    if TRAJECTORY_TAG not in tags:
        remedy = f"it has no tag {TRAJECTORY_TAG}"
        raise InvalidArgument("run id", "that of a run with the topology of a fine-tuning", run_id, remedy)
    run = Run(tags["topoflow.model"], tags["topoflow.objective"], int(tags["topoflow.seed"]))
    datasets = logged.inputs.dataset_inputs if logged.inputs else []
    digest = tags[ACTIVATIONS_TAG][:32]
    sources = [json.loads(used.dataset.source)["uri"] for used in datasets if used.dataset.digest == digest]
    root = Path(sources[0]).parents[len(run.folder("activations").parts) - 1]
    found = root / run.folder("diagrams") / storage.MANIFEST
    if not found.is_file() or storage.sha256_of_file(found) != tags["topoflow.diagrams"]:
        made_from = tags["topoflow.diagrams"][:12]
        raise InvalidFile(
            root / run.folder("diagrams"),
            f"does not hold the diagrams {made_from} that run {run_id} ({run}) was made from",
            "bring them back with: dvc repro, or dvc pull",
        )
    return run, root


@answering()
def pages_of(members: Iterable[FinishedRun]) -> dict[str, Page]:
    """By the name of each run the page of the newest MLflow run that holds its topology, where there is one."""
    import mlflow

    open_store()
    client = mlflow.MlflowClient()
    among = experiments(client)
    held = {str(it.run): tagged(client, among, TRAJECTORY_TAG, it.sha256) for it in members}
    return {name: _page(runs[0]) for name, runs in held.items() if runs}


def where_to_look(run_id: str) -> str:
    """The address of a run's page in MLflow's UI, after the command that a store in a file needs first."""
    import mlflow

    host = server()
    try:
        with answering():
            page = _page(mlflow.MlflowClient().get_run(run_id))
    except NoAnswer:  # the run is whole, and MLflow has gone since
        return host or "mlflow ui"
    return f"{host}/{page.url}" if host else f"mlflow ui, then open http://127.0.0.1:5000/{page.url}"


def server() -> str | None:
    """The address of the MLflow server that is tracked to, without a password in it; None where it is a file."""
    import mlflow

    return without_password(mlflow.get_tracking_uri()).rstrip("/") if served() else None


@answering()
def log_comparison(
    folder: Path, facts: Mapping[str, Any], pages: Mapping[str, Page], report: bytes | None = None
) -> str:
    """Log a comparison as an MLflow run of its own, or bring that run up to date; returns its id.

    Parameters
    ----------
    folder : Path
        Its tables and pictures.
    facts : mapping
        What its comparison.json holds.
    pages : mapping of str to Page
        As `pages_of` gives them: runs logged since the comparison get their links when it is logged again.
    report : bytes, optional
        The report of the study whose runs are compared.
    """
    import mlflow

    client = mlflow.MlflowClient()
    digest = storage.sha256(storage.json_bytes(facts))
    there = tagged(client, experiments(client), COMPARISON_TAG, digest)
    name = f"comparison of {len(facts['runs'])} runs"
    with nullcontext(there[0]) if there else start_run(name, {}) as run:
        run_id = str(run.info.run_id)
        _check_destination(run)
        client.log_artifacts(run_id, str(folder), "comparison")
        if report is not None:
            client.log_text(run_id, report.decode(), "report.html")
        note = write_comparison_note(facts, pages, _page(run), with_report=report is not None)
        set_tags(run_id, {**_claim_tags(facts["claims"]), NOTE_TAG: note, COMPARISON_TAG: digest})
    return run_id


def _page(run: Any) -> Page:
    return Page(str(run.info.experiment_id), str(run.info.run_id))


def _find_run(client: Any, among: Sequence[str], activations: str, trajectory: str) -> Any | None:
    """The run to fill, or the one that is full already; a failed or killed run is left as it is."""
    runs = tagged(client, among, ACTIVATIONS_TAG, activations)
    for run in runs:  # each training that ended well gets its topology, also one that repeats another
        if TRAJECTORY_TAG not in run.data.tags and run.info.status in ("FINISHED", "RUNNING"):
            return run
    return next((run for run in runs if run.data.tags.get(TRAJECTORY_TAG) == trajectory), None)


# --- parameters and tags ------------------------------------------------------------------------


def _params_of(params: Params, done: FinishedRun, logged: Any) -> dict[str, str]:
    """Every parameter that decided this run, as `section.key`, and that its MLflow run does not have.

    Raises
    ------
    InvalidArgument, InvalidFile
        When the MLflow run has another value.
    """
    sections = asdict(replace(params, finetune=params.finetune_of(done.run.objective)))
    chosen = {
        "model": done.run.model,
        "objective": done.run.objective,
        "seed": done.run.seed,
        "study_seed": params.seed,
        **flat("model_source", sections["model"][done.run.model]),
        **flat("text", sections["objective"][done.run.objective]),
    }
    sections_used = ["prompts", "prepare", "finetune", "recording", "topology", "trajectory"]
    if params.checkpoints(done.run.objective):  # trained elsewhere
        sections_used = [name for name in sections_used if name not in ("prepare", "finetune")]
    for section in sections_used:
        chosen.update(flat(section, sections[section]))
    wanted = {key: str(value)[:6000] for key, value in chosen.items()}
    present = logged.data.params
    for key, value in wanted.items():
        if present.get(key, value) != value:
            name = f"parameter {key} of run {logged.info.run_id}"
            raise InvalidArgument(name, f"{quoted(value)}, with which the results were made", present[key])
    return lacking(wanted, present)


def _tags(done: FinishedRun, dvc_revision: str | None) -> dict[str, str]:
    manifest = done.activations.manifest
    tags = {
        "topoflow.model": done.run.model,
        "topoflow.objective": done.run.objective,
        "topoflow.seed": str(done.run.seed),
        "topoflow.weights_sha256": manifest["weights_sha256"],
        "topoflow.prompts_sha256": manifest["prompts_sha256"],
        ACTIVATIONS_TAG: done.activations.sha256,
        "topoflow.diagrams": done.diagrams.sha256,
        **_single_numbers(done.facts),
    }
    if dvc_revision:
        tags["topoflow.dvc_activations_md5"] = dvc_revision
    return tags


# What trajectory.json says of a layer in one number; the rest is read where it stands beside these.
_OF_A_LAYER = [column(homology, name) for homology in (1, 0, 2) for name in (*LAYER_NUMBERS, *LAYER_STEPS)]


def _single_numbers(facts: Mapping[str, Any]) -> dict[str, str]:
    """Columns of MLflow's table of runs. As metrics, each would be a chart of its own with one bar."""
    tags = _claim_tags(facts["claims"])
    for layer, findings in facts["layers"].items():
        for name in (name for name in _OF_A_LAYER if name in findings):  # H2 is not there with maxdim: 1
            tags[f"topoflow.{name}.{layer}"] = _written(findings[name])
    tags["topoflow.far_prompts"] = _written(facts["pooled"].get("far_prompts"))
    return tags


def _claim_tags(claims: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    tags = {}
    for name, claim in claims.items():
        tags[f"topoflow.verdict.{name}"] = claim["verdict"]
        tags[f"topoflow.value.{name}"] = _written(claim["value"])
    return tags


def _written(number: float | None) -> str:
    """A number as the text of a tag; a dash, so that the number of an earlier result does not stay."""
    return "–" if number is None else f"{number:.6g}"


# --- metrics ------------------------------------------------------------------------------------

_TEXTS, _PROMPTS = "texts.json", "prompts.json"


def _models(run: Any, params: Params, done: FinishedRun) -> dict[int, Any]:
    """The logged models of the checkpoints by step; empty where `track.models` is false, or a store keeps none."""
    if not params.track.models:
        return {}
    models = log_checkpoints(run, [Checkpoint(done.run, step) for step in done.activations.steps])
    say_where_weights_are(models, params, done)
    return models


def _metrics(params: Params, done: FinishedRun, models: Mapping[int, Any]) -> Iterator[Row]:
    """The metrics of a run, and of its checkpoints where there are models of them."""
    return with_models(
        chain(_topology_metrics(params, done.results), _class_metrics(done.facts)),
        models,
        done.activations.manifest["prompts_sha256"],
    )


def _topology_metrics(params: Params, results: Path) -> Iterator[tuple[str, float, int]]:
    """(key, value, optimiser step). Keys end in the layer, so that MLflow draws one section a quantity."""
    displacements = (column(homology, DISPLACEMENT) for homology in (1, 0))
    moved = [H1_VELOCITY, H1_UNMATCHED, column(0, VELOCITY), *displacements]
    if params.topology.maxdim > 1:
        moved += [column(2, VELOCITY), column(2, DISPLACEMENT)]
    beside = [measure.name for measure in listed.IN_VELOCITY]
    measured = results / layout.MEASURES_FILE  # which older runs do not have
    columns = list(layout.read_columns(measured))[2:] if measured.is_file() else []
    for section, file, names in (
        ("topology", layout.VELOCITY_FILE, moved),
        ("topology", layout.SUMMARIES_FILE, params.track.summaries),
        ("measures", layout.VELOCITY_FILE, beside),
        *([("measures", layout.MEASURES_FILE, columns)] if columns else []),
    ):
        table = layout.read_columns(results / file, ["layer", "step", *names])
        for name in names:
            for layer, step, value in zip(table["layer"], table["step"], table[name], strict=True):
                yield metric_name(section, name, int(layer)), float(value), int(step)
    for row in layout.read_table(results / layout.BEHAVIOUR_FILE, ["step", VELOCITY, DISPLACEMENT]):
        for name in (VELOCITY, DISPLACEMENT):
            yield metric_name("behaviour", name), row[name], int(row["step"])
    if (quantities := results / layout.QUANTITIES_FILE).is_file():
        for row in layout.read_table(quantities, ["step"]):
            yield from ((name, value, int(row["step"])) for name, value in row.items() if name != "step")


def _class_metrics(facts: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Velocities of classes of prompts, and how well a probe tells each, where prompts carry labels."""
    for row in told_of_classes(facts):
        for name in (*CLASS_VELOCITIES, "auc"):
            if row[name] is not None:
                yield metric_name("classes", f"{name}/{row['label']}", row["layer"]), row[name], row["step"]


def _missing_losses(client: Any, run: Any, path: Path) -> Iterator[Row]:
    """The training's own metrics that a run lacks, under the names that Hugging Face's MLflow callback gives them."""
    there: dict[str, set[int]] = {}
    for row in layout.read_table(path, ["step"], finite=False):
        step = int(row.pop("step"))
        for name, value in loggable(row):
            if name not in there:
                known = client.get_metric_history(run.info.run_id, name) if name in run.data.metrics else []
                there[name] = {metric.step for metric in known}
            if step not in there[name]:
                yield name, value, step


# --- dataset and artifacts ----------------------------------------------------------------------


def _check_destination(run: Any) -> None:
    check_destination(run.info.artifact_uri, f"run {run.info.run_id}")


def _log_dataset(client: Any, run_id: str, dataset: Any) -> None:
    """The activation set as a dataset input of the run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = [InputTag("mlflow.data.context", "topology")]
    client.log_inputs(run_id, [DatasetInput(Dataset(**dataset.to_dict()), tags)])


def _log_table_once(
    client: Any, run_id: str, name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Rows as a table of MLflow's, once: a second call would add them again."""
    if rows and not any(there.path == name for there in client.list_artifacts(run_id)):
        client.log_table(run_id, dict(zip(header, map(list, zip(*rows, strict=True)), strict=True)), name)


def _write_artifacts(folder: Path, done: FinishedRun, page: Page, prompts: Mapping[str, str]) -> str:
    """Pictures, tables, definitions and the note, into a folder; returns the note."""
    from topoflow.figures.of_run import kept_pictures

    for name in (*done.facts["files"], layout.TRAJECTORY_FILE):  # and nothing that lies beside them
        shutil.copyfile(done.results / name, folder / name)
    words = {**definitions(), **done.facts.get("quantities_are", {})}
    if classes := done.facts.get("classes"):
        words |= OF_CLASSES
        layout.write_table(folder / layout.CLASSES_FILE, classes["columns"], classes["rows"])
    for name, picture in kept_pictures(done.run, done.diagrams, done.results).items():
        (folder / name).write_bytes(picture)
    (folder / "definitions.json").write_bytes(storage.json_bytes(words))
    claims = done.facts["claims"].values()
    layout.write_table(folder / "verdicts.csv", TABLE, map(table_row, claims))
    note = write_note(
        done.facts,
        done.activations.manifest,
        done.diagrams.manifest,
        page,
        model=done.described(),
        prompts=prompts,
        dominated=dominated(done.activations, done.diagrams),
    )
    (folder / "note.md").write_text(note, encoding="utf-8")
    return note
