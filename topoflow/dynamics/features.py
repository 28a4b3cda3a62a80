"""Vectors of a cell whose differences are movement: scale-free silhouettes of H1, sorted deaths of H0."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.dynamics.cells import CellDiagrams

H1, H0 = "H1", "H0"
HOMOLOGY = (H1, H0)
GRID = np.linspace(0, 2.5, 100)  # filtration distance, in units of a median distance
WIDTH = math.sqrt(GRID[1] - GRID[0])  # makes the Euclidean norm of a vector that of the function


def silhouette(diagram: ArrayLike, unit: float = 1.0) -> NDArray[np.float64]:
    r"""Compute the persistence-weighted silhouette of one H1 diagram on `GRID`.

    .. math:: \phi(t) = \sum_i w_i \Lambda_i(t) \Big/ \sum_i w_i, \qquad w_i = d_i - b_i

    with the tent :math:`\Lambda_i(t) = \max(0, \min(t - b_i, d_i - t))` (Chazal et al. 2014, power 1).

    Parameters
    ----------
    diagram : array_like, shape (n_bars, 2)
        Finite bars.
    unit
        Filtration distance that counts as 1.

    Returns
    -------
    ndarray of float64, shape (100,)
        All 0 for a diagram of no bars.

    Examples
    --------
    >>> float(silhouette([[0.5, 1.5]]).max().round(2)), float(silhouette([[5, 15]], unit=10).max().round(2))
    (0.49, 0.49)
    """
    bars = np.asarray(diagram, dtype=np.float64) / unit
    weights = bars[:, 1] - bars[:, 0]
    total = weights.sum()
    if not total > 0:
        return np.zeros_like(GRID)
    tents = np.maximum(np.minimum(GRID - bars[:, :1], bars[:, 1:] - GRID), 0.0)
    return np.asarray(weights @ tents / total)


def mean_silhouette(diagrams: Sequence[ArrayLike], unit: float = 1.0) -> NDArray[np.float64]:
    """Average the silhouettes of diagrams, as a vector whose Euclidean norm is that of the function.

    Parameters
    ----------
    diagrams : sequence of array_like, each of shape (n_bars, 2)
        Finite bars, a diagram a subsample.
    unit
        Filtration distance that counts as 1.

    Returns
    -------
    ndarray of float64, shape (100,)
        The mean times the square root of the grid's spacing.

    Examples
    --------
    >>> one, half = (mean_silhouette(of) for of in ([[[0.5, 1.5]]], [[[0.5, 1.5]], np.empty((0, 2))]))
    >>> bool(np.allclose(one, 2 * half))
    True
    """
    return np.asarray(np.mean([silhouette(diagram, unit) for diagram in diagrams], axis=0) * WIDTH)


def cell_vectors(cell: CellDiagrams, size: int, unit: float) -> dict[str, NDArray[np.float64]]:
    """Average over a cell's subsamples the two vectors whose squared Euclidean differences are movement.

    Parameters
    ----------
    cell : sequence of [H0, H1]
    size
        Points of a subsample.
    unit
        Filtration distance that counts as 1: the cloud's own median distance for vectors that know no scale, or
        one unit for all clouds of a run.

    Returns
    -------
    dict
        `H1`: the silhouette of shape (100,), times the square root of the grid's spacing. `H0`: the sorted deaths, of
        shape (size - 1,), those of length zero first. Both all 0 where the unit is.

    Examples
    --------
    >>> cell_vectors([[[[0, 1], [0, 3], [0, np.inf]], np.empty((0, 2))]], size=3, unit=2.0)["H0"]
    array([0.5, 1.5])
    """
    if not unit > 0:
        return {H1: np.zeros_like(GRID), H0: np.zeros(size - 1)}
    loops = mean_silhouette([pair[1] for pair in cell], unit)
    return {H1: loops, H0: np.mean([_sorted_deaths(pair[0], size) for pair in cell], axis=0) / unit}


def _sorted_deaths(diagram: ArrayLike, size: int) -> NDArray[np.float64]:
    deaths = np.asarray(diagram, dtype=np.float64)[:, 1]
    deaths = np.sort(deaths[np.isfinite(deaths)])
    return np.concatenate([np.zeros(size - 1 - len(deaths)), deaths])


def side_by_side(layers: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Pool layers by putting their vectors side by side.

    The movement of the pool is the mean of the layers' movements. What layers share, jitter above all, so stays in the
    error of the pooled movement.

    Parameters
    ----------
    layers : sequence of ndarray, each of shape (n_checkpoints, n_features)

    Returns
    -------
    ndarray of float64, shape (n_checkpoints, sum of all n_features)
        Divided by the root of the number of layers.

    Examples
    --------
    >>> pooled = side_by_side([np.array([[0.0], [2.0]]), np.array([[0.0], [4.0]])])
    >>> float(np.sum(np.diff(pooled, axis=0) ** 2).round(9))  # the mean of 4 and 16
    10.0
    """
    return np.concatenate(layers, axis=1) / math.sqrt(len(layers))
