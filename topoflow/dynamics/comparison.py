"""Runs side by side: how far apart their diagrams are, and what that says about their labels.

The run is the unit throughout: its checkpoints depend on one another, its subsamples overlap, and all runs see the
same prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.effects import EffectSize, cliffs_delta, hedges_g
from topoflow.dynamics.energy import energy_distance
from topoflow.dynamics.labelings import PermutationTest
from topoflow.dynamics.separation import separation, trajectory_distances
from topoflow.topology.arrays import as_numbers

# What is compared between labels by effect sizes: numbers of a run, all layers pooled.
MEASURES = ("concentration", "settled", "peak_step", "peak_difference")


@dataclass(frozen=True)
class LabelComparison:
    """What separates the runs of some labels.

    Attributes
    ----------
    labels : tuple of str
    between, within : ndarray, shape (n_layers, n_checkpoints)
        Mean H1 distance of runs of different labels, and of one label (the seed-to-seed floor), in filtration
        distance. Runs of one seed are not compared, since they share the order of their rows.
    ratio : float
        The distance between labels over that within, of whole trajectories; NaN where nothing differs.
    """

    labels: tuple[str, ...]
    between: NDArray[np.float64]
    within: NDArray[np.float64]
    ratio: float


def runs_at_each_checkpoint(matrix: ArrayLike, n_runs: int) -> NDArray[np.float64]:
    """Pick the distances between runs at equal checkpoints out of those between all cells of a layer.

    Parameters
    ----------
    matrix : array_like, shape (n_runs * T, n_runs * T)
        Cells in order of run, then checkpoint.
    n_runs

    Returns
    -------
    ndarray of float64, shape (T, n_runs, n_runs)

    Examples
    --------
    >>> cells = [0.0, 1.0, 10.0, 13.0]  # two runs of two checkpoints, as numbers
    >>> runs_at_each_checkpoint(np.abs(np.subtract.outer(cells, cells)), 2)[:, 0, 1]
    array([10., 12.])
    """
    cells = as_numbers("matrix", matrix)
    n_checkpoints = len(cells) // n_runs
    blocks = cells.reshape(n_runs, n_checkpoints, n_runs, n_checkpoints)
    return np.ascontiguousarray(np.einsum("itjt->tij", blocks))


def compare_labels(
    distances: ArrayLike, labels: Sequence[str], seeds: Sequence[int]
) -> LabelComparison | None:
    """Measure how far the trajectories of labelled runs are apart; None where no two runs of one label differ in seed.

    Distances are averaged over pairs of different seeds. This describes; `topoflow.dynamics.claims.objectives` tests.

    Parameters
    ----------
    distances : array_like, shape (n_layers, T, n_runs, n_runs)
        As `runs_at_each_checkpoint` gives them, a layer each.
    labels : sequence of str
        The labels of the runs: objectives, or models.
    seeds : sequence of int
        The seeds of the runs' trainings.
    """
    stack = as_numbers("distances", distances)
    names = tuple(dict.fromkeys(labels))
    per_label = [{s for s, name in zip(seeds, labels, strict=True) if name == label} for label in names]
    if len(names) < 2 or min(map(len, per_label)) < 2:
        return None
    apart = separation(stack, labels, seeds)
    ratio = separation(trajectory_distances(stack), labels, seeds).ratio
    return LabelComparison(names, apart.between, apart.within, float(ratio))


def pairs_of(labels: Sequence[str]) -> list[tuple[str, str, list[int]]]:
    """Every two labels with the places of their runs.

    >>> pairs_of(["a", "b", "a", "c"])
    [('a', 'b', [0, 1, 2]), ('a', 'c', [0, 2, 3]), ('b', 'c', [1, 3])]
    """
    return [
        (a, b, [at for at, label in enumerate(labels) if label in (a, b)])
        for a, b in combinations(dict.fromkeys(labels), 2)
    ]


def effects(
    numbers: Sequence[Mapping[str, float | int | None]], labels: Sequence[str], seed: int = 0
) -> list[tuple[str, str, str, EffectSize, EffectSize]]:
    """Effect sizes between every two labels: (label, other label, measure, Hedges' g, Cliff's delta).

    Parameters
    ----------
    numbers : sequence of mapping
        The numbers of each run, as `RunClaims.numbers`.
    labels : sequence of str
    seed
        Seeds the bootstrap intervals.
    """
    found = []
    for a, b, _ in pairs_of(labels):
        for measure in MEASURES:
            one, other = (
                np.array(
                    [n[measure] for n, name in zip(numbers, labels, strict=True) if name == label],
                    dtype=float,
                )
                for label in (a, b)
            )
            if min((~np.isnan(one)).sum(), (~np.isnan(other)).sum()) >= 2:
                found.append(
                    (a, b, measure, hedges_g(one, other, seed=seed), cliffs_delta(one, other, seed=seed))
                )
    return found


def summary_energy(
    summaries: ArrayLike, labels: Sequence[str], seed: int = 0
) -> list[tuple[str, str, PermutationTest]]:
    """Energy distance between every two labels' summaries, each number standardised: (label, other, test).

    Parameters
    ----------
    summaries : array_like, shape (n_runs, n_numbers)
        The summaries of each run at one checkpoint, its layers side by side; numbers that some run misses are left out.
    labels : sequence of str
    seed
        Seeds the random labelings.
    """
    rows = as_numbers("summaries", summaries)
    rows = rows[:, ~np.isnan(rows).any(axis=0)]
    found = []
    for a, b, _ in pairs_of(labels):
        one, other = (rows[[name == label for name in labels]] for label in (a, b))
        if min(len(one), len(other)) >= 2 and rows.shape[1]:
            found.append((a, b, energy_distance(one, other, standardise=True, seed=seed)))
    return found
