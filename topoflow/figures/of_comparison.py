"""All pictures of a comparison, drawn from its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topoflow.figures.diagram_map import map_figure
from topoflow.figures.side_by_side import comparison_figure, separation_figure
from topoflow.figures.style import (
    Floats,
    png_bytes,
)
from topoflow.figures.verdicts import Row, effects_figure, number, verdicts_figure
from topoflow.storage import layout

if TYPE_CHECKING:
    from topoflow.finished import FinishedRun

__all__ = ["pictures"]


def pictures(folder: Path, facts: Mapping[str, Any], members: Sequence[FinishedRun]) -> dict[str, bytes]:
    """Draw a comparison.

    Parameters
    ----------
    folder : Path
        Where `compare_runs` has left its tables.
    facts : mapping
        What it returned.
    members : sequence of FinishedRun
        The runs compared.

    Returns
    -------
    dict of str to bytes
        File names and PNGs: velocities of all runs, separation of their labels, map of their diagrams, effect sizes,
        and the verdicts.

    Raises
    ------
    InvalidArgument
        If a table is missing or lacks a column.
    """
    order = float(facts["order"])
    several = len({member.run.model for member in members}) > 1
    groups = {str(m.run): m.run.without_seed(several) for m in members}
    curves = {
        str(m.run): layout.read_velocity(m.results / layout.VELOCITY_FILE, "h1_velocity") for m in members
    }
    alone = len(set(groups.values())) == len(members)  # then the run's own name says more
    whose = f"{len(members)} runs" + ("" if several else f" of {members[0].run.model}")
    separation = layout.read_rows(
        folder / "separation.csv", ("compared", "layer", "step", "between", "within")
    )
    drawn = {
        "velocity.png": comparison_figure(
            curves, order=order, title=f"H1 velocity of {whose}", groups=groups
        ),
        "separation.png": separation_figure(
            _overall(separation),
            order=order,
            title="Distance between labels, and between seeds of one label",
        ),
        "map.png": map_figure(
            _paths(layout.read_rows(folder / "map.csv", _MAP_COLUMNS), several),
            order=order,
            title=f"Map of the H1 diagrams of {whose}",
            seeds=not alone,
        ),
        "effects.png": effects_figure(
            layout.read_rows(
                folder / "effects.csv", ("label", "other", "measure", "effect", "value", "low", "high")
            ),
            title="Effect sizes between labels, a run an observation",
        ),
        "verdicts.png": verdicts_figure(
            layout.read_rows(folder / "verdicts.csv", _CLAIM_COLUMNS), title=f"What {whose} say"
        ),
    }
    return {name: png_bytes(figure) for name, figure in drawn.items()}


_CLAIM_COLUMNS = (
    "claim", "homology", "statement", "statistic", "value", "low", "high", "p", "verdict", "steps", "rule"
)  # fmt: skip
_MAP_COLUMNS = ("layer", "model", "objective", "seed", "step", "x", "y", "shown")
Separations = dict[str, dict[int, tuple[Floats, Floats, Floats]]]
Paths = dict[str, list[tuple[Floats, Floats]]]


def _overall(rows: Sequence[Row]) -> Separations:
    """Name -> layer -> steps, between, within: comparisons of all labels, not those of two out of more."""
    found: dict[str, dict[int, list[list[float]]]] = {}
    for row in rows:
        if row["compared"].startswith(("objectives of ", "models of ")):
            numbers = [number(row[name]) for name in ("step", "between", "within")]
            found.setdefault(row["compared"], {}).setdefault(int(row["layer"]), []).append(numbers)
    separations: Separations = {}
    for name, layers in found.items():
        columns = {layer: np.array(rows).T for layer, rows in layers.items()}
        separations[name] = {layer: (table[0], table[1], table[2]) for layer, table in columns.items()}
    return separations


def _paths(rows: Sequence[Row], several: bool) -> dict[int, tuple[float, Paths]]:
    """Layer -> share of the variance shown, group -> for each of its runs steps and coordinates."""
    found: dict[int, tuple[float, dict[str, dict[str, list[list[float]]]]]] = {}
    for row in rows:
        layer = found.setdefault(int(row["layer"]), (number(row["shown"]), {}))
        run = layout.Run(row["model"], row["objective"], int(row["seed"]))
        runs = layer[1].setdefault(run.without_seed(several), {})
        runs.setdefault(row["seed"], []).append([number(row[name]) for name in ("step", "x", "y")])
    paths: dict[int, tuple[float, Paths]] = {}
    for layer_name, (shown, groups) in found.items():
        arrays = {group: [np.array(table) for table in runs.values()] for group, runs in groups.items()}
        paths[layer_name] = (
            shown,
            {g: [(t[:, 0], t[:, 1:]) for t in tables] for g, tables in arrays.items()},
        )
    return paths
