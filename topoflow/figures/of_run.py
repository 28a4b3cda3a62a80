"""All pictures of one run, drawn from its diagrams and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topoflow import storage
from topoflow.finished import told_of_classes
from topoflow.names import (
    CLASS_NUMBERS,
    DISTANCE_COLUMNS,
    H1_DISTANCE,
    H1_SAMPLING_FLOOR,
    H1_VELOCITY,
    MOVEMENT_COLUMNS,
    VELOCITY,
    layer_of,
)
from topoflow.storage import layout
from topoflow.storage.files import check_no_link, read_bytes, remove
from topoflow.storage.layout import Run
from topoflow.topology.betti import mean_betti_numbers

if TYPE_CHECKING:
    from topoflow.figures.movement import Moved

Floats = NDArray[np.float64]
# rows of a picture of Betti curves
_N_DISTANCES = 256
NAMES = ("movement.png", "velocity.png", "heatmap.png", "distances.png", "controls.png", "betti.png",
         "summaries.png", "measures.png", "diagrams.png", "barcodes.png")  # fmt: skip

CLASSES_PICTURE = "labels.png"  # of a run whose prompts carry labels

# Headings of the picture of measures: what a checkpoint is like, and how far it is from the one before.
_OF_ONE = "At each checkpoint"
_OF_TWO = ("How far the states moved since the checkpoint before", "How far their topology moved")


def kept_pictures(run: Run, stored: storage.StoredSet, results: Path) -> dict[str, bytes]:
    """As `pictures`, kept in .topoflow/ once drawn, since MLflow and the report show the same ones."""
    home = storage.WORK_FOLDER / "pictures" / str(run)
    folder = home / _made_from(stored, results)
    facts = layout.read_json(results / layout.TRAJECTORY_FILE)
    try:
        return {name: read_bytes(folder / name) for name in _names(facts)}
    except FileNotFoundError:
        pass
    drawn = pictures(run, stored, results)
    check_no_link(home)
    remove(home)
    for name, picture in drawn.items():
        storage.write_file(folder / name, picture)
    return drawn


def _names(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The pictures that there are of a run."""
    return (*NAMES, CLASSES_PICTURE) if facts.get("classes") else NAMES


def _made_from(stored: storage.StoredSet, results: Path) -> str:
    """Identifies what decides the pictures: diagrams, tables and the code that draws them."""
    tables = [storage.sha256_of_file(path) for path in sorted(results.iterdir())]
    code = storage.code_sha256("figures", "topology")
    return storage.sha256("".join((stored.sha256, *tables, code, version("matplotlib"))).encode())[:16]


def pictures(run: Run, stored: storage.StoredSet, results: Path) -> dict[str, bytes]:
    """Draw a run.

    Parameters
    ----------
    run : Run
    stored : StoredSet
        Its diagrams.
    results : Path
        The folder of its tables.

    Returns
    -------
    dict of str to bytes
        File names and PNGs.
    """
    # they bring matplotlib, seconds that kept pictures need not wait for
    from topoflow.figures import checkpoints, classes, evolution, measures, movement, persistence, velocity
    from topoflow.figures.style import png_bytes

    facts = layout.read_json(results / layout.TRAJECTORY_FILE)
    order, title = facts["order"], f"{run.model}, {run.objective}, seed {run.seed}"
    steps, speeds, more = _velocities(results, facts)
    layers = list(speeds)
    paired, distances = _distances(results)
    some = "checkpoints" if len(paired) == len(steps) else f"{len(paired)} of {len(steps)} checkpoints"
    # the layer that moves most shows best what moving means
    busiest = max(layers, key=lambda layer: float(speeds[layer].sum()))
    peak = int(steps[1 + int(np.argmax(speeds[busiest]))])
    panels = [
        (f"{name}, step {step}", stored.diagrams(step, busiest)[0])
        for name, step in (("first", int(steps[0])), ("peak", peak), ("last", int(steps[-1])))
    ]
    shown = f"{title}: layer {busiest}, one subsample of {stored.manifest['subsample_size']} prompts"
    # shares of a layer's peak: states of other layers may be a hundred times as large
    shares = np.array([line / (float(np.nanmax(line)) or 1.0) for line in speeds.values()])
    share = f"H1 velocity as a share of the layer's peak (order-{order:g} Wasserstein, Euclidean ground)"
    ends = (int(steps[0]), int(steps[-1]))
    curves = {layer: _betti_curves(stored, layer, paired) for layer in stored.layers}
    of_some = f" ({some})" if len(paired) < len(steps) else ""
    of_voids = evolution.SUMMARIES_OF_VOIDS if stored.manifest["maxdim"] > 1 else {}
    summaries = _summaries(results, [*evolution.SUMMARIES, *of_voids])
    of_classes = read_classes(facts)
    drawn = [
        movement.movement_figure(*_movement(results), title=f"Movement between twin checkpoints, {title}"),
        velocity.velocity_figure(steps, speeds, order=order, title=f"H1 velocity, {title}", **more),
        velocity.heatmap_figure(steps, layers, shares, label=share, title=f"H1 velocity by layer, {title}"),
        checkpoints.distances_figure(
            paired, distances, order=order, title=f"Distances between {some}, {title}"
        ),
        checkpoints.controls_figure(
            layers, ends, _controls(results), title=f"Against Gaussian clouds, {title}"
        ),
        evolution.betti_figure(paired, curves, title=f"Holes through training, {title}{of_some}"),
        evolution.summaries_figure(*summaries, title=f"Summaries of diagrams, {title}"),
        measures.measures_figure(steps, read_measures(results), title=f"Beside topology, {title}"),
        persistence.diagrams_figure(panels, title=f"Persistence diagrams, {shown}"),
        persistence.barcodes_figure(panels, title=f"Barcodes, {shown}"),
    ]
    if of_classes:
        drawn.append(classes.classes_figure(steps, of_classes, title=f"Classes of prompts, {title}"))
    return dict(zip(_names(facts), map(png_bytes, drawn), strict=True))


def _movement(results: Path) -> tuple[Floats, Floats, dict[str, Moved]]:
    """Anchors, cumulative learning rate, and scale-free movement by homology; nothing where there are no twins."""
    from topoflow.figures.movement import Moved

    of: dict[str, list[list[float]]] = {}
    for row in layout.read_rows(results / layout.MOVEMENT_FILE, MOVEMENT_COLUMNS):
        if row["kind"] == "scale-free":
            numbers = [float(row[name] or "nan") for name in MOVEMENT_COLUMNS[2:]]
            of.setdefault(row["homology"], []).append(numbers)
    anchors, clock, moved = np.zeros(0), np.zeros(0), {}
    for homology, rows in of.items():
        before, after, clock_before, clock_after, squared, floor, *rotated = np.array(rows).T
        anchors, clock = np.append(before[:1], after), np.append(clock_before[:1], clock_after)
        drawn = np.array(rotated) if np.isfinite(rotated).all() else None
        moved[homology] = Moved(squared, floor, drawn)
    return anchors, clock, moved


def _velocities(
    results: Path, facts: Mapping[str, Any]
) -> tuple[NDArray[np.int64], dict[int, Floats], dict[str, Any]]:
    """Checkpoints, H1 velocities by layer, and what `velocity_figure` shows with them."""
    path = results / layout.VELOCITY_FILE
    steps, speeds = layout.read_velocity(path, H1_VELOCITY)
    spreads, low, high = (
        layout.read_velocity(path, f"{H1_VELOCITY}_{name}")[1] for name in ("std", "low", "high")
    )
    floors = {layer_of(key): numbers[H1_SAMPLING_FLOOR] for key, numbers in facts["layers"].items()}
    loss = layout.read_columns(results / layout.LOSS_FILE, ["step", "loss"], finite=False)
    # empty where behaviour was not recorded
    answers = layout.read_columns(results / layout.BEHAVIOUR_FILE, ["step", VELOCITY])[VELOCITY]
    more = {
        "spreads": spreads,
        "bands": {layer: (low[layer], high[layer]) for layer in speeds},
        "floors": {layer: float(floor) for layer, floor in floors.items() if floor is not None},
        "behaviour": (steps, answers) if answers.size else None,
        "loss": (loss["step"], loss["loss"]),
    }
    return steps, speeds, more


def _distances(results: Path) -> tuple[list[int], dict[int, Floats]]:
    """The checkpoints that are compared with one another, and the matrix of each layer."""
    table = layout.read_columns(results / layout.DISTANCES_FILE, DISTANCE_COLUMNS)
    steps = np.unique([table["step"], table["other_step"]])
    matrices = {}
    for layer in np.unique(table["layer"]):
        matrix, rows = np.zeros((len(steps), len(steps))), table["layer"] == layer
        i, j = (np.searchsorted(steps, table[name][rows]) for name in ("step", "other_step"))
        matrix[i, j] = matrix[j, i] = table[H1_DISTANCE][rows]
        matrices[int(layer)] = matrix
    return steps.astype(int).tolist(), matrices


def _controls(results: Path) -> dict[str, dict[str, Floats]]:
    """The values of each summary, by kind of cloud, at the first step and the last, shape (n_layers, 2)."""
    # of each layer the first step, then the last
    kinds, names = ("recorded", "matched", "isotropic"), layout.CONTROL_SUMMARIES
    columns = [f"{kind}_{name}" for name in names for kind in kinds]
    table = layout.read_columns(results / layout.CONTROLS_FILE, columns)
    return {name: {kind: table[f"{kind}_{name}"].reshape(-1, 2) for kind in kinds} for name in names}


def _betti_curves(stored: storage.StoredSet, layer: int, steps: Sequence[int]) -> tuple[Floats, Floats]:
    """Distances from a layer's first birth of a hole to its last death, and b1 at each checkpoint."""
    cells = [[diagrams[1] for diagrams in stored.diagrams(step, layer)] for step in steps]
    ends = np.concatenate([diagram.ravel() for cell in cells for diagram in cell])
    ends = ends[np.isfinite(ends)]
    low, high = (float(ends.min()), float(ends.max())) if ends.size else (0.0, 1.0)
    distances = np.linspace(low, high, _N_DISTANCES)
    return distances, np.array([mean_betti_numbers(cell, distances) for cell in cells])


def read_measures(results: Path) -> dict[str, dict[str, dict[int, Floats]]]:
    """The measures of a run by heading and label, each with its values by layer; older runs have the first three."""
    from topoflow.dynamics.measures import listed

    table = layout.read_columns(results / layout.VELOCITY_FILE)
    path = results / layout.MEASURES_FILE
    chosen = layout.read_columns(path) if path.is_file() else {}
    groups: dict[str, dict[str, dict[int, Floats]]] = {}
    for measure in listed.MEASURES:
        source = table if measure in listed.IN_VELOCITY else chosen
        if measure.name not in source:
            continue
        heading = _OF_TWO[measure.topological] if measure.n_cells == 2 else _OF_ONE
        label = measure.name.replace("_", " ") + (f"\n({measure.unit})" if measure.unit else "")
        first = int(source is chosen and measure.n_cells == 2)  # a row that is empty
        lines = layout.by_layer(source, measure.name)
        groups.setdefault(heading, {})[label] = {layer: line[first:] for layer, line in lines.items()}
    return groups


def read_classes(facts: Mapping[str, Any]) -> dict[int, dict[str, dict[str, Floats]]]:
    """What trajectory.json says of classes of prompts: by layer, class and column a number a checkpoint."""
    found: dict[int, dict[str, dict[str, list[float]]]] = {}
    for row in told_of_classes(facts):
        columns = found.setdefault(row["layer"], {}).setdefault(row["label"], {})
        for name in CLASS_NUMBERS:
            columns.setdefault(name, []).append(math.nan if row[name] is None else row[name])
    return {
        layer: {
            label: {name: np.array(of) for name, of in columns.items()} for label, columns in labels.items()
        }
        for layer, labels in found.items()
    }


def _summaries(results: Path, names: list[str]) -> tuple[list[int], dict[str, dict[int, Floats]]]:
    """The checkpoints of a run, and of each named summary its values by layer."""
    table = layout.read_columns(results / layout.SUMMARIES_FILE, ["layer", "step", *names])
    values = {name: layout.by_layer(table, name) for name in names}
    return np.unique(table["step"]).astype(int).tolist(), values
