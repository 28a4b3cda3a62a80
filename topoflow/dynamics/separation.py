"""Do labels (objectives, or base and instruct) leave distinguishable trajectories?

The unit is the RUN: its checkpoints are dependent, its subsamples overlap, and all runs see the same prompts. What
counts is whether runs of different labels lie farther apart than runs of one label, which differ by their seed.

Blocks. Where runs of one seed share their start and the order of their data, they are like one another for that
reason, whatever their labels. Pass the seeds as ``blocks``: then runs of one seed are not compared, so that
"between" and "within" both compare different seeds and are equal in law if the labels mean nothing; and labels
are permuted within seeds, under which that null hypothesis is invariant. So always do in `separation`, which
describes. The tests have a choice to make, since blocks cost labelings (`count_labelings`). Without blocks, the
default, runs count as independent; where they share seeds, that makes "between" too small, and the test too
cautious, not too bold: of planted studies of three equal objectives with three shared seeds it rejected none in
300, and yet found one objective that differed in 199 of 200. Within the seeds that study has 36 labelings, of which
4 only exchange the two equal objectives, so that no difference, however large, is found in more than about one in
four. Pass blocks to the tests from 4 seeds of three labels or 6 of two on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.cells import CellDiagrams
from topoflow.dynamics.embedding import diagram_distance_matrix
from topoflow.dynamics.labelings import PermutationTest, codes_of, labelings, permutation_p
from topoflow.topology.arrays import as_array, as_numbers
from topoflow.topology.point_clouds import check_distance_matrix


@dataclass(frozen=True)
class Separation:
    """Mean distances between runs of different labels, and of one label: the floor.

    Attributes
    ----------
    between, within : ndarray of float64, shape (...)
        In filtration distance, one number for each matrix given.
    """

    between: NDArray[np.float64]
    within: NDArray[np.float64]

    @property
    def difference(self) -> NDArray[np.float64]:
        """``between - within``: around 0 if the labels mean nothing."""
        return np.asarray(self.between - self.within)

    @property
    def ratio(self) -> NDArray[np.float64]:
        """``between / within``: around 1 if the labels mean nothing; NaN where the floor is 0."""
        ratio = np.full(np.shape(self.within), np.nan)
        return np.asarray(np.divide(self.between, self.within, out=ratio, where=np.asarray(self.within > 0)))


@dataclass(frozen=True)
class Onset:
    """Since when labels are separated.

    Attributes
    ----------
    step
        First checkpoint, in optimiser steps, from which on p stays at or below the level; None if it does not
        at the last one.
    difference, p : ndarray of float64, shape (n_checkpoints,)
        Of `separation_test` at each checkpoint.
    smallest_p
        If it is above the level, None means "cannot tell".
    """

    step: int | None
    difference: NDArray[np.float64]
    p: NDArray[np.float64]
    smallest_p: float


def run_distances(
    runs: Sequence[Sequence[CellDiagrams]],
    dimension: int = 1,
    order: float = 2.0,
    n_subsamples: int | None = None,
) -> NDArray[np.float64]:
    """Compute, at each checkpoint of one layer, the distances between all runs.

    Parameters
    ----------
    runs : sequence over runs of sequences over checkpoints of cells
        The same checkpoints of every run, all under one plan.
    dimension, order, n_subsamples
        As for `diagram_distance_matrix`.

    Returns
    -------
    ndarray of float64, shape (n_checkpoints, n_runs, n_runs)
        In filtration distance.

    Raises
    ------
    ValueError
        If the runs have different numbers of checkpoints, or none, and as `diagram_distance_matrix` does.

    Examples
    --------
    >>> first, second = [[[[0, 1]], [[1, 2]]]], [[[[0, 1]], [[1, 2.5]]]]
    >>> run_distances([[first, first], [first, second]])[:, 0, 1]
    array([0. , 0.5])
    """
    lengths = [len(run) for run in runs]
    if not lengths or min(lengths) == 0:
        raise ValueError("runs must hold at least one run, and each run a checkpoint, got none")
    if len(set(lengths)) > 1:
        raise ValueError(f"runs must all have the same checkpoints, got {lengths} of them")
    checkpoints = zip(*runs, strict=True)
    return np.array([diagram_distance_matrix(cells, dimension, order, n_subsamples) for cells in checkpoints])


def trajectory_distances(distances: ArrayLike, *, equal_layers: bool = True) -> NDArray[np.float64]:
    """Average distances between runs over checkpoints and layers: the distance of whole trajectories.

    Parameters
    ----------
    distances : array_like, shape (n_layers, n_checkpoints, n_runs, n_runs)
        `run_distances` of each layer.
    equal_layers
        Divide each layer by its own mean distance first. Hidden states grow with depth, and the last layer
        would decide alone. As the mean takes no notice of labels, a permutation test stays exact. A layer
        without any distance (a constant one) is left out.

    Returns
    -------
    ndarray of float64, shape (n_runs, n_runs)
        In filtration distance, or with ``equal_layers`` in units of the mean distance.

    Raises
    ------
    ValueError
        If ``distances`` has another shape or its matrices are no distance matrices.

    Examples
    --------
    >>> near, far = np.array([[0, 1, 3], [1, 0, 2], [3, 2, 0]]), np.array([[0, 90, 90], [90, 0, 0], [90, 0, 0]])
    >>> trajectory_distances([[near], [far]])
    array([[0. , 1. , 1.5],
           [1. , 0. , 0.5],
           [1.5, 0.5, 0. ]])
    """
    stack = as_numbers("distances", distances)
    if stack.ndim != 4 or stack.size == 0:
        raise ValueError(
            f"distances must have shape (n_layers, n_checkpoints, n_runs, n_runs), got shape {stack.shape}"
        )
    layers = _check_stack(stack).mean(axis=1)
    if not equal_layers:
        return np.asarray(layers.mean(axis=0))
    n_runs = stack.shape[-1]
    sizes = layers.sum(axis=(1, 2)) / max(1, n_runs * (n_runs - 1))
    if not sizes.any():
        return np.zeros((n_runs, n_runs))
    return np.asarray((layers[sizes > 0] / sizes[sizes > 0, None, None]).mean(axis=0))


def separation(distances: ArrayLike, labels: ArrayLike, blocks: ArrayLike | None = None) -> Separation:
    """Compare runs of different labels with runs of one label, at each layer and checkpoint.

    For one pair of labels of several, pass the matrices and labels of their runs only.

    Parameters
    ----------
    distances : array_like, shape (..., n_runs, n_runs)
        Such as `run_distances` gives.
    labels : array_like, shape (n_runs,)
    blocks : array_like, shape (n_runs,), optional
        The seeds, where they are shared (see the head of this module).

    Returns
    -------
    Separation

    Raises
    ------
    ValueError
        If there is not one label a run, two runs of one label, and two labels, each pair in different blocks;
        or the matrices are no distance matrices.

    Examples
    --------
    >>> found = separation([[0, 2, 5, 6], [2, 0, 6, 5], [5, 6, 0, 3], [6, 5, 3, 0]], ["a", "a", "b", "b"])
    >>> found.between, found.within, found.ratio
    (array(5.5), array(2.5), array(2.2))
    """
    stack, codes, pairs = _check(distances, labels, blocks)
    lengths = stack[..., pairs[0], pairs[1]]
    same = codes[pairs[0]] == codes[pairs[1]]
    return Separation(
        np.asarray(lengths[..., ~same].mean(axis=-1)), np.asarray(lengths[..., same].mean(axis=-1))
    )


def separation_test(
    distances: ArrayLike,
    labels: ArrayLike,
    blocks: ArrayLike | None = None,
    *,
    n_permutations: int = 9_999,
    seed: int = 0,
) -> PermutationTest:
    """Test that runs of different labels lie farther apart than runs of one label.

    The statistic is the `difference` of `separation`. Since the sum of all distances stays the same, for
    labels with equally many runs it orders the labelings as the pseudo-F of PERMANOVA does (Anderson 2001)
    with distances in place of their squares, which is DISCO (Rizzo and Székely 2010), and for two labels as
    the energy distance does. Labels that differ in spread alone are seen, too, but less well.

    Two labels of three seeds each have ten labelings, so ``p`` is never below 0.1 and the verdict at 0.05 is
    "cannot tell" whatever the data; this is so of any pair of objectives of a study with three seeds.

    Parameters
    ----------
    distances : array_like, shape (n_runs, n_runs)
        At one checkpoint and layer, or `trajectory_distances`.
    labels : array_like, shape (n_runs,)
    blocks : array_like, shape (n_runs,), optional
        The seeds, where they are shared (see the head of this module).
    n_permutations, seed
        As for `labelings`.

    Returns
    -------
    PermutationTest

    Raises
    ------
    ValueError
        As `separation` and `labelings` do.

    Examples
    --------
    >>> runs = np.array([0.0, 1.0, 2.0, 7.0, 8.0, 9.0])
    >>> test = separation_test(abs(runs[:, None] - runs), ["a", "a", "a", "b", "b", "b"])
    >>> test.statistic.__round__(3), test.p, test.verdict()
    (5.667, 0.1, 'cannot tell')
    """
    matrix = check_distance_matrix(distances)
    differences, p, rows, exact = _permute(matrix[None], labels, blocks, n_permutations, seed)
    return PermutationTest(float(differences[0]), float(p[0]), 1 / rows, rows, exact)


def when_separated(
    distances: ArrayLike,
    steps: ArrayLike,
    labels: ArrayLike,
    blocks: ArrayLike | None = None,
    *,
    level: float = 0.05,
    n_permutations: int = 9_999,
    seed: int = 0,
) -> Onset:
    """Find the first checkpoint from which on the labels stay separated.

    `separation_test` at the last checkpoint; if p is at most the level, at the one before, and so on back
    until one fails. In this fixed order no correction for the number of checkpoints is due: an error needs
    the latest checkpoint without separation to be rejected, which happens with probability ``level`` at most.
    So, with this probability at most, ``step`` is earlier than the labels really part for good.

    Parameters
    ----------
    distances : array_like, shape (n_checkpoints, n_runs, n_runs)
        Of one layer, by `run_distances`, or a mean over layers.
    steps : array_like of int, shape (n_checkpoints,)
        Optimiser steps, strictly increasing.
    labels : array_like, shape (n_runs,)
    blocks : array_like, shape (n_runs,), optional
        The seeds, where they are shared (see the head of this module).
    level
        Between 0 and 1.
    n_permutations, seed
        As for `labelings`.

    Returns
    -------
    Onset

    Raises
    ------
    ValueError
        If there is not one increasing step a matrix, ``level`` is out of range, and as `separation_test` does.

    Examples
    --------
    >>> runs = np.array([0.0, 1.0, 2.0, 7.0, 8.0, 9.0])
    >>> late = abs(runs[:, None] - runs)
    >>> early = np.ones((6, 6)) - np.eye(6)
    >>> when_separated([early, late, late], [0, 10, 20], ["a", "a", "a", "b", "b", "b"], level=0.1).step
    10
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level!r}")
    stack, times = as_array("distances", distances), as_array("steps", steps)
    if stack.ndim != 3 or times.shape != stack.shape[:1]:
        raise ValueError(
            f"steps must name the optimiser step of each of the {len(stack)} matrices (n_checkpoints, n_runs,"
            f" n_runs), got shape {times.shape} for distances of shape {stack.shape}"
        )
    if times.dtype.kind not in "iu" or (np.diff(times) <= 0).any():
        raise ValueError(f"steps must be strictly increasing integers, got {times.tolist()}")
    differences, p, n_labelings, _ = _permute(stack, labels, blocks, n_permutations, seed)
    failed = np.flatnonzero(p > level)
    first = failed[-1] + 1 if len(failed) else 0
    step = int(times[first]) if first < len(times) else None
    return Onset(step, differences, p, 1 / n_labelings)


def _permute(
    distances: ArrayLike, labels: ArrayLike, blocks: ArrayLike | None, n_permutations: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], int, bool]:
    """Return difference and p of each matrix, the number of labelings, and whether they are all."""
    stack, codes, (i, j) = _check(distances, labels, blocks)
    rows, exact = labelings(codes, blocks, n_permutations, seed)
    same = (rows[:, i] == rows[:, j]).astype(np.float64)
    lengths = stack[:, i, j].T
    n_same = same[0].sum()  # of every labeling: labels move within their blocks only
    within = same @ lengths / n_same
    differences = (lengths.sum(axis=0) - n_same * within) / (len(i) - n_same) - within
    scale = max(float(lengths.max()), np.finfo(np.float64).tiny)
    return differences[0], permutation_p(differences, scale), len(rows), exact


def _check(
    distances: ArrayLike, labels: ArrayLike, blocks: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return the matrices, the labels as numbers, and the pairs of runs to compare."""
    stack = _check_stack(as_numbers("distances", distances))
    codes = codes_of("labels", labels)
    places = np.arange(len(codes)) if blocks is None else codes_of("blocks", blocks)
    for name, numbers in (("labels", codes), ("blocks", places)):
        if len(numbers) != stack.shape[-1]:
            raise ValueError(f"{name} must name each of the {stack.shape[-1]} runs, got {len(numbers)}")
    i, j = np.triu_indices(len(codes), k=1)
    apart = places[i] != places[j]
    i, j = i[apart], j[apart]
    same = codes[i] == codes[j]
    if not same.any() or same.all():
        missing = "of one label, for the floor" if not same.any() else "of different labels"
        raise ValueError(f"labels must leave two runs {missing}, in different blocks, got none")
    return stack, codes, (i, j)


def _check_stack(stack: NDArray[np.float64]) -> NDArray[np.float64]:
    if stack.ndim < 2 or stack.size == 0:
        raise ValueError(f"distances must have shape (..., n_runs, n_runs), got shape {stack.shape}")
    for matrix in stack.reshape(-1, *stack.shape[-2:]):
        check_distance_matrix(matrix)
    return stack
