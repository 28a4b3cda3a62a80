"""The stages of a study, in order: each reads files, computes, and writes its outs whole.

    model, prompts, prepare -> finetune -> diagrams -> trajectory -> track; then compare

DVC decides when a stage runs (dvc.yaml); `topoflow.study` asks DVC for one objective.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from topoflow import layout, storage
from topoflow.compute import OnDemand, map_cells
from topoflow.config import Params
from topoflow.layout import Run, read_json_lines, write_table

if TYPE_CHECKING:
    from topoflow.recording.callback import TopologyCallback

# --- text and models ----------------------------------------------------------------------------


def model(params: Params, model: str) -> None:
    """Find or build a model and write down exactly which weights it has: models/<model>.json."""
    from topoflow.training.models import describe

    source = params.model_source(model)
    storage.write_file(layout.model_file(model), storage.json_bytes(describe(model, source, params.seed)))


def prompts(params: Params) -> None:
    """Draw the evaluation prompts: data/prompts.jsonl, one list of messages a line."""
    from topoflow.training.objectives import evaluation_prompts, jsonl_bytes

    storage.write_file(layout.PROMPTS_FILE, jsonl_bytes(evaluation_prompts(params)))


def prepare(params: Params, objective: str) -> None:
    """Draw an objective's training rows, or list its checkpoints: data/<objective>.jsonl."""
    from topoflow.training.objectives import jsonl_bytes, training_rows

    if source := params.checkpoints(objective):
        from topoflow.training.checkpoints import list_checkpoints

        rows = []
        for run in params.runs():
            if run.objective == objective:
                trust = getattr(params.model_source(run.model), "trust_remote_code", False)
                rows += list_checkpoints(source, run, trust)
    else:
        rows = training_rows(params, objective, read_json_lines(layout.PROMPTS_FILE))
    storage.write_file(layout.rows_file(objective), jsonl_bytes(rows))


# --- activations --------------------------------------------------------------------------------


def finetune(params: Params, run: Run) -> None:
    """Fine-tune and record: activations/, tuned/ (the trained weights) and loss.csv.

    Where the objective is the checkpoints of a training that has been, these are recorded, and tuned/ says which they
    are. Goes on from what an interrupted call has kept, and ends with the bytes of one that was not. Joins the MLflow
    run it finds itself in, or starts one, and tags it with the activation set.
    """
    from topoflow.tracking.runs import training_run

    description, evaluation, made_from = _before_recording(params, run)
    # nothing goes on from what other code began
    code = _code_sha256("recording", "training", "dynamics")
    key = storage.sha256(storage.json_bytes({**made_from, "code": code}))
    folder, losses = run.folder("activations"), run.folder("results") / layout.LOSS_FILE
    make = _record if params.checkpoints(run.objective) else _train
    with training_run(str(run)) as tracked:
        with storage.writing(folder, key) as work:
            unlogged = math.inf  # the step up to which this MLflow run has not seen the losses
            if not (work / storage.MANIFEST).is_file():  # else it was interrupted when all was done
                recording = _callback(params, evaluation, work)
                with storage.writing(run.folder("tuned"), key) as tuned:
                    log, unlogged = make(params, run, description, recording, tuned)
                _write_loss(log, losses)
                _seal_activations(work, made_from, recording)
            for leftover in ("trainer", "behaviour"):
                shutil.rmtree(work / leftover, ignore_errors=True)
        tracked.log_losses(losses, until=unlogged)
        tracked.tag_activations(storage.open_set(folder, storage.ACTIVATIONS).sha256)


_Log = Sequence[Mapping[str, float]]


def _train(
    params: Params, run: Run, description: Mapping[str, Any], recording: TopologyCallback, tuned: Path
) -> tuple[_Log, float]:
    """Fine-tune; returns the trainer's log, and the step that an interrupted call had reached."""
    from topoflow.training import models, sft
    from topoflow.training.checkpoints import step_of

    assert recording.folder is not None
    trainer = recording.folder / "trainer"
    begun = sft.last_whole_checkpoint(trainer)
    network, tokenizer = models.load(description, params.model_source(run.model), params.seed)
    rows = read_json_lines(layout.rows_file(run.objective))
    trained, log = sft.finetune(
        network,
        tokenizer,
        rows,
        params.finetune,
        run.seed,
        trainer,
        recording,
        "mlflow",
        params.compute.save_steps,
    )
    _save_weights(trained, description, tuned)
    return log, step_of(begun) if begun else 0


def _record(
    params: Params, run: Run, description: Mapping[str, Any], recording: TopologyCallback, tuned: Path
) -> tuple[_Log, float]:
    """Record checkpoints that are there; returns their trainer's log, and the last step."""
    from topoflow.training import checkpoints

    source = params.checkpoints(run.objective)
    assert source is not None
    lines = _checkpoints_of(run)
    series = checkpoints.Series(run, lines, source, description, params.model_source(run.model), params.seed)
    checkpoints.record(series, recording, params.recording.layers, params.finetune.n_threads)
    storage.write_file(tuned / "checkpoints.json", storage.json_bytes(lines))
    return checkpoints.training_log(series), lines[-1]["step"]


def _checkpoints_of(run: Run) -> list[dict[str, Any]]:
    """Those that `prepare` wrote down of a run."""
    lines = read_json_lines(layout.rows_file(run.objective))
    return [line for line in lines if (line["model"], line["seed"]) == (run.model, run.seed)]


def _before_recording(params: Params, run: Run) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
    """The model's description, the evaluation prompts, and what an activation set of them is made from."""
    from topoflow.recording.hidden_states import FINAL_NORM, POOLING

    description = layout.read_json(layout.model_file(run.model))
    read_json_lines(layout.rows_file(run.objective))  # or a message that says what to make
    evaluation = read_json_lines(layout.PROMPTS_FILE)
    made_from = {
        "format": storage.ACTIVATIONS,
        "model": run.model,
        "revision": description["revision"],
        "weights_sha256": description["sha256"],
        "objective": run.objective,
        "rows_sha256": storage.sha256_of_file(layout.rows_file(run.objective)),
        "prompts_sha256": storage.sha256_of_file(layout.PROMPTS_FILE),
        "n_prompts": len(evaluation),
        "hidden_size": description["hidden_size"],
        "dtype": params.recording.dtype,
        "sources": params.sources(run.model, run.objective),
        "study_seed": params.seed,
        "seed": run.seed,
        "finetune": params.training(run.objective),
        "recording": asdict(params.recording),
        "pooling": POOLING,
        "final_norm": FINAL_NORM,
        "versions": _versions("torch", "transformers", "trl", "peft"),
    }
    if params.checkpoints(run.objective):
        made_from["checkpoints"] = _checkpoints_of(run)
    return description, evaluation, made_from


def _callback(params: Params, evaluation: Sequence[Any], folder: Path) -> TopologyCallback:
    from topoflow.recording.callback import TopologyCallback

    recording = params.recording
    return TopologyCallback(
        evaluation,
        recording.layers,
        recording.schedule,
        folder=folder,
        batch_size=recording.batch_size,
        max_length=recording.max_length,
        dtype=recording.dtype,
        behaviour=recording.behaviour,
    )


def _seal_activations(work: Path, made_from: Mapping[str, Any], callback: TopologyCallback) -> None:
    """Make a working folder with every checkpoint in it an activation set."""
    steps, layers = callback.steps, callback.layers
    names = [f"{storage.cell_name(step, layer)}.npy" for step in steps for layer in layers]
    if callback.behaviour:
        names += map(storage.behaviour_name, steps)
    storage.seal(work, {**made_from, "steps": list(steps), "layers": list(layers)}, names)


def _save_weights(trained: Any, description: Mapping[str, Any], work: Path) -> None:
    """The trained weights (the adapter under LoRA): no path of this machine in them, the same bytes each time."""
    trained.save_pretrained(work)
    (work / "README.md").unlink(missing_ok=True)  # PEFT's model card template, empty
    adapter = work / "adapter_config.json"
    if adapter.exists():
        config = json.loads(adapter.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = f"{description['source']} ({description['revision']})"
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()  # PEFT writes a set, in random order
        storage.write_file(adapter, storage.json_bytes(config))


def _write_loss(log: Iterable[Mapping[str, float]], path: Path) -> None:
    """The trainer's log of each step, without what depends on the machine's speed."""
    rows = [entry for entry in log if "loss" in entry]
    # the last row's order: earlier ones of a resumed training were sorted when they were kept. Another's may have none
    names = [name for name in (rows[-1] if rows else ("loss",)) if name not in ("step", "train_runtime")]
    write_table(path, ["step", *names], ([row["step"], *(row.get(n) for n in names)] for row in rows))


# --- topology -----------------------------------------------------------------------------------


def diagrams(params: Params, run: Run) -> None:
    """Persistence diagrams of every subsample of every cell: diagrams/."""
    from topoflow.topology.persistence import choose_engine
    from topoflow.topology.point_clouds import is_constant, subsample_plan

    activations = storage.open_set(run.folder("activations"), storage.ACTIVATIONS)
    activations.check_inputs(_inputs_now(run))
    topology, n_prompts = params.topology, activations.manifest["n_prompts"]
    plan = subsample_plan(n_prompts, topology.n_subsamples, topology.subsample_size, params.seed)
    steps, layers, not_finite = _finite_part(activations)
    cells = [(step, layer) for step in steps for layer in layers]
    manifest = {
        "format": storage.DIAGRAMS,
        "model": run.model,
        "objective": run.objective,
        "seed": run.seed,
        "activations": activations.sha256,
        "prompts_sha256": activations.manifest["prompts_sha256"],
        "steps": steps,
        "layers": layers,
        "n_prompts": n_prompts,
        "n_subsamples": topology.n_subsamples,
        "subsample_size": topology.subsample_size,
        "plan_sha256": storage.sha256(plan.tobytes()),
        "study_seed": params.seed,
        "maxdim": topology.maxdim,
        "engine": choose_engine(topology.engine, topology.maxdim),
        "complex": "Vietoris-Rips, Euclidean metric, Z/2, no threshold, bars of length zero left out",
        "versions": _versions("ripser", "numba"),
    }
    if not_finite:
        manifest["not_finite"] = not_finite
    folder = run.folder("diagrams")
    key = {**manifest, "code": _code_sha256("topology", "dynamics")}  # never go on from what other code began
    with storage.writing(folder, storage.sha256(storage.json_bytes(key))) as work:
        files = {cell: work / f"{storage.cell_name(*cell)}.npz" for cell in cells}
        missing = [cell for cell in cells if not files[cell].exists()]  # others an interrupted run left whole
        tasks = ((activations.point_cloud(*cell), plan, topology.engine, cell) for cell in missing)
        label = f"diagrams {run}"
        results = map_cells(_diagram_bytes, tasks, len(missing), params.compute, label)
        for cell, data in zip(missing, results, strict=True):
            storage.write_file(files[cell], data)
        constant = [list(cell) for cell in cells if is_constant(activations.point_cloud(*cell))]
        names = [path.relative_to(work).as_posix() for path in files.values()]
        storage.seal(work, {**manifest, "constant_cells": constant}, names)


def _inputs_now(run: Run) -> dict[str, tuple[Path, str]]:
    """What an activation set was made from, as far as it is here."""
    found = {}
    if layout.PROMPTS_FILE.is_file():
        found["prompts_sha256"] = layout.PROMPTS_FILE, storage.sha256_of_file(layout.PROMPTS_FILE)
    if (path := layout.model_file(run.model)).is_file():
        found["weights_sha256"] = path, str(layout.read_json(path)["sha256"])
    return found


def _finite_part(activations: storage.StoredSet) -> tuple[list[int], list[int], list[list[int]]]:
    """The checkpoints and layers whose states are all finite, and the cells (step, layer) that are not.

    Layers that were not finite from the beginning are left out; then either what comes from the first checkpoint on
    that is not finite (a training that diverged) or the layers concerned, whichever leaves more.
    """
    bad = [
        (step, layer)
        for step in activations.steps
        for layer in activations.layers
        if not np.isfinite(activations.point_cloud(step, layer)).all()
    ]
    steps, first = list(activations.steps), activations.steps[0]
    layers = [layer for layer in activations.layers if (first, layer) not in bad]
    if hit := [(step, layer) for step, layer in bad if layer in layers]:
        before = steps[: steps.index(hit[0][0])]
        whole = [layer for layer in layers if layer not in {layer for _, layer in hit}]
        if len(whole) * len(steps) >= len(layers) * len(before) or len(before) < 2:
            layers = whole
        else:
            steps = before
    if not layers:
        raise ValueError(
            f"{activations.folder} must hold a layer that is finite at two checkpoints or more, and at step "
            f"{bad[0][0]} layer {bad[0][1]} already is not: the training has diverged"
        )
    return steps, layers, [list(cell) for cell in bad]


def _diagram_bytes(
    cloud: npt.NDArray[np.floating[Any]], plan: npt.NDArray[np.int64], engine: str, cell: tuple[int, int]
) -> bytes:
    from topoflow.dynamics.cells import cell_diagrams

    try:
        return storage.diagram_bytes(cell_diagrams(cloud, plan, engine))
    except ValueError as error:
        raise ValueError(f"the states recorded at step {cell[0]}, layer {cell[1]}: {error}") from error


def trajectory(params: Params, run: Run) -> None:
    """Summaries, velocities, what they are held against, and the claims that follow: results/."""
    from topoflow.dynamics.trajectory import claims_of_run, describe_run, follow_layer
    from topoflow.tables import write_trajectory
    from topoflow.topology.point_clouds import subsample_plan

    activations = storage.open_set(run.folder("activations"), storage.ACTIVATIONS)
    stored = storage.open_set(run.folder("diagrams"), storage.DIAGRAMS)
    stored.check_made_from(activations)
    steps, names, settings = stored.steps, stored.layers, params.trajectory
    made = stored.manifest
    plan = subsample_plan(made["n_prompts"], made["n_subsamples"], made["subsample_size"], made["study_seed"])
    follow = partial(
        follow_layer,
        plan=plan,
        order=settings.order,
        n_replicates=settings.n_replicates,
        engine=made["engine"],
        seed=params.seed,
    )
    tasks = (
        (
            OnDemand(partial(activations.point_cloud, layer=layer), steps),
            OnDemand(partial(stored.diagrams, layer=layer), steps),
        )
        for layer in names
    )
    layers = list(map_cells(follow, tasks, len(names), params.compute, f"trajectory {run}"))
    answers = (activations.divergences(step) for step in steps[1:])
    # mean over prompts; empty if not recorded
    behaviour = np.array([row.mean(axis=1) for row in answers if row is not None])
    claims = claims_of_run(
        layers,
        steps,
        behaviour[:, 0] if len(behaviour) and np.isfinite(behaviour).all() else None,
        level=settings.level,
        seed=params.seed,
    )
    facts = {
        "diagrams": stored.sha256,
        "order": settings.order,
        "ground_metric": "euclidean",
        "level": settings.level,
        "layers": dict(
            zip(map(storage.layer_name, names), describe_run(layers, steps, params.seed), strict=True)
        ),
        "pooled": claims.numbers,
        "claims": {verdict.claim: asdict(verdict) for verdict in claims.verdicts},
    }
    with storage.sole_writer(run.folder("results")):
        write_trajectory(run.folder("results"), names, steps, layers, behaviour)
        storage.write_file(run.folder("results") / layout.TRAJECTORY_FILE, storage.json_bytes(facts))


# --- tracking and comparison --------------------------------------------------------------------


def track(params: Params, run: Run, run_id: str | None = None) -> str:
    """Log the topology of one run to MLflow; returns the id of the run that holds it."""
    from topoflow.tracking.runs import log_topology

    return log_topology(params, run, run_id)


def compare(params: Params, run_ids: Sequence[str] = (), folder: Path = layout.COMPARISON_FOLDER) -> None:
    """Runs side by side, with a verdict on each claim: those of the study, or any MLflow runs that topoflow made."""
    from topoflow.comparison import compare_runs
    from topoflow.finished import FinishedRun
    from topoflow.tracking import comparison_figures
    from topoflow.tracking.report import report as write
    from topoflow.tracking.runs import locate_run, log_comparison, pages_of, server

    located = [locate_run(run_id) for run_id in run_ids] or [(run, Path()) for run in params.runs()]
    members = [FinishedRun.open(run, root) for run, root in located]
    facts = compare_runs(params, members, folder)
    for name, picture in comparison_figures.pictures(folder, members).items():
        storage.write_file(folder / name, picture)
    pages = pages_of(members)
    study = not run_ids and folder == layout.COMPARISON_FOLDER
    log_comparison(folder, facts, pages, write(params, pages, server())[0] if study else None)


def report(params: Params, out: Path, mlflow: bool = False) -> list[str]:
    """The whole study as one HTML file that can be mailed; returns what is missing in it.

    With `mlflow` it names the MLflow run of each run, and links to it where a server is tracked to.
    """
    from topoflow.finished import FinishedRun
    from topoflow.tracking.report import report as write
    from topoflow.tracking.runs import pages_of, server

    whole = []
    for run in params.runs() if mlflow else ():
        with suppress(ValueError):  # the report names what is missing
            whole.append(FinishedRun.open(run))
    page, missing = write(params, pages_of(whole), server()) if mlflow else write(params)
    storage.write_file(out, page)
    return missing


def _code_sha256(*packages: str) -> str:
    """Of the sources of topoflow's packages of these names."""
    home = Path(__file__).parent
    sources = sorted(path for package in packages for path in (home / package).glob("*.py"))
    return storage.sha256("".join(storage.sha256_of_file(path) for path in sources).encode())


def _versions(*packages: str) -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package).split("+")[0] for package in packages}
