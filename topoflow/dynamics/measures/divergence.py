"""Representation topology divergence: where two clouds of the same prompts join or have loops at other distances."""

from __future__ import annotations

import math

import numpy as np

from topoflow.dynamics.measures.measure import Cell, Matrix
from topoflow.topology.persistence import vietoris_rips_diagrams

# Of each cell: the mean over a quarter of the overlapping subsamples is hardly less certain, and four times cheaper.
_SUBSAMPLES = 16
_UNIT = 0.9  # quantile of the distances that its authors divide by


def rtd(before: Cell, after: Cell) -> float:
    """Compute the representation topology divergence of two cells, in filtration distance.

    The mean over the first 16 subsamples of `divergence_of` their distances, in both directions.

    Returns
    -------
    float
        In filtration distance; 0 where all distances are the same.

    Examples
    --------
    >>> cloud = np.random.default_rng(0).normal(size=(12, 3))
    >>> rtd(Cell(cloud, []), Cell(cloud + 1, [])), rtd(Cell(cloud, []), Cell(2 * cloud, [])) > 0
    (0.0, True)
    """
    return _divergence(before, after, 1.0, 1.0)


def rtd_scale_free(before: Cell, after: Cell) -> float:
    """Compute the same of distances divided by their 0.9 quantile, each cloud by its own, as its authors define it.

    Returns
    -------
    float
        No unit; NaN where the quantile of a cloud is 0.

    Examples
    --------
    >>> cloud = np.random.default_rng(0).normal(size=(12, 3))
    >>> rtd_scale_free(Cell(cloud, []), Cell(2 * cloud, []))
    0.0
    """
    units = [float(np.quantile(cell.distances, _UNIT)) for cell in (before, after)]
    return _divergence(before, after, *units) if min(units) > 0 else math.nan


def divergence_of(one: Matrix, other: Matrix) -> float:
    r"""Compute how far one filtration of the prompts is from another in one direction: the sum of RTD's bars in H1.

    Barannikov, Trofimov, Balabin and Burnaev (arXiv:2201.00058): an edge of the graph of `one` enters at its length w,
    in the joint graph at :math:`\min(w, \tilde w)`. The bars are those of homology of the joint complex relative to
    that of `one`. They are read off a Vietoris-Rips filtration of twice as many points, with distances

    .. math:: \begin{pmatrix} 0 & w \\ w & \min(w, \tilde w) \end{pmatrix}

    in which the first copy of all points is one point (as in its authors' code).

    Parameters
    ----------
    one, other : ndarray, shape (n, n)
        Distances of the same points in the two clouds.

    Returns
    -------
    float
        In the unit of the distances; 0 where no distance of `other` is the smaller one.

    Examples
    --------
    >>> far, near = np.array([[0.0, 5.0], [5.0, 0.0]]), np.array([[0.0, 2.0], [2.0, 0.0]])
    >>> divergence_of(far, near), divergence_of(near, far)  # joined at 2, and not at 5
    (3.0, 0.0)
    """
    n = len(one)
    doubled = np.zeros((2 * n, 2 * n))
    doubled[n:, n:] = np.minimum(one, other)
    doubled[n:, :n] = doubled[:n, n:] = one
    bars = vietoris_rips_diagrams(doubled, metric="precomputed")[1]
    return float(np.sum(bars[:, 1] - bars[:, 0]))


def _divergence(before: Cell, after: Cell, unit: float, unit_after: float) -> float:
    plan = np.arange(len(before.cloud))[None] if before.plan is None else before.plan[:_SUBSAMPLES]
    found = []
    for row in plan:
        chosen = np.ix_(row, row)
        one, other = before.distance_matrix[chosen] / unit, after.distance_matrix[chosen] / unit_after
        found += [divergence_of(one, other), divergence_of(other, one)]
    return float(np.mean(found))
