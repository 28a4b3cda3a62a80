"""Trainings that were run twice from one seed on one device: how far rounding alone has taken them apart.

On a CPU a training is the same to the bit each time. On a GPU sums may be taken in another order, and training makes
the difference grow. A velocity that is no larger than the distance of two reruns says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topoflow.config import Params, Rerun
from topoflow.dynamics.cells import cell_distances
from topoflow.finished import FinishedRun
from topoflow.names import RERUN_COLUMNS, RERUN_FLOOR, VELOCITY, column
from topoflow.storage import layout
from topoflow.storage.files import remove
from topoflow.storage.layout import write_table


def write_reruns(folder: Path, params: Params, members: Sequence[FinishedRun]) -> list[dict[str, Any]]:
    """Write rerun.csv, if a run is compared with its rerun: their distances beside the velocities of the first.

    Returns
    -------
    list of dict
        Of each pair, `run`, `rerun`, `equal` (to the bit, all states) and a `sentence`; empty where there is no pair.
    """
    there = {member.run: member for member in members}
    found, rows = [], []
    for rerun in members:
        source = params.objective.get(rerun.run.objective)
        if not isinstance(source, Rerun):
            continue
        first = there.get(layout.Run(rerun.run.model, source.of, rerun.run.seed))
        if first is None:
            continue
        of_pair = list(_rows(first, rerun))
        rows += [[first.run.model, first.run.objective, first.run.seed, *row.values()] for row in of_pair]
        found.append(_said(first, rerun, of_pair))
    remove(folder / layout.RERUN_FILE)  # of a comparison before, since DVC does not know it
    if rows:
        write_table(folder / layout.RERUN_FILE, RERUN_COLUMNS, rows)
    return found


def _rows(first: FinishedRun, rerun: FinishedRun) -> Iterator[dict[str, Any]]:
    """Of each layer and step the floors of H1 and H0, beside the velocities with which the first run came there."""
    order, velocity = first.facts["order"], layout.read_columns(first.results / layout.VELOCITY_FILE)
    for layer in first.diagrams.layers:
        for step in first.diagrams.steps:
            cells = [member.diagrams.diagrams(step, layer) for member in (first, rerun)]
            here = (velocity["layer"] == layer) & (velocity["step"] == step)
            row: dict[str, Any] = {"layer": layer, "step": step}
            for h in (1, 0):
                row[column(h, RERUN_FLOOR)] = float(cell_distances(cells[0], cells[1], h, order).mean())
                row[column(h, VELOCITY)] = next(iter(velocity[column(h, VELOCITY)][here].tolist()), None)
            yield row


def _said(first: FinishedRun, rerun: FinishedRun, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What two trainings from one seed say of the run, in a sentence."""
    floor, velocity = column(1, RERUN_FLOOR), column(1, VELOCITY)
    steps, layers = first.activations.steps, first.activations.layers
    equal = all(
        np.array_equal(first.activations.point_cloud(step, layer), rerun.activations.point_cloud(step, layer))
        for step in steps
        for layer in layers
    )
    most = max(rows, key=lambda row: np.nan_to_num(row[floor], nan=-1.0))
    device = first.activations.manifest.get("device", "its device")
    if equal:
        said = f"was trained twice from one seed on {device}, and all states are equal to the bit: the rerun floor is 0"
    else:
        moved = [row for row in rows if row[velocity] is not None]
        below = sum(row[velocity] <= row[floor] for row in moved)
        said = (
            f"was trained twice from one seed on {device}, and the two differ by rounding that grew: by "
            f"{most[floor]:.3g} at most (H1, layer {most['layer']}, step {most['step']}); of {len(moved)} velocities "
            f"{below} are no larger than this rerun floor at their step"
        )
    return {
        "run": str(first.run),
        "rerun": str(rerun.run),
        "equal": equal,
        "sentence": f"{first.run} {said}.",
    }
