"""Checkpoints as points: all cells of a study on one map, in which distance is Wasserstein distance."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.cells import CellDiagrams, cell_distances
from topoflow.errors import InvalidArgument, Words
from topoflow.topology.point_clouds import LARGEST_PLAN, check_distance_matrix, check_whole_number


@dataclass(frozen=True)
class Embedding:
    """Points whose Euclidean distances approximate given distances, and how well they can.

    Attributes
    ----------
    coordinates : ndarray of float64, shape (n_points, n_components)
        Centred, in the unit of the distances; axes in order of their share.
    shown
        Share of the variance along all real axes that these axes show, between 0 and 1; NaN when all
        distances are 0.
    not_euclidean
        Share of the negative eigenvalues in the sum of all absolute ones, between 0 and 1/2: what no
        Euclidean map of any dimension can show. 0 for Euclidean distances; NaN when all distances are 0.

    Examples
    --------
    >>> found = classical_mds([[0, 2], [2, 0]], n_components=1)
    >>> found.coordinates.round(9).tolist(), found.shown
    ([[1.0], [-1.0]], 1.0)
    """

    coordinates: NDArray[np.float64]
    shown: float
    not_euclidean: float


def classical_mds(distances: ArrayLike, n_components: int = 2) -> Embedding:
    r"""Embed points by classical multidimensional scaling.

    The eigenvectors of

    .. math:: B = -\tfrac{1}{2} J D^{(2)} J, \qquad J = I - \tfrac{1}{n} 1 1^T,

    with :math:`D^{(2)}` the squared distances, scaled by the roots of their eigenvalues (Torgerson 1952). It
    is PCA where the distances are Euclidean. Wasserstein distances between diagrams are not: the space of
    diagrams embeds into no Hilbert space, so some eigenvalues are negative, and their share is reported;
    `sklearn.manifold.ClassicalMDS` has no such share, and makes NaN of a negative eigenvalue.
    Signs are fixed by making the largest coordinate of each axis positive (the first of equal ones).

    Parameters
    ----------
    distances : array_like, shape (n_points, n_points)
    n_components
        Number of axes, 1 or more. Axes beyond the number of positive eigenvalues are all 0.

    Returns
    -------
    Embedding

    Raises
    ------
    InvalidArgument
        If ``distances`` is no distance matrix, or ``n_components`` is not a whole number of at least 1.

    Examples
    --------
    >>> on_a_line = classical_mds([[0, 1, 3], [1, 0, 2], [3, 2, 0]], n_components=1)
    >>> (on_a_line.coordinates - on_a_line.coordinates[0]).round(6).ravel().tolist()
    [0.0, 1.0, 3.0]
    >>> round(on_a_line.shown, 6), on_a_line.not_euclidean
    (1.0, 0.0)
    """
    matrix = check_distance_matrix(distances)
    n_components = check_whole_number("n_components", n_components, at_least=1)
    scale = matrix.max()
    coordinates = np.zeros((len(matrix), n_components))
    if scale == 0:
        return Embedding(coordinates, np.nan, np.nan)
    squares = (matrix / scale) ** 2  # at most 1: no overflow
    squares -= squares.mean(axis=0)
    squares -= squares.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(-0.5 * squares)
    # J itself has the eigenvalue 0, which rounding makes a little positive or negative.
    values[np.abs(values) <= 1e-12 * np.abs(values).max() * len(values)] = 0.0
    positive = np.maximum(values[::-1], 0.0)
    axes = np.sqrt(positive[:n_components]) * vectors[:, ::-1][:, :n_components] * scale
    coordinates[:, : axes.shape[1]] = axes * _signs(axes)
    shown = positive[:n_components].sum() / positive.sum()
    return Embedding(coordinates, float(shown), float(-values[values < 0].sum() / np.abs(values).sum() + 0.0))


def diagram_distance_matrix(
    cells: Sequence[CellDiagrams], dimension: int = 1, order: float = 2.0, n_subsamples: int | None = None
) -> NDArray[np.float64]:
    """Compute the mean Wasserstein distance between every two cells, subsample by subsample.

    It is a metric on cells under one plan, being a mean of metrics.

    It costs n_cells (n_cells - 1) / 2 times `cell_distances`. On one core, with 64 subsamples of 160 points
    and some 110 H1 bars each, a pair of cells takes 6 ms in H1 and 3 ms in H0 (10 ms in H1 at 230 bars): 9 runs
    of 14 checkpoints, 7,875 pairs, take 45 s a layer, and a quarter of that with ``n_subsamples=16``. The
    subsamples overlap, so the mean over a quarter of them is hardly less certain.

    Parameters
    ----------
    cells : sequence of sequences of [H0, H1]
        Cells under one plan, such as all checkpoints of all runs at one layer.
    dimension
        The dimension of homology, 0 or 1.
    order
        The order of the Wasserstein distance; the ground metric is Euclidean.
    n_subsamples
        Compare only the first so many subsamples of each cell; None compares all.

    Returns
    -------
    ndarray of float64, shape (n_cells, n_cells)
        In filtration distance; exactly symmetric, exactly 0 on the diagonal.

    Raises
    ------
    InvalidArgument
        If there is no cell, the cells have different numbers of subsamples, ``n_subsamples`` exceeds it, or a
        distance is infinite; as `cell_distances` does.

    Examples
    --------
    >>> cells = [[[[[0, 1]], [[1, 2]]]], [[[[0, 1]], [[1, 2.5]]]], [[[[0, 1]], [[1, 4]]]]]
    >>> diagram_distance_matrix(cells, dimension=1)
    array([[0. , 0.5, 2. ],
           [0.5, 0. , 1.5],
           [2. , 1.5, 0. ]])
    """
    sizes = [len(cell) for cell in cells]
    if not sizes or min(sizes) == 0:
        raise InvalidArgument("cells", "at least one cell, and each of at least one subsample", Words("none"))
    for k, size in enumerate(sizes):
        if size != sizes[0]:
            raise InvalidArgument(f"cells[{k}]", f"of as many subsamples as the first ({sizes[0]})", size)
    if n_subsamples is not None:
        n_subsamples = check_whole_number("n_subsamples", n_subsamples, at_least=1, at_most=LARGEST_PLAN)
        if n_subsamples > sizes[0]:
            raise InvalidArgument("n_subsamples", f"at most that of the cells ({sizes[0]})", n_subsamples)
    matrix = np.zeros((len(cells), len(cells)))
    for i, j in itertools.combinations(range(len(cells)), 2):
        distances = cell_distances(cells[i][:n_subsamples], cells[j][:n_subsamples], dimension, order)
        matrix[i, j] = matrix[j, i] = distances.mean()
    if not np.isfinite(matrix).all():
        i, j = (int(index) for index in np.argwhere(~np.isfinite(matrix))[0])
        got = Words(f"an infinite distance of cells {i}, {j}")
        raise InvalidArgument("cells", "of equal numbers of infinite bars", got)
    return matrix


def _signs(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    size = np.abs(axes)
    # The first of those that differ from the largest by rounding only, so that the choice is stable.
    first = np.argmax(size >= (1 - 1e-9) * size.max(axis=0, initial=0.0), axis=0)
    largest = np.take_along_axis(axes, first[None], axis=0)[0]
    return np.where(largest < 0, -1.0, 1.0)
