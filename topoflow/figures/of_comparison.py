"""All pictures of a comparison, drawn from its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topoflow.figures.diagram_map import map_figure
from topoflow.figures.side_by_side import comparison_figure, separation_figure
from topoflow.figures.style import Floats, png_bytes
from topoflow.figures.verdicts import Row, effects_figure, number, verdicts_figure
from topoflow.names import EFFECT_COLUMNS, H1_VELOCITY, MAP_COLUMNS, SEPARATION_COLUMNS
from topoflow.storage import layout
from topoflow.storage.layout import Run

if TYPE_CHECKING:
    from topoflow.finished import FinishedRun

Trail = tuple[Floats, Floats]


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
        str(m.run): layout.read_velocity(m.results / layout.VELOCITY_FILE, H1_VELOCITY) for m in members
    }
    alone = len(set(groups.values())) == len(members)  # then the run's own name says more
    whose = f"{len(members)} runs" + ("" if several else f" of {members[0].run.model}")
    of_map: dict[int, tuple[float, dict[str, list[Trail]]]] = {}
    for layer, (shown, paths) in read_map(folder / "map.csv").items():
        _, together = of_map.setdefault(layer, (shown, {}))
        for run, path in paths.items():
            together.setdefault(run.without_seed(several), []).append(path)
    tables = {name: layout.read_rows(folder / f"{name}.csv", columns) for name, columns in _COLUMNS.items()}
    apart = "Distance between labels, and between seeds of one label"
    drawn = (
        comparison_figure(curves, order=order, title=f"H1 velocity of {whose}", groups=groups),
        separation_figure(_overall(tables["separation"]), order=order, title=apart),
        map_figure(of_map, order=order, title=f"Map of the H1 diagrams of {whose}", seeds=not alone),
        effects_figure(tables["effects"], title="Effect sizes between labels, a run an observation"),
        verdicts_figure(tables["verdicts"], title=f"What {whose} say"),
    )
    return dict(zip(layout.COMPARISON_PICTURES, map(png_bytes, drawn), strict=True))


_COLUMNS = {
    "separation": SEPARATION_COLUMNS,
    "effects": EFFECT_COLUMNS[:7],
    "verdicts": ("claim", "homology", "statement", "statistic", "value", "low", "high",
                 "p", "verdict", "steps"),
}  # fmt: skip


def _overall(rows: Sequence[Row]) -> dict[str, dict[int, list[Floats]]]:
    """Name -> layer -> steps, between, within: comparisons of all labels, not those of two out of more."""
    found: dict[str, dict[int, list[list[float]]]] = {}
    for row in rows:
        if row["compared"].startswith(("objectives of ", "models of ")):
            numbers = [number(row[name]) for name in ("step", "between", "within")]
            found.setdefault(row["compared"], {}).setdefault(int(row["layer"]), []).append(numbers)
    return {
        name: {layer: [*np.array(rows).T] for layer, rows in layers.items()} for name, layers in found.items()
    }


def read_map(path: Path) -> dict[int, tuple[float, dict[Run, Trail]]]:
    """For each layer of map.csv the share of the variance that is shown, and each run's steps and coordinates."""
    found: dict[int, tuple[float, dict[Run, list[list[float]]]]] = {}
    for row in layout.read_rows(path, MAP_COLUMNS[:8]):
        _, runs = found.setdefault(int(row["layer"]), (number(row["shown"]), {}))
        run = Run(row["model"], row["objective"], int(row["seed"]))
        runs.setdefault(run, []).append([number(row[name]) for name in ("step", "x", "y")])
    return {
        layer: (shown, {run: (np.array(rows)[:, 0], np.array(rows)[:, 1:]) for run, rows in runs.items()})
        for layer, (shown, runs) in found.items()
    }
