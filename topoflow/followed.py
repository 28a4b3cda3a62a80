"""A run as its claims see it, out of its stored sets: what it is followed with decides its verdicts."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from topoflow import storage
from topoflow.config import Params
from topoflow.finished import clouds_of
from topoflow.storage.kept import Kept
from topoflow.storage.layout import Run
from topoflow.topology.point_clouds import subsample_plan
from topoflow.topology.prepared import Preparation

if TYPE_CHECKING:
    from topoflow.dynamics.following import Recorded, Trajectory

# What decides rotations and their movement, and no claim: they are dear, so that another claim draws none again.
ROTATES = (
    "topology",
    *(f"dynamics/{name}.py" for name in
      ("cells", "features", "following", "movement", "permutation", "surrogates", "twins")),
)  # fmt: skip


def followed(
    run: Run, activations: storage.StoredSet, diagrams: storage.StoredSet, params: Params
) -> Trajectory:
    """Follow a run from its verified sets: clouds and diagrams are read when they are needed.

    Rotations of its prompts are kept in .topoflow/, for a process that goes on and for `compare`.
    """
    from topoflow.compute import map_cells
    from topoflow.dynamics.following import Recorded, Trajectory

    made = diagrams.manifest
    plan = subsample_plan(made["n_prompts"], made["n_subsamples"], made["subsample_size"], made["study_seed"])
    rates = activations.manifest.get("learning_rates")
    recorded = Recorded(
        steps=tuple(diagrams.steps),
        layers=tuple(diagrams.layers),
        cloud=clouds_of(activations, Preparation(**made.get("prepared") or {})),
        plan=plan,
        learning_rate=None if rates is None else np.array(rates),
        rates_known=rates is not None,
        cell=diagrams.diagrams,
        roots=activations.roots,
        engine=_engine_of_loops(made["engine"], made["maxdim"]),
        seed=made["study_seed"],
        labels=None if (labels := activations.manifest.get("labels")) is None else tuple(labels),
        order=params.trajectory.resolved_order,
    )

    def mapper(function: Any, tasks: Any, n_tasks: int, label: str) -> Any:
        if n_tasks > 1 and not sys.stderr.isatty():  # where no bar is shown
            print(f"{run}: {label}", file=sys.stderr, flush=True)
        return map_cells(function, tasks, n_tasks, params.compute, f"{label}, {run}")

    keeper = _kept_rotations(run, activations.sha256, recorded, params, made.get("prepared"))
    return Trajectory(recorded, params.claims, mapper, keeper)


def _engine_of_loops(engine: str, maxdim: int) -> str:
    """What computes H0 and H1 beside diagrams of H2: lune has the same bits as redzed, several times as fast."""
    return "lune" if maxdim > 1 and engine == "redzed" else str(engine)


def _kept_rotations(run: Run, activations: str, recorded: Recorded, params: Params, prepared: Any) -> Kept:
    decides = {
        "activations": activations,
        "steps": recorded.steps,
        "layers": recorded.layers,
        "plan": recorded.plan[: params.claims.rotation_subsamples].tolist(),
        "prepared": prepared,
        "engine": recorded.engine,
        "seed": recorded.seed,
        "code": storage.code_sha256(*ROTATES),
        "versions": {package: version(package) for package in ("numba", "numpy", "ripser", "scipy")},
    }
    return Kept("rotations", str(run), decides, ndim=4)
