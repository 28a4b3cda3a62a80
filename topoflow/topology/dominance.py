"""How much of a cloud lies along one direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from topoflow.topology.point_clouds import check_cloud

# From here on, one direction adds more to the mean squared distance of two points than all others together.
DOMINANT = 0.5


@dataclass(frozen=True)
class Dominance:
    """How much of a cloud's variance lies along one direction.

    Attributes
    ----------
    direction : float
        Share of the total variance along the leading direction, 0 to 1.
    coordinate : float
        Share of the coordinate with the largest variance; never above that of the direction.
    index : int
        Which coordinate that is, counted from 0.

    Examples
    --------
    >>> Dominance(direction=0.83, coordinate=0.2, index=12).dominates
    True
    """

    direction: float
    coordinate: float
    index: int

    @property
    def dominates(self) -> bool:
        """Whether more than half of the variance lies along one direction."""
        return self.direction > DOMINANT


def dominance(points: ArrayLike) -> Dominance | None:
    """Compute the shares of the total variance that the leading direction and the largest coordinate have.

    The mean squared distance of two points of a cloud is twice its total variance, direction by direction: a share of
    one is a share of the other. Use it before you trust what the diagrams of a layer say. Mind that far points are
    told apart by a leading direction first, and near ones by all the others: points on a line have no loops, and what
    loops there are beside it are those of the rest.

    Parameters
    ----------
    points : array_like, shape (n_points, n_coordinates)
        A cloud, prepared as the one that distances are taken of.

    Returns
    -------
    Dominance or None
        None where all points are one and there is no variance.

    Raises
    ------
    InvalidArgument
        As `distance_matrix` does.

    Examples
    --------
    A spread of 3 in one coordinate and of 1 in another: 9 / 10 of the variance.

    >>> found = dominance([[0.0, 3.0], [0.0, -3.0], [1.0, 0.0], [-1.0, 0.0]])
    >>> round(found.direction, 12), round(found.coordinate, 12), found.index
    (0.9, 0.9, 1)

    As much on a slant: a direction need be no coordinate.

    >>> found = dominance([[3.0, 3.0], [-3.0, -3.0], [1.0, -1.0], [-1.0, 1.0]])
    >>> round(found.direction, 12), round(found.coordinate, 12)
    (0.9, 0.5)
    """
    cloud = check_cloud("points", points)
    cloud = cloud / (np.abs(cloud).max() or 1.0)  # squares of the largest numbers are no floats
    cloud -= cloud[0]
    if not (spread := np.abs(cloud).max()):
        return None
    centred = cloud / spread
    centred -= centred.mean(axis=0)
    variances = (centred**2).sum(axis=0)
    total = variances.sum()
    with threadpool_limits(1, user_api="blas"):  # on more it rounds otherwise
        gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
        leading = np.linalg.eigvalsh(gram)[-1]
    index = int(variances.argmax())
    coordinate = float(variances[index] / total)
    return Dominance(min(max(float(leading / total), coordinate), 1.0), coordinate, index)
