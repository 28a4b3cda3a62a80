"""The tables of a run's trajectory: rows are layers and steps, missing values empty fields."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoflow.dynamics.attribution import Attribution
from topoflow.dynamics.claims.verdict import known
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.following import RAW, SCALE_FREE, Trajectory
from topoflow.dynamics.trajectory import LayerTrajectory, paired_checkpoints
from topoflow.names import (
    BAR_COLUMNS,
    DISPLACEMENT,
    DISTANCE_COLUMNS,
    MOVEMENT_COLUMNS,
    PROMPT_COLUMNS,
    SHOWN_SUMMARIES,
    VELOCITY,
)
from topoflow.storage import layout
from topoflow.storage.layout import write_table
from topoflow.topology.summaries import SUMMARY_NAMES, summary_names


def write_trajectory(
    folder: Path,
    names: Sequence[int],
    steps: Sequence[int],
    layers: Sequence[LayerTrajectory],
    behaviour: NDArray[np.float64],
) -> None:
    """Write all tables of a run.

    Parameters
    ----------
    folder : Path
        The run's results.
    names : sequence of int
        The layers' numbers.
    steps : sequence of int
        The T checkpoints.
    layers : sequence of LayerTrajectory
    behaviour : ndarray, shape (T - 1, 2)
        Divergences from the checkpoint before and from the first, in nats; of no rows if not recorded.
    """
    paired = [steps[place] for place in paired_checkpoints(len(steps))]
    _write_velocity(folder, names, steps, layers)
    write_table(
        folder / layout.SUMMARIES_FILE,
        ["layer", "step", *summary_names(2 if layers[0].has_voids else 1)],
        (
            [name, step, *row]
            for name, layer in zip(names, layers, strict=True)
            for step, row in zip(steps, layer.summaries, strict=True)
        ),
    )
    write_table(
        folder / layout.DISTANCES_FILE,
        DISTANCE_COLUMNS,
        (
            [name, paired[i], paired[j], layer.distances[i, j]]
            for name, layer in zip(names, layers, strict=True)
            for i, j in combinations(range(len(paired)), 2)
        ),
    )
    _write_controls(folder, names, steps, layers)
    _write_measures(folder, names, steps, layers)
    write_table(
        folder / layout.BEHAVIOUR_FILE,
        ["previous_step", "step", VELOCITY, DISPLACEMENT],
        ([*move, *values] for move, values in zip(pairwise(steps), behaviour, strict=False)),
    )


def write_quantities(folder: Path, measured: Mapping[int, Mapping[str, float | None]]) -> None:
    """Write what was measured of the model at checkpoints: a row a step, a column a number, as MLflow names it."""
    names = list(dict.fromkeys(name for found in measured.values() for name in found))
    rows = ([step, *(found.get(name) for name in names)] for step, found in measured.items())
    write_table(folder / layout.QUANTITIES_FILE, ["step", *names], rows)


def write_attributions(
    folder: Path,
    told: Iterable[tuple[int, int, int, Attribution]],
    most_bars: int = 10,
    most_prompts: int = 20,
) -> None:
    """Write which bars and which prompts changed most, of each (layer, step before, step, what changed).

    A prompt is named by its line in data/prompts.jsonl, counted from 1 as answers are; a bar has the lines of all its
    prompts, with spaces between them. Births, deaths and displacements are in filtration distance; shares and
    neighbours, from 0 to 1, are those of `Attribution`. Of a bar that was born, what was before is empty, and of one
    that died, what is after. Where nothing changed there are no rows.
    """
    bars: list[list[Any]] = []
    prompts: list[list[Any]] = []
    for layer, previous, step, found in told:
        for homology, changed in found.bars.items():
            for bar in changed[:most_bars]:
                ends = (*(bar.before or (None, None)), *(bar.after or (None, None)))
                lines = " ".join(str(place + 1) for place in bar.prompts)
                named = (layer, previous, step, homology, bar.kind)
                bars.append([*named, *ends, bar.share, bar.n_subsamples, lines])
        for place in found.order[:most_prompts]:
            if found.share[place] > 0:
                scores = (
                    found.share,
                    found.shares["H1"],
                    found.shares["H0"],
                    found.displacement,
                    found.neighbours,
                )
                prompts.append([layer, previous, step, place + 1, *(score[place] for score in scores)])
    write_table(folder / layout.BARS_FILE, BAR_COLUMNS, bars)
    write_table(folder / layout.PROMPT_SCORES_FILE, PROMPT_COLUMNS, prompts)


def class_rows(run: Trajectory) -> list[list[Any]]:
    """The classes of a run whose prompts carry labels: a row a layer, checkpoint and class, under `CLASS_COLUMNS`.

    Velocities are since the checkpoint before, in filtration distance, on as many points of each class (`points`);
    beside each is the 95 % band under shuffled labels. The AUC is that of a linear probe. None is a missing value.
    """
    rows: list[list[Any]] = []
    shown = [SUMMARY_NAMES.index(name) for name in SHOWN_SUMMARIES]
    counts = Counter(run.recorded.labels or ())
    for layer, found in run.classes.items():
        of_both = [np.stack([found.velocity[h][0], *found.band(h)]) for h in HOMOLOGY]
        for at, name in enumerate(found.names):
            for place, step in enumerate(run.recorded.steps):
                moved = np.concatenate([of[:, at, place - 1] for of in of_both]) if place else [math.nan] * 6
                numbers = [
                    *moved,
                    *found.summaries[at, place, shown],
                    found.auc[at, place],
                    *found.chance[at],
                ]
                before = run.recorded.steps[place - 1] if place else None
                named = [layer, before, step, name, counts[name], found.size]
                rows.append([*named, *(known(float(number)) for number in numbers)])
    return rows


def write_movement(folder: Path, run: Trajectory) -> None:
    """Write the movement between twins: a row a kind of clouds, homology and interval; none without twins.

    Squared movement and its jitter floor (a standard deviation) have no unit: clouds count in median distances. Of
    scale-free clouds `rotated_*` are the movement under rotations of the prompts on the same few subsamples as
    `unrotated`: mean and 95 % band of those that were drawn, empty where none were. The clock is the cumulative
    learning rate, and empty where that is not known.
    """
    rows = []
    if not run.why_no_twins:
        clock = [None] * len(run.anchors) if run.why_no_rates else run.rate_clock
        for kind in (RAW, SCALE_FREE):
            for homology, moved in run.movement(kind).items():
                compared = run.rotation_band(homology) if kind == SCALE_FREE else None
                for at, (before, step) in enumerate(pairwise(run.anchors)):
                    rows.append(
                        [
                            kind, homology, before, step, *clock[at : at + 2], moved.squared[at],
                            moved.jitter_floor[at], *([None] * 4 if compared is None else compared[:, at]),
                        ]
                    )  # fmt: skip
    write_table(folder / layout.MOVEMENT_FILE, MOVEMENT_COLUMNS, rows)


def _write_velocity(
    folder: Path, names: Sequence[int], steps: Sequence[int], layers: Sequence[LayerTrajectory]
) -> None:
    columns = list(layers[0].series)
    write_table(
        folder / layout.VELOCITY_FILE,
        ["layer", "previous_step", "step", *columns],
        (
            [name, *move, *(layer.series[column][at] for column in columns)]
            for name, layer in zip(names, layers, strict=True)
            for at, move in enumerate(pairwise(steps))
        ),
    )


def _write_measures(
    folder: Path, names: Sequence[int], steps: Sequence[int], layers: Sequence[LayerTrajectory]
) -> None:
    """Write the measures that were chosen: a row a layer and step; those of two checkpoints are empty at the first."""
    columns = list(layers[0].measures)
    rows = (
        [name, step, *(layer.measures[column][at] for column in columns)]
        for name, layer in zip(names, layers, strict=True)
        for at, step in enumerate(steps)
    )
    write_table(folder / layout.MEASURES_FILE, ["layer", "step", *columns], rows)


def _write_controls(
    folder: Path, names: Sequence[int], steps: Sequence[int], layers: Sequence[LayerTrajectory]
) -> None:
    """Summaries of the recorded states beside those of Gaussian clouds, at the first checkpoint and the last."""
    shown = [SUMMARY_NAMES.index(name) for name in layout.CONTROL_SUMMARIES]
    kinds = ("recorded", *layers[0].controls)
    rows = []
    for name, layer in zip(names, layers, strict=True):
        clouds = (layer.summaries[[0, -1]], *layer.controls.values())
        for end, step in enumerate((steps[0], steps[-1])):
            rows.append([name, step, *(cloud[end][column] for column in shown for cloud in clouds)])
    header = ["layer", "step", *(f"{kind}_{name}" for name in layout.CONTROL_SUMMARIES for kind in kinds)]
    write_table(folder / layout.CONTROLS_FILE, header, rows)
