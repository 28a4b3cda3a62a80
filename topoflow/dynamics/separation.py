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

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.labelings import codes_of
from topoflow.errors import InvalidArgument
from topoflow.topology.arrays import as_numbers
from topoflow.topology.point_clouds import check_distance_matrix


@dataclass(frozen=True)
class Separation:
    """Mean distances between runs of different labels, and of one label: the floor.

    Attributes
    ----------
    between, within : ndarray of float64, shape (...)
        In filtration distance, one number for each matrix given.

    Examples
    --------
    >>> found = Separation(between=np.array(6.0), within=np.array(2.0))
    >>> found.difference, found.ratio
    (array(4.), array(3.))
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


def trajectory_distances(distances: ArrayLike, *, equal_layers: bool = True) -> NDArray[np.float64]:
    """Average distances between runs over checkpoints and layers: the distance of whole trajectories.

    Parameters
    ----------
    distances : array_like, shape (n_layers, n_checkpoints, n_runs, n_runs)
        At each checkpoint of each layer, of the runs from one another, as `diagram_distance_matrix` gives them.
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
    InvalidArgument
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
        expected = "of shape (n_layers, n_checkpoints, n_runs, n_runs)"
        raise InvalidArgument("distances", expected, stack.shape)
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
        In filtration distance.
    labels : array_like, shape (n_runs,)
    blocks : array_like, shape (n_runs,), optional
        The seeds, where they are shared (see the head of this module).

    Returns
    -------
    Separation

    Raises
    ------
    InvalidArgument
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


def _check(
    distances: ArrayLike, labels: ArrayLike, blocks: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return the matrices, the labels as numbers, and the pairs of runs to compare."""
    stack = _check_stack(as_numbers("distances", distances))
    n_runs = stack.shape[-1]
    codes = codes_of("labels", labels, n_runs, "runs")
    places = np.arange(n_runs) if blocks is None else codes_of("blocks", blocks, n_runs, "runs")
    i, j = np.triu_indices(len(codes), k=1)
    apart = places[i] != places[j]
    i, j = i[apart], j[apart]
    same = codes[i] == codes[j]
    if not same.any() or same.all():
        missing = "of different labels" if same.any() else "of one label"
        expected = f"such that two runs {missing} are in different blocks"
        raise InvalidArgument("labels", expected, labels)
    return stack, codes, (i, j)


def _check_stack(stack: NDArray[np.float64]) -> NDArray[np.float64]:
    if stack.ndim < 2 or stack.size == 0:
        raise InvalidArgument("distances", "of shape (..., n_runs, n_runs)", stack.shape)
    for matrix in stack.reshape(-1, *stack.shape[-2:]):
        check_distance_matrix(matrix)
    return stack
