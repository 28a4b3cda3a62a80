"""The stages from activations to diagrams, and from diagrams to what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from topoflow import storage
from topoflow.compute import OnDemand, map_cells
from topoflow.config import Params
from topoflow.errors import InvalidArgument, InvalidFile
from topoflow.finished import clouds_of, is_exploratory, open_activations, open_diagrams
from topoflow.followed import followed
from topoflow.names import CLASS_COLUMNS, H1_VELOCITY, layer_name
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study.stages.provenance import code_sha256, versions

if TYPE_CHECKING:
    from topoflow.dynamics.attribution import Attribution
    from topoflow.dynamics.following import Recorded
    from topoflow.dynamics.trajectory import LayerTrajectory


def diagrams(params: Params, run: Run) -> None:
    """Persistence diagrams of every subsample of every cell: diagrams/."""
    from topoflow.topology.persistence import choose_engine
    from topoflow.topology.point_clouds import is_constant, subsample_plan

    activations = open_activations(run)
    activations.check_inputs(_inputs_now(run))
    topology, n_prompts = params.topology, activations.manifest["n_prompts"]
    plan = subsample_plan(n_prompts, topology.n_subsamples, topology.subsample_size, params.seed)
    steps, layers, not_finite = _finite_part(activations)
    engine = choose_engine(topology.engine, topology.maxdim, n_points=topology.subsample_size)
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
        "engine": engine,
        "complex": "Vietoris-Rips, Euclidean metric, Z/2, no threshold, bars of length zero left out",
        "versions": versions("ripser", "numba", *(["redzed-tda"] if engine == "redzed" else [])),
    }
    if not_finite:
        manifest["not_finite"] = not_finite
    prepared = topology.preparation
    if not prepared.plain:
        manifest["prepared"] = asdict(prepared)
    cloud = clouds_of(activations, prepared)
    folder = run.folder("diagrams")
    key = {**manifest, "code": code_sha256()}  # never go on from what other code began
    with storage.writing(folder, storage.sha256(storage.json_bytes(key))) as work:
        files = {cell: work / f"{storage.cell_name(*cell)}.npz" for cell in cells}
        missing = [cell for cell in cells if not files[cell].exists()]  # others an interrupted run left whole
        tasks = ((cloud(*cell), plan, topology.engine, topology.maxdim, cell) for cell in missing)
        label = f"diagrams {run}"
        results = map_cells(_diagram_bytes, tasks, len(missing), params.compute, label)
        for cell, data in zip(missing, results, strict=True):
            storage.write_file(files[cell], data)
        constant = [list(cell) for cell in cells if is_constant(cloud(*cell))]
        names = [path.relative_to(work).as_posix() for path in files.values()]
        storage.seal(work, {**manifest, "constant_cells": constant}, names)


def _inputs_now(run: Run) -> dict[str, tuple[Path, str]]:
    """What an activation set was made from, as far as it is here."""
    found = {}
    if layout.PROMPTS_FILE.is_file():
        found["prompts_sha256"] = layout.PROMPTS_FILE, storage.sha256_of_file(layout.PROMPTS_FILE)
    if (path := layout.model_file(run.model)).is_file():
        found["weights_sha256"] = path, str(layout.read_model(path)["sha256"])
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
        step, layer = bad[0]
        is_not = f"at step {step} layer {layer} already is not: {_why_not_finite(activations)}"
        problem = f"must hold a layer that is finite at two checkpoints or more, and {is_not}"
        raise InvalidFile(activations.folder, problem)
    return steps, layers, [list(cell) for cell in bad]


def _divergences(activations: storage.StoredSet, step: int) -> npt.NDArray[np.float64] | None:
    """As they are stored; none can be negative or above ln 2 (a thousandth is rounding)."""
    found = activations.divergences(step)
    if found is not None and ((found < 0) | (found > math.log(2) + 1e-3)).any():
        raise InvalidFile(
            activations.folder / storage.behaviour_name(step),
            f"must hold divergences from 0 to ln 2, and holds {np.nanmin(found):g} to {np.nanmax(found):g}",
            "record it again with: dvc repro --force",
        )
    return found


def _why_not_finite(activations: storage.StoredSet) -> str:
    """What to think of states that are NaN or infinite: older manifests do not say what they were computed in."""
    made = activations.manifest
    if made["dtype"] == "float16":
        return "they overflowed float16; record with float32: recording.dtype"
    if "float16" in (made.get("compute_dtype"), made.get("autocast")):
        return (
            "they overflowed float16; record with float32 or bfloat16, which the model is then to compute in"
        )
    return "the training has diverged"


def _diagram_bytes(
    cloud: npt.NDArray[np.floating[Any]],
    plan: npt.NDArray[np.int64],
    engine: str,
    maxdim: int,
    cell: tuple[int, int],
) -> bytes:
    from topoflow.dynamics.cells import cell_diagrams

    try:
        return storage.diagram_bytes(cell_diagrams(cloud, plan, engine, maxdim))
    except InvalidArgument as error:
        raise InvalidArgument(
            f"{error.name} of the states recorded at step {cell[0]}, layer {cell[1]}",
            error.expected,
            error.got,
            error.remedy,
        ) from error


def trajectory(params: Params, run: Run) -> None:
    """Summaries, velocities, what they are held against, and the claims that follow: results/."""
    from topoflow.dynamics.measures.listed import chosen
    from topoflow.dynamics.trajectory import describe_movement, describe_pooled, describe_run, follow_layer
    from topoflow.dynamics.twins import clock_of
    from topoflow.study.tables import (
        class_rows,
        write_attributions,
        write_movement,
        write_quantities,
        write_trajectory,
    )

    activations, stored = open_activations(run), open_diagrams(run)
    stored.check_made_from(activations)
    if (losses := activations.manifest.get("loss_sha256")) is None:
        path = activations.folder / storage.MANIFEST
        raise InvalidFile(
            path, f"does not name the SHA-256 of {layout.LOSS_FILE}", layout.again(f"finetune@{run}")
        )
    steps, names, settings = stored.steps, stored.layers, params.trajectory
    whole = followed(run, activations, stored, params)
    follow = partial(
        follow_layer,
        plan=whole.recorded.plan,
        order=settings.resolved_order,
        n_replicates=settings.n_replicates,
        engine=whole.recorded.engine,
        seed=params.seed,
        measures=chosen(settings.measures),
    )
    tasks = (
        (
            OnDemand(partial(_in_layer, whole.recorded.cloud, layer), steps),
            OnDemand(partial(stored.diagrams, layer=layer), steps),
        )
        for layer in names
    )
    layers = list(map_cells(follow, tasks, len(names), params.compute, f"trajectory {run}"))
    told = list(_attributed(params, run, whole.recorded, layers))
    answers = (_divergences(activations, step) for step in steps[1:])
    # mean over prompts; empty if not recorded
    behaviour = np.array([row.mean(axis=1) for row in answers if row is not None])
    usable = len(behaviour) and np.isfinite(behaviour).all()
    clock = clock_of(settings.clock, steps) if settings.clock != "steps" else None
    pooled = describe_pooled(layers, steps, behaviour[:, 0] if usable else None, params.seed, clock)
    measured = {step: activations.measured(step) for step in activations.steps}
    numbers = {step: _parted(found, text=False) for step, found in measured.items()}
    first, last = numbers[activations.steps[0]], numbers[activations.steps[-1]]
    ends = activations.steps[0], int(pooled["peak_step"] or activations.steps[0]), activations.steps[-1]
    said = {step: _parted(measured[step], text=True) for step in sorted(set(ends))}
    facts = {
        "diagrams": stored.sha256,
        "order": settings.resolved_order,
        **({} if clock is None else {"first_third": settings.clock}),  # else of the steps
        "ground_metric": "euclidean",
        "measures": settings.measures,
        "level": params.claims.level,
        "layers": dict(
            zip(map(layer_name, names), describe_run(layers, steps, params.seed, clock), strict=True)
        ),
        "pooled": {**pooled, **describe_movement(whole)},
        "claims": {verdict.name: asdict(verdict) for verdict in whole.verdicts},
        "declared": asdict(params.claims),
        "quantities": {name: [first[name], last.get(name)] for name in first},  # at both ends
        "quantities_are": activations.manifest.get("quantities", {}),
        **({"texts": {str(step): texts for step, texts in said.items()}} if any(said.values()) else {}),
        "exploratory": is_exploratory(activations, params.claims),
        **(
            {"classes": {"columns": CLASS_COLUMNS, "rows": classes}} if (classes := class_rows(whole)) else {}
        ),
    }
    results = run.folder("results")
    with storage.sole_writer(results):
        write_trajectory(results, names, steps, layers, behaviour)
        write_movement(results, whole)
        write_quantities(results, numbers)
        write_attributions(results, told)
        (results / layout.CLASSES_FILE).unlink(missing_ok=True)
        if classes:  # no out of DVC, for most studies have no labels: trajectory.json has the rows
            layout.write_table(results / layout.CLASSES_FILE, CLASS_COLUMNS, classes)
        tables = (*layout.RUN_TABLES, *layout.LATER_RUN_TABLES)
        files = {**layout.hashes(results, tables), layout.LOSS_FILE: losses}
        storage.write_file(results / layout.TRAJECTORY_FILE, storage.json_bytes({**facts, "files": files}))


def _attributed(
    params: Params, run: Run, recorded: Recorded, layers: Sequence[LayerTrajectory]
) -> Iterator[tuple[int, int, int, Attribution]]:
    """What changed in each layer in its fastest interval, and from its first checkpoint to its last."""
    from topoflow.dynamics.attribution import attribute_layer

    steps, order = recorded.steps, params.trajectory.resolved_order
    pairs: list[list[tuple[int, int, int]]] = []
    tasks: list[tuple[Any, ...]] = []
    for name, layer in zip(recorded.layers, layers, strict=True):
        peak = int(np.argmax(layer.series[H1_VELOCITY]))
        of_layer = list(dict.fromkeys([(steps[peak], steps[peak + 1]), (steps[0], steps[-1])]))
        ends = sorted({step for pair in of_layer for step in pair})  # a worker is sent these and no others
        places = [(ends.index(before), ends.index(after)) for before, after in of_layer]
        clouds = OnDemand(partial(_in_layer, recorded.cloud, name), ends)
        tasks.append((clouds, recorded.plan, places, order))
        pairs.append([(name, *pair) for pair in of_layer])
    label = f"prompts behind the changes, {run}"
    found = map_cells(attribute_layer, tasks, len(tasks), params.compute, label)
    for named, attributions in zip(pairs, found, strict=True):
        for (name, before, after), attribution in zip(named, attributions, strict=True):
            yield name, before, after, attribution


def _in_layer(cloud: Callable[[int, int], npt.NDArray[Any]], layer: int, step: int) -> npt.NDArray[Any]:
    return cloud(step, layer)


def _parted(measured: Mapping[str, Any], text: bool) -> dict[str, Any]:
    """The texts among what was measured at a checkpoint, or all else."""
    return {name: value for name, value in measured.items() if isinstance(value, str) == text}
