"""What topology adds to simpler measures over the runs of a study: read from their tables, and written as added.csv."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from topoflow.dynamics.added import (
    BEHAVIOUR,
    LEAST_SEEDS,
    LOSS,
    OBJECTIVE,
    Added,
    Measured,
    Numbers,
    added_to_intervals,
    added_to_labels,
)
from topoflow.dynamics.measures import listed
from topoflow.dynamics.twins import cumulative_rate
from topoflow.finished import FinishedRun
from topoflow.names import ADDED_COLUMNS, H1_VELOCITY, VELOCITY, column
from topoflow.storage import layout
from topoflow.storage.layout import write_table

Matrix = npt.NDArray[np.float64]

# Of topology: how far diagrams moved, and what they are like, beside the measures that are topological.
_WAYS = (H1_VELOCITY, column(0, VELOCITY), f"{H1_VELOCITY}_scale_free")
_STATES = (
    *(column(0, name) for name in ("total_persistence", "entropy")),
    *(column(1, name) for name in ("count", "total_persistence", "entropy", "persistence_max")),
)


def write_added(
    folder: Path, members: Sequence[FinishedRun], told_apart: Sequence[FinishedRun], level: float, seed: int
) -> list[dict[str, Any]]:
    """Write what topology adds to simpler measures, a row a model and target; returns the rows with a sentence each.

    Parameters
    ----------
    folder : Path
    members : sequence of FinishedRun
        All runs; intervals of each are predicted.
    told_apart : sequence of FinishedRun
        Those whose objectives are told: no controls.
    level
        Of each test.
    seed
        Of the permutations.
    """
    found = [
        {"model": model, **asdict(added), "verdict": added.verdict(level), "sentence": added.sentence(level)}
        for model in dict.fromkeys(member.run.model for member in members)
        for added in _of_model(
            [measured(it) for it in members if it.run.model == model and has_measures(it)],
            [measured(it) for it in told_apart if it.run.model == model and has_measures(it)],
            seed,
        )
    ]
    write_table(
        folder / layout.ADDED_FILE, ADDED_COLUMNS, ([row[name] for name in ADDED_COLUMNS] for row in found)
    )
    return found


def has_measures(member: FinishedRun) -> bool:
    """Whether its measures are known, which an older topoflow did not compute."""
    return (member.results / layout.MEASURES_FILE).is_file()


def measured(member: FinishedRun) -> Measured:
    """What was measured of a run, out of its tables."""
    rates = member.activations.manifest.get("learning_rates")
    clock = cumulative_rate(member.diagrams.steps, None if rates is None else np.array(rates))
    return read_measured(member.results, member.run.objective, member.run.seed, clock)


def read_measured(results: Path, label: str, seed: int, clock: Matrix) -> Measured:
    """What was measured of a run whose tables lie in a folder; a target that was not recorded is left out."""
    velocity, chosen, summaries = (
        _by_layer(results / name)
        for name in (layout.VELOCITY_FILE, layout.MEASURES_FILE, layout.SUMMARIES_FILE)
    )
    ways: dict[bool, dict[str, Matrix]] = {False: {}, True: {name: velocity[name] for name in _WAYS}}
    states: dict[bool, dict[str, Matrix]] = {False: {}, True: {name: summaries[name] for name in _STATES}}
    for measure in listed.MEASURES:
        if measure in listed.IN_VELOCITY:
            ways[measure.topological][measure.name] = velocity[measure.name]
        elif measure.name in chosen and measure.n_cells == 2:
            ways[measure.topological][measure.name] = chosen[measure.name][:, 1:]
        elif measure.name in chosen:
            states[measure.topological][measure.name] = chosen[measure.name]
    simple, topology = (Numbers(ways[kind], states[kind]) for kind in (False, True))
    return Measured(label, seed, clock, simple, topology, dict(_targets(results, len(clock))))


def _by_layer(path: Path) -> dict[str, Matrix]:
    """Each column of a table as a matrix, a row a layer."""
    table = layout.read_columns(path)
    n_layers = len(np.unique(table["layer"]))
    return {name: values.reshape(n_layers, -1) for name, values in table.items()}


def _targets(results: Path, n_checkpoints: int) -> Iterator[tuple[str, Matrix]]:
    moved = layout.read_columns(results / layout.BEHAVIOUR_FILE, [VELOCITY])[VELOCITY]
    if len(moved) == n_checkpoints - 1 and np.isfinite(moved).all() and np.ptp(moved) > 0:
        yield BEHAVIOUR, moved
    path = results / layout.QUANTITIES_FILE
    if path.is_file():
        losses = [of for name, of in layout.read_columns(path).items() if name.startswith("held_out_loss/")]
        change = np.diff(np.mean(losses, axis=0)) if losses else np.zeros(0)
        if len(change) == n_checkpoints - 1 and np.isfinite(change).all() and np.ptp(change) > 0:
            yield LOSS, change


def _of_model(runs: Sequence[Measured], told_apart: Sequence[Measured], seed: int) -> Iterator[Added]:
    """What can be asked of the runs of one model; nothing of fewer than `LEAST_SEEDS` seeds."""
    if len({run.seed for run in runs}) < LEAST_SEEDS:
        return
    for target in (BEHAVIOUR, LOSS):
        if all(target in run.targets for run in runs):
            yield added_to_intervals(runs, target, seed=seed)
    seeds: Mapping[str, set[int]] = {
        label: {run.seed for run in told_apart if run.label == label}
        for label in {run.label for run in told_apart}
    }
    shared = set.intersection(*seeds.values()) if seeds else set()
    if len(seeds) > 1 and len(shared) >= LEAST_SEEDS:
        kept = [run for run in told_apart if run.seed in shared]
        yield added_to_labels(kept, target=OBJECTIVE, seed=seed)
