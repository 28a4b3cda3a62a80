"""How far the diagrams of two cells are apart as functions that know no scale: silhouettes and landscapes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from topoflow.dynamics.features import GRID, WIDTH, mean_silhouette
from topoflow.dynamics.measures.measure import Cell, Matrix
from topoflow.topology.persistence import finite_bars


def silhouette_distance(before: Cell, after: Cell, homology: int) -> float:
    """Compute the L2 distance of two cells' mean silhouettes, each cloud in units of its median distance.

    Returns
    -------
    float
        No unit; NaN where a median distance is 0, or the cells have no diagrams of this homology.

    Examples
    --------
    >>> square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> loop = [np.empty((0, 2)), np.array([[1.0, 2**0.5]])]
    >>> grown = Cell(3 * square, [[bars * 3 for bars in loop]])
    >>> round(silhouette_distance(Cell(square, [loop]), grown, homology=1), 9)  # the scale alone has changed
    0.0
    """
    if not _has(before, after, homology):
        return math.nan
    one, other = (cell.kept(_mean_silhouette, homology) for cell in (before, after))
    return float(np.linalg.norm(other - one))


def landscape_distance(before: Cell, after: Cell, homology: int) -> float:
    """Compute the L2 distance of two cells' mean landscapes, all levels, each cloud in units of its median distance.

    Returns
    -------
    float
        No unit; NaN where a median distance is 0, or the cells have no diagrams of this homology.

    Examples
    --------
    >>> square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> cell = Cell(square, [[np.empty((0, 2)), np.array([[1.0, 2**0.5]])]])
    >>> landscape_distance(cell, cell, homology=1)
    0.0
    """
    if not _has(before, after, homology):
        return math.nan
    one, other = (cell.kept(_mean_landscape, homology) for cell in (before, after))
    n_levels = max(len(one), len(other))
    one, other = (np.pad(of, ((0, n_levels - len(of)), (0, 0))) for of in (one, other))
    return float(np.linalg.norm(other - one))


def landscape(diagram: ArrayLike, unit: float = 1.0) -> Matrix:
    r"""Compute the landscape of one diagram on `topoflow.dynamics.features.GRID`.

    The level k at t is the k-th largest of the tents :math:`\max(0, \min(t - b_i, d_i - t))` (Bubenik, JMLR 16, 2015).

    Parameters
    ----------
    diagram : array_like, shape (n_bars, 2)
        Finite bars.
    unit
        Filtration distance that counts as 1.

    Returns
    -------
    ndarray of float64, shape (n_bars, 100)

    Examples
    --------
    >>> landscape([[0.0, 1.0], [0.5, 1.5]]).max(axis=1).round(1).tolist()  # peaks of the union and of the overlap
    [0.5, 0.2]
    """
    bars = np.asarray(diagram, dtype=np.float64) / unit
    tents = np.maximum(np.minimum(GRID - bars[:, :1], bars[:, 1:] - GRID), 0.0)
    return np.asarray(np.sort(tents, axis=0)[::-1])


def _mean_silhouette(cell: Cell, homology: int) -> Matrix:
    return mean_silhouette([finite_bars(of[homology]) for of in cell.diagrams], cell.median_distance)


def _mean_landscape(cell: Cell, homology: int) -> Matrix:
    """Mean over subsamples, times the root of the grid's spacing; a level that a subsample lacks is 0 there."""
    bars = [finite_bars(of[homology]) for of in cell.diagrams]
    total = np.zeros((max(map(len, bars)), len(GRID)))
    for diagram in bars:
        total[: len(diagram)] += landscape(diagram, cell.median_distance)
    return np.asarray(total * (WIDTH / len(bars)))


def _has(before: Cell, after: Cell, homology: int) -> bool:
    return all(
        cell.diagrams and len(cell.diagrams[0]) > homology and cell.median_distance > 0
        for cell in (before, after)
    )
