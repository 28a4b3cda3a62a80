"""The plain geometry of a cloud and how fast it changes, which topology must be held against."""

from __future__ import annotations

import numpy as np

from topoflow.dynamics.measures.measure import Cell


def centroid_drift(before: Cell, after: Cell) -> float:
    """Compute how far the mean moves, in filtration distance.

    >>> square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> centroid_drift(Cell(square, []), Cell(square + [3.0, 4.0], []))
    5.0
    """
    change = after.cloud.mean(axis=0) - before.cloud.mean(axis=0)
    return float(np.linalg.norm(change[None], axis=1)[0])


def variance_change(before: Cell, after: Cell) -> float:
    """Compute by how much the total variance changes, in squared filtration distance; a shrinking cloud changes too.

    >>> square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> variance_change(Cell(square, []), Cell(2 * square, []))
    1.5
    """
    one, other = (float(cell.cloud.var(axis=0).sum()) for cell in (before, after))
    return abs(other - one)


def distance_change(before: Cell, after: Cell) -> float:
    """Compute by how much the mean distance of two prompts changes, in filtration distance.

    >>> distance_change(Cell(np.array([[0.0], [1.0]]), []), Cell(np.array([[0.0], [3.0]]), []))
    2.0
    """
    return abs(float(after.distances.mean()) - float(before.distances.mean()))


def mean_distance(cell: Cell) -> float:
    """Compute the mean distance of two prompts, the scale of a cloud, in filtration distance.

    >>> mean_distance(Cell(np.array([[0.0], [1.0], [3.0]]), []))
    2.0
    """
    return float(cell.distances.mean())
